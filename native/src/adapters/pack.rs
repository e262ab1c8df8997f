//! The layouts that kernels read: groups of rows for A, panels of columns for B.

use crate::kernels::lora::{GROUP, PANEL, Stored};
use crate::kernels::simd::{Dtype, LANES};
use crate::pace;

/// Groups of adapter rows whose vectors alternate (`Shrink::a`), from rows [width] of `dtype`; what pads a row is zero.
pub fn pack_rows(dtype: Dtype, rows: &[&[u8]], width: usize, packed: &mut [u8]) {
    let row_size = Stored::Float(dtype).a_size(1, width);
    match dtype {
        Dtype::F32 => pack_groups::<{ LANES * 4 }>(rows, row_size, packed),
        Dtype::F16 | Dtype::Bf16 => pack_groups::<{ LANES * 2 }>(rows, row_size, packed),
    }
}

/// The same for rows whose vectors are `VECTOR` bytes; `row_size` is a whole number of them.
pub fn pack_groups<const VECTOR: usize>(rows: &[&[u8]], row_size: usize, packed: &mut [u8]) {
    for (group, packed) in rows.chunks(GROUP).zip(packed.chunks_mut(GROUP * row_size)) {
        pace::worked(packed.len());
        let packed = packed.as_chunks_mut::<VECTOR>().0;
        for (j, row) in group.iter().enumerate() {
            let (vectors, rest) = row.as_chunks::<VECTOR>();
            let mut places = packed.iter_mut().skip(j).step_by(group.len());
            for (vector, place) in vectors.iter().zip(&mut places) {
                *place = *vector;
            }
            if let Some(place) = places.next().filter(|_| !rest.is_empty()) {
                place[..rest.len()].copy_from_slice(rest);
                place[rest.len()..].fill(0);
            }
        }
    }
}

/// `dtype` [panels, rank, PANEL] from [out, rank]: what one panel of outputs needs lies together. Outputs past `out` are zero.
pub fn pack_panels(dtype: Dtype, b: &[u8], rank: usize, packed: &mut [u8]) {
    match dtype {
        Dtype::F32 => panels::<4>(b, rank, packed),
        Dtype::F16 | Dtype::Bf16 => panels::<2>(b, rank, packed),
    }
}

fn panels<const SIZE: usize>(b: &[u8], rank: usize, packed: &mut [u8]) {
    let rows = b.as_chunks::<SIZE>().0.chunks(PANEL * rank);
    for (rows, packed) in rows.zip(packed.as_chunks_mut::<SIZE>().0.chunks_exact_mut(PANEL * rank)) {
        pace::worked(packed.len() * SIZE);
        if rows.len() < packed.len() {
            packed.fill([0; SIZE]);
        }
        for (lane, row) in rows.chunks_exact(rank).enumerate() {
            for (place, value) in packed[lane..].iter_mut().step_by(PANEL).zip(row) {
                *place = *value;
            }
        }
    }
}

/// Narrows `values` to `dtype`; exact, because `dtype` is what they came as or wider.
pub fn pack(dtype: Dtype, values: &[f32], out: &mut [u8]) {
    match dtype {
        Dtype::F32 => out.as_chunks_mut::<4>().0.iter_mut().zip(values).for_each(|(o, v)| *o = v.to_le_bytes()),
        Dtype::F16 => out.as_chunks_mut::<2>().0.iter_mut().zip(values).for_each(|(o, v)| *o = half::f16::from_f32(*v).to_le_bytes()),
        Dtype::Bf16 => out.as_chunks_mut::<2>().0.iter_mut().zip(values).for_each(|(o, v)| *o = half::bf16::from_f32(*v).to_le_bytes()),
    }
}

/// Widens as many elements of `dtype` as `out` holds; exact.
pub fn unpack(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F32 => out.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(o, b)| *o = f32::from_le_bytes(*b)),
        Dtype::F16 => out.iter_mut().zip(bytes.as_chunks::<2>().0).for_each(|(o, b)| *o = half::f16::from_le_bytes(*b).to_f32()),
        Dtype::Bf16 => out.iter_mut().zip(bytes.as_chunks::<2>().0).for_each(|(o, b)| *o = half::bf16::from_le_bytes(*b).to_f32()),
    }
}
