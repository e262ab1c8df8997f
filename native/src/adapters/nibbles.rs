//! Factors in 4 bits: a quarter of float16's memory traffic and an eighth more for scales.
//!
//! Some 32 numbers share a scale: in A one lane's of a block, in B the outputs of one panel for one adapter row. Codes are
//! −8 … 7 times a scale of either sign, so the largest of them may take the −8. Of eight scales the one with the least
//! squared error is taken and fitted once more to the codes that it gave: trained factors are then off by 0.067 to 0.073 of
//! their norm, where the largest number over 7 is off by 0.077 to 0.086; all scales of a fine grid would leave 0.5 % less.

use crate::kernels::lora::{GROUP, NIBBLE_STEP, PANEL, SCALE_BYTES, Stored, block_inputs};
use crate::kernels::simd::LANES;
use crate::pace;
use half::bf16;

/// A vector of every group that is fitted beside others, one a lane.
type Vector = [f32; LANES];

/// Codes reach from −8 to 7.
const LOWEST: f32 = -8.0;
const HIGHEST: f32 = 7.0;
/// What the number of the largest magnitude becomes before it is rounded, in steps.
const LARGEST_IN_STEPS: [f32; 8] = [-8.5, -8.0, -7.5, -7.0, -6.5, 7.5, 7.0, 6.5];
/// Numbers below this are zero: their scale would leave float32's normal range.
const SMALLEST: f32 = 1e-30;
/// 1.5 · 2²³: adding and taking it away rounds to the nearest whole number, ties to even, without a call.
const ROUNDING: f32 = 12_582_912.0;

/// Packs rows of `width` numbers as `Shrink::a` wants them.
pub fn pack_a(rows: &[f32], width: usize, packed: &mut [u8]) {
    let row_size = Stored::Int4.row_size(width);
    for (group, mut packed) in rows.chunks(GROUP * width).zip(packed.chunks_mut(GROUP * row_size)) {
        pace::worked(packed.len());
        let count = group.len() / width;
        for first in (0..width).step_by(block_inputs(width)) {
            let inputs = first..width.min(first + block_inputs(width));
            let (scales, rest) = packed.split_at_mut(count * LANES * SCALE_BYTES);
            let (steps, rest) = rest.split_at_mut(inputs.len().div_ceil(NIBBLE_STEP) * count * LANES);
            packed = rest;
            for (j, row) in group.chunks_exact(width).enumerate() {
                let codes = fit(&vectors(&row[inputs.clone()]), &mut scales[j * LANES * SCALE_BYTES..]);
                for (pair, step) in codes.chunks_exact(2).zip(steps.as_chunks_mut::<LANES>().0.iter_mut().skip(j).step_by(count)) {
                    *step = std::array::from_fn(|lane| pair[0][lane] | pair[1][lane] << 4);
                }
            }
        }
    }
}

/// Packs `b` [out, rank] as `Expand::b` wants it.
pub fn pack_b(b: &[f32], rank: usize, packed: &mut [u8]) {
    let panels = packed.chunks_exact_mut(rank * Stored::Int4.panel_row_size());
    for (rows, packed) in b.chunks(PANEL * rank).zip(panels) {
        pace::worked(packed.len());
        let (scales, elements) = packed.split_at_mut(rank * SCALE_BYTES);
        for first in (0..rank).step_by(LANES) {
            let count = LANES.min(rank - first);
            // A lane is an adapter row.
            let mut outputs = [[0.0; LANES]; PANEL];
            for (output, row) in outputs.iter_mut().zip(rows.chunks_exact(rank)) {
                output[..count].copy_from_slice(&row[first..first + count]);
            }
            let codes = fit(&outputs, &mut scales[first * SCALE_BYTES..(first + count) * SCALE_BYTES]);
            let (low, high) = codes.split_at(LANES);
            for (j, step) in elements.as_chunks_mut::<LANES>().0[first..first + count].iter_mut().enumerate() {
                *step = std::array::from_fn(|lane| low[lane][j] | high[lane][j] << 4);
            }
        }
    }
}

/// Whole steps of a row, zeros behind its end.
fn vectors(row: &[f32]) -> Vec<Vector> {
    let mut vectors = vec![[0.0; LANES]; 2 * row.len().div_ceil(NIBBLE_STEP)];
    vectors.as_flattened_mut()[..row.len()].copy_from_slice(row);
    vectors
}

/// Writes the scales of the lanes, as many as there is room for, and returns each number's code, the lower four bits.
fn fit(vectors: &[Vector], scales: &mut [u8]) -> Vec<[u8; LANES]> {
    let largest = vectors.iter().fold([0.0f32; LANES], |top, v| lanes(|i| if v[i].abs() > top[i].abs() { v[i] } else { top[i] }));
    let largest = largest.map(|top| if top.abs() < SMALLEST { 0.0 } else { top });
    // Errors are compared in units of the largest, so that no square leaves float32's range.
    let units: Vec<Vector> = vectors.iter().map(|v| lanes(|i| if largest[i] == 0.0 { 0.0 } else { v[i] / largest[i] })).collect();
    let rounded =
        |scale: &Vector| lanes(|i| if largest[i] == 0.0 { 1.0 } else { bf16::from_f32(scale[i] * largest[i]).to_f32() / largest[i] });
    let mut best = Trial::new(&units, rounded(&[1.0 / LARGEST_IN_STEPS[0]; LANES]));
    for steps in &LARGEST_IN_STEPS[1..] {
        best.keep_better(&Trial::new(&units, rounded(&[1.0 / steps; LANES])));
    }
    let fitted = rounded(&best.fitted(&units));
    best.keep_better(&Trial::new(&units, fitted));
    for (place, (scale, top)) in scales.as_chunks_mut::<SCALE_BYTES>().0.iter_mut().zip(best.scale.iter().zip(largest)) {
        *place = bf16::from_f32(scale * top).to_le_bytes();
    }
    #[allow(clippy::cast_possible_truncation, reason = "codes are whole numbers from −8 to 7")]
    units.iter().map(|v| best.codes(v).map(|code| (code as i8).cast_unsigned() & 15)).collect()
}

/// A scale for each lane, and the sum of squares that it is off by.
struct Trial {
    scale: Vector,
    error: Vector,
}

impl Trial {
    fn new(units: &[Vector], scale: Vector) -> Self {
        let mut trial = Self { scale, error: [0.0; LANES] };
        for v in units {
            let codes = trial.codes(v);
            for i in 0..LANES {
                let off = v[i] - codes[i] * scale[i];
                trial.error[i] += off * off;
            }
        }
        trial
    }

    fn codes(&self, v: &Vector) -> Vector {
        lanes(|i| ((v[i] / self.scale[i] + ROUNDING) - ROUNDING).clamp(LOWEST, HIGHEST))
    }

    fn keep_better(&mut self, other: &Self) {
        for i in 0..LANES {
            if other.error[i] < self.error[i] {
                (self.scale[i], self.error[i]) = (other.scale[i], other.error[i]);
            }
        }
    }

    /// The scale with the least squared error for the codes of this one.
    fn fitted(&self, units: &[Vector]) -> Vector {
        let (mut with_codes, mut of_codes) = ([0.0; LANES], [0.0; LANES]);
        for v in units {
            let codes = self.codes(v);
            for i in 0..LANES {
                with_codes[i] += v[i] * codes[i];
                of_codes[i] += codes[i] * codes[i];
            }
        }
        lanes(|i| if of_codes[i] > 0.0 { with_codes[i] / of_codes[i] } else { self.scale[i] })
    }
}

fn lanes(of: impl Fn(usize) -> f32) -> Vector {
    std::array::from_fn(of)
}
