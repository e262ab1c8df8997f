//! Factors as signed bytes: half of float16's memory traffic, which is what decoding with many adapters is bound by.
//!
//! A scale spans one row of A, or the 32 outputs of one panel for one adapter row of B (on a device one row of B): a large
//! weight costs precision only among its neighbours. Rounding is to nearest, so an element is off by at most half a scale:
//! 1/254 of the largest element that shares it, 1/252 in panels of B, whose scales are rounded up to bfloat16.

use super::pack::pack_groups;
use crate::kernels::lora::{PANEL, SCALE_BYTES, Stored};
use crate::kernels::simd::LANES;

/// Largest magnitude of a quantised element; −128 stays unused, so that a negated factor has negated bytes.
const LARGEST: f32 = 127.0;
/// Elements below this are zero: their scale would leave float32's normal range.
const SMALLEST: f32 = 1e-30;

/// Packs rows of `width` elements as `Shrink::a` wants them; returns the rows' scales.
pub fn pack_a(rows: &[f32], width: usize, packed: &mut [u8]) -> Vec<f32> {
    let mut bytes = vec![0u8; rows.len()];
    let scales = quantise_rows(rows, width, &mut bytes);
    let rows: Vec<&[u8]> = bytes.chunks_exact(width).collect();
    pack_groups::<LANES>(&rows, Stored::Int8.a_size(1, width), packed);
    scales
}

/// Rows of `width` elements, each by itself: their bytes in the same order, and their scales.
pub fn quantise_rows(rows: &[f32], width: usize, bytes: &mut [u8]) -> Vec<f32> {
    let pieces = rows.chunks_exact(width).zip(bytes.chunks_exact_mut(width));
    pieces
        .map(|(row, bytes)| {
            let scale = largest(row) / LARGEST;
            quantise(row, scale, bytes);
            scale
        })
        .collect()
}

/// Packs `b` [out, rank] as `Expand::b` wants it.
pub fn pack_b(b: &[f32], rank: usize, packed: &mut [u8]) {
    let panels = packed.chunks_exact_mut(Stored::Int8.panel_size(rank));
    for (rows, packed) in b.chunks(PANEL * rank).zip(panels) {
        let (scales, elements) = packed.split_at_mut(rank * SCALE_BYTES);
        let places = scales.as_chunks_mut::<SCALE_BYTES>().0.iter_mut().zip(elements.as_chunks_mut::<PANEL>().0);
        for (j, (place, elements)) in places.enumerate() {
            let mut column = [0.0f32; PANEL];
            for (value, row) in column.iter_mut().zip(rows.chunks_exact(rank)) {
                *value = row[j];
            }
            let bits = round_up(largest(&column) / LARGEST);
            *place = bits.to_le_bytes();
            quantise(&column, f32::from_bits(u32::from(bits) << 16), elements);
        }
    }
}

/// Largest magnitude; 0 where all are too small to matter.
fn largest(values: &[f32]) -> f32 {
    let top = values.iter().fold(0.0f32, |top, v| top.max(v.abs()));
    if top < SMALLEST { 0.0 } else { top }
}

/// The upper half of a float32 not below `scale` (finite, ≥ 0): bfloat16.
fn round_up(scale: f32) -> u16 {
    let bits = scale.to_bits();
    #[allow(clippy::cast_possible_truncation, reason = "the upper half of 32 bits")]
    let upper = (bits >> 16) as u16;
    if bits.trailing_zeros() >= 16 { upper } else { upper + 1 }
}

#[allow(clippy::cast_possible_truncation, reason = "clamped to what a byte holds")]
fn quantise(values: &[f32], scale: f32, bytes: &mut [u8]) {
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for (byte, value) in bytes.iter_mut().zip(values) {
        *byte = ((value * inverse).round_ties_even().clamp(-LARGEST, LARGEST) as i8).cast_unsigned();
    }
}
