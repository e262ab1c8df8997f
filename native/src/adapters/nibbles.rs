//! Factors in 4 bits: a quarter of float16's memory traffic and an eighth more for scales.
//!
//! Some 32 to 40 numbers share a scale: in A one lane's of a block, in B two columns' of 16 adapter rows. Codes are
//! −8 … 7 times a scale of either sign, so the largest of them may take the −8. Of eight scales the one with the least
//! squared error is taken and fitted once more to the codes that it gave: trained factors are then off by 0.067 to 0.073 of
//! their norm, where the largest number over 7 is off by 0.077 to 0.086; all scales of a fine grid would leave 0.5 % less.

use crate::kernels::byte_dot::{QUAD, VECTOR};
use crate::kernels::lora::{GROUP, PANEL, SCALE_BYTES};
use crate::kernels::nibbles::{CHUNK, STEP, ZERO_POINT, block_inputs, group_size, panel_size};
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

/// Packs rows of `width` numbers as the shrink wants them.
pub fn pack_a(rows: &[f32], width: usize, packed: &mut [u8]) {
    for (group, mut packed) in rows.chunks(GROUP * width).zip(packed.chunks_exact_mut(group_size(width))) {
        pace::worked(packed.len());
        for first in (0..width).step_by(block_inputs(width)) {
            let inputs = first..width.min(first + block_inputs(width));
            let (scales, rest) = packed.split_at_mut(LANES * SCALE_BYTES);
            let (steps, rest) = rest.split_at_mut(inputs.len().div_ceil(STEP) * VECTOR);
            packed = rest;
            // Number 8s + 4h + k of a lane is the step's input 16h + 4q + k for lane q of an adapter row's.
            let mut numbers = vec![[0.0; LANES]; steps.len() / VECTOR * 2 * QUAD];
            for (j, row) in group.chunks_exact(width).enumerate() {
                for (c, value) in row[inputs.clone()].iter().enumerate() {
                    numbers[c / LANES * QUAD + c % QUAD][j * QUAD + c % LANES / QUAD] = *value;
                }
            }
            let codes = fit(&numbers, scales);
            for (step, codes) in steps.as_chunks_mut::<VECTOR>().0.iter_mut().zip(codes.chunks_exact(2 * QUAD)) {
                *step = std::array::from_fn(|at| codes[at % QUAD][at / QUAD] | codes[QUAD + at % QUAD][at / QUAD] << 4);
            }
        }
    }
}

/// Packs `b` [out, rank] as the expand wants it; returns what each adapter row was divided by, so that rows of any size can
/// share scales.
pub fn pack_b(b: &[f32], rank: usize, packed: &mut [u8]) -> Vec<f32> {
    let sizes: Vec<f32> = (0..rank).map(|j| root_mean_square(b.iter().skip(j).step_by(rank))).collect();
    for (rows, mut packed) in b.chunks(PANEL * rank).zip(packed.chunks_exact_mut(panel_size(rank))) {
        pace::worked(packed.len());
        for first in (0..rank).step_by(CHUNK) {
            let count = CHUNK.min(rank - first);
            let (scales, rest) = packed.split_at_mut(LANES * SCALE_BYTES);
            let (quads, rest) = rest.split_at_mut(count.div_ceil(QUAD) * VECTOR);
            packed = rest;
            // A lane is a pair of columns; number j of it is the first one's adapter row j, number count + j the other's.
            let mut numbers = vec![[0.0; LANES]; 2 * count];
            for (n, row) in rows.chunks_exact(rank).enumerate() {
                for (j, value) in row[first..first + count].iter().enumerate() {
                    numbers[n / LANES * count + j][n % LANES] = value / sizes[first + j];
                }
            }
            let codes = fit(&numbers, scales);
            let code = |j: usize, half: usize, n: usize| if j < count { codes[half * count + j][n] } else { 0 };
            for (quad, bytes) in quads.as_chunks_mut::<VECTOR>().0.iter_mut().enumerate() {
                let at = |at: usize, half: usize| code(QUAD * quad + at % QUAD, half, at / QUAD);
                *bytes = std::array::from_fn(|byte| at(byte, 0) | at(byte, 1) << 4);
            }
        }
    }
    sizes
}

/// Of numbers of any size; 1 where all are too small to matter.
#[allow(clippy::cast_possible_truncation, reason = "a mean of float32 is one")]
fn root_mean_square<'a>(numbers: impl Iterator<Item = &'a f32>) -> f32 {
    let (squares, count) = numbers.fold((0.0, 0.0), |(sum, count), &v| (sum + f64::from(v).powi(2), count + 1.0));
    let size = (squares / count).sqrt() as f32;
    if size < SMALLEST { 1.0 } else { size }
}

/// Writes the scales of the lanes, as many as there is room for, and returns each number's code as it is stored, below 16.
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
    units.iter().map(|v| best.codes(v).map(|code| (code as i8).wrapping_add_unsigned(ZERO_POINT).cast_unsigned())).collect()
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
