//! SGMV of factors in 4 bits: what they multiply is rounded to bytes, and products are summed as integers, a quarter of the
//! instructions that widening each factor to float32 takes.
//!
//! Rounded are, each row by itself, the inputs of a block for the shrink and CHUNK numbers of `h` for the expand: to 1/254 of the
//! largest of them at most, a twentieth of what a factor's 4 bits are off by. Codes have no sign in memory,
//! `value = (code − 8) · scale`, as the byte products of x86 want them.
//!
//! A: groups of GROUP adapter rows, the last one filled up. A group is a run of blocks of inputs, and a block its scales, bf16
//! [GROUP, 4], then its steps: GROUP times 16 bytes, of which the low halves are 16 inputs and the high halves the next 16. So
//! a 32-bit lane belongs to one adapter row and takes four inputs of every 16; lanes have scales of their own.
//!
//! B: panels of PANEL output columns, in chunks of CHUNK adapter rows. A chunk is its scales, bf16 [16], then for every QUAD adapter
//! rows 16 times QUAD bytes: the low halves are the first 16 columns, the high halves the others. Columns n and 16 + n
//! share a scale. What differs between adapter rows is in `Shrink::scale`.

use super::ahead::{PREFETCH_BYTES, prefetch_behind};
use super::byte_dot::{ByteDot, QUAD, VECTOR};
use super::lora::{Expand, GROUP, SCALE_BYTES, Shrink, load_outputs, store_outputs};
use super::simd::{LANES, Simd};
use std::cell::Cell;

/// Inputs of one step of a group.
pub const STEP: usize = 2 * LANES;
/// Most steps of a block: 40 numbers that share a scale.
const MAX_BLOCK_STEPS: usize = 5;
/// Adapter rows of B that share scales.
pub const CHUNK: usize = LANES;
/// What a code is stored with, so that it has no sign.
pub const ZERO_POINT: u8 = 8;
const LARGEST: f32 = 127.0;

/// Inputs of one block of a row of `width` > 0: blocks are as equal as whole steps allow.
#[must_use]
pub const fn block_inputs(width: usize) -> usize {
    let steps = width.div_ceil(STEP);
    steps.div_ceil(steps.div_ceil(MAX_BLOCK_STEPS)) * STEP
}

/// Bytes of one group of adapter rows of `width` inputs.
#[must_use]
pub const fn group_size(width: usize) -> usize {
    width.div_ceil(STEP) * VECTOR + width.div_ceil(block_inputs(width)) * LANES * SCALE_BYTES
}

/// Bytes of one panel of B.
#[must_use]
pub const fn panel_size(rank: usize) -> usize {
    rank.div_ceil(CHUNK) * LANES * SCALE_BYTES + rank.div_ceil(QUAD) * VECTOR
}

/// A block of a row of inputs: `x ≈ scale · bytes`, zeros behind the row's end.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Rounded {
    bytes: [i8; MAX_BLOCK_STEPS * STEP],
    /// Of each lane: what the zero point adds to its sum, negated.
    correction: [f32; LANES],
    scale: f32,
}

impl Rounded {
    const ZERO: Self = Self { bytes: [0; MAX_BLOCK_STEPS * STEP], correction: [0.0; LANES], scale: 0.0 };
}

/// A chunk of a row of h: `h ≈ scale · bytes`, zeros behind the rank.
#[derive(Clone, Copy)]
struct RoundedChunk {
    bytes: [i8; CHUNK],
    /// What the zero point adds to every sum, negated.
    correction: f32,
    scale: f32,
}

thread_local! {
    /// The rows of one tile: [rows, blocks].
    static ROUNDED: Cell<Vec<Rounded>> = const { Cell::new(Vec::new()) };
    /// [rows, chunks]
    static CHUNKS: Cell<Vec<RoundedChunk>> = const { Cell::new(Vec::new()) };
}

/// # Safety
/// As for `lora::shrink`; the CPU has `S` and `D`, and `args.stored` is `Int4`.
#[inline(always)]
pub unsafe fn shrink<S: Simd, D: ByteDot<S>>(args: &Shrink) {
    let block = block_inputs(args.width);
    let blocks = args.width.div_ceil(block);
    let height = if S::WIDE_TILES { 4 } else { 1 };
    let mut rounded = ROUNDED.take();
    if rounded.len() < height * blocks {
        rounded.resize(height * blocks, Rounded::ZERO);
    }
    let mut i = 0;
    while i < args.rows {
        let rows = if args.rows - i < height { 1 } else { height };
        for (row, rounded) in rounded.chunks_exact_mut(blocks).take(rows).enumerate() {
            // SAFETY: row i + row is one of x.
            unsafe { round_row::<S, D>(args.x.add((i + row) * args.x_stride), args.width, rounded) };
        }
        let mut j = args.ranks.0;
        while j < args.ranks.1 {
            // SAFETY: `ranks.0` is a multiple of GROUP, so j is; `rounded` holds `rows` rows.
            unsafe {
                if rows == 4 {
                    shrink_tile::<S, D, 4>(args, &rounded, i, j);
                } else {
                    shrink_tile::<S, D, 1>(args, &rounded, i, j);
                }
            }
            j += GROUP;
        }
        i += rows;
    }
    ROUNDED.set(rounded);
}

/// Rounds a row of inputs block by block. What is not finite makes the first scale NaN, and with it all that is summed up.
#[inline(always)]
unsafe fn round_row<S: Simd, D: ByteDot<S>>(x: *const f32, width: usize, rounded: &mut [Rounded]) {
    let block = block_inputs(width);
    // SAFETY: register arithmetic; the caller vouches for the instruction set.
    let mut poison = unsafe { S::splat(0.0) };
    for (b, rounded) in rounded.iter_mut().enumerate() {
        // SAFETY: x is read to `width`.
        unsafe {
            let x = x.add(b * block);
            let left = width - b * block;
            if left >= block {
                round_block::<S, D, true>(x, block, rounded, &mut poison);
            } else {
                round_block::<S, D, false>(x, left, rounded, &mut poison);
            }
        }
    }
    // SAFETY: as above.
    rounded[0].scale += unsafe { S::sum(poison) };
}

/// Rounds `count` inputs, with `WHOLE` a multiple of STEP, and adds 0 times each to `poison`: NaN where one is not finite, which
/// the largest forgets.
#[inline(always)]
unsafe fn round_block<S: Simd, D: ByteDot<S>, const WHOLE: bool>(x: *const f32, count: usize, rounded: &mut Rounded, poison: &mut S::V) {
    let steps = count.div_ceil(STEP);
    // SAFETY: x is read to `count`; `bytes` holds whole steps, and a step is two vectors.
    unsafe {
        let load = |at: usize| {
            if WHOLE { S::load(x.add(at)) } else { S::load_partial(x.wrapping_add(at), count.saturating_sub(at).min(LANES)) }
        };
        let mut range = [(S::splat(0.0), S::splat(0.0)); 2];
        for step in 0..steps {
            for (half, (highest, lowest)) in range.iter_mut().enumerate() {
                let value = load(step * STEP + half * LANES);
                *highest = S::max(value, *highest);
                *lowest = S::min(value, *lowest);
                *poison = S::mul_add(value, S::splat(0.0), *poison);
            }
        }
        let [(high, low), (other_high, other_low)] = range;
        let lowest = S::mul(S::min(low, other_low), S::splat(-1.0));
        let largest = S::max_lane(S::max(S::max(high, other_high), lowest));
        let inverse = S::splat(if largest > 0.0 { LARGEST / largest } else { 0.0 });
        let mut sums = [D::zero(); 2];
        for step in 0..steps {
            for (half, sum) in sums.iter_mut().enumerate() {
                let at = step * STEP + half * LANES;
                let p = rounded.bytes.as_mut_ptr().add(at);
                D::store_bytes(p, S::mul(load(at), inverse));
                *sum = D::dot_nibbles(*sum, D::nibbles_of(ZERO_POINT), D::load_nibble_row(p));
            }
        }
        let correction = S::mul(S::add(D::nibble_total(sums[0]), D::nibble_total(sums[1])), S::splat(-1.0));
        S::store(rounded.correction.as_mut_ptr(), correction);
        rounded.scale = largest / LARGEST;
    }
}

/// Rows `i .. i + R`, which `rounded` holds, against the group that begins with adapter row j.
#[inline(always)]
unsafe fn shrink_tile<S: Simd, D: ByteDot<S>, const R: usize>(args: &Shrink, rounded: &[Rounded], i: usize, j: usize) {
    let block = block_inputs(args.width);
    let blocks = args.width.div_ceil(block);
    // SAFETY: the caller keeps i + R ≤ rows and j < rank; the group is read from its first block to its last.
    unsafe {
        let mut a = args.a.add(j / GROUP * group_size(args.width));
        let mut sums = [S::splat(0.0); R];
        for b in 0..blocks {
            let scale = S::load_bf16(a.cast());
            // Scales and steps share lines: none is left out.
            prefetch_behind::<S>(a, LANES * SCALE_BYTES);
            a = a.add(LANES * SCALE_BYTES);
            let mut dots = [[D::zero(); 2]; R];
            for step in 0..block.min(args.width - b * block).div_ceil(STEP) {
                prefetch_behind::<S>(a, VECTOR);
                let nibbles = D::load_nibbles(a);
                a = a.add(VECTOR);
                for (r, dots) in dots.iter_mut().enumerate() {
                    let x = rounded[r * blocks + b].bytes.as_ptr().add(step * STEP);
                    for half in 0..2 {
                        dots[half] = D::dot_nibbles(dots[half], nibbles[half], D::load_nibble_row(x.add(half * LANES)));
                    }
                }
            }
            for (r, dots) in dots.iter().enumerate() {
                let x = &rounded[r * blocks + b];
                let total = S::add(S::add(D::nibble_total(dots[0]), D::nibble_total(dots[1])), S::load(x.correction.as_ptr()));
                sums[r] = S::mul_add(S::mul(total, S::splat(x.scale)), scale, sums[r]);
            }
        }
        for (r, sum) in sums.iter().enumerate() {
            let rows = S::sum_quads(*sum);
            for (jj, sum) in rows.iter().enumerate().take(args.ranks.1 - j) {
                let scale = if args.scale.is_null() { args.strength } else { *args.scale.add(j + jj) * args.strength };
                *args.h.add((i + r) * args.h_stride + j + jj) = sum * scale;
            }
        }
    }
}

/// # Safety
/// As for `lora::expand`; the CPU has `S` and `D`, and `args.stored` is `Int4`.
#[inline(always)]
pub unsafe fn expand<S: Simd, D: ByteDot<S>>(args: &Expand) {
    let chunks = args.rank.div_ceil(CHUNK);
    let mut rounded = CHUNKS.take();
    rounded.clear();
    for i in 0..args.rows {
        for c in 0..chunks {
            // SAFETY: row i is one of h, and h is read to the rank.
            unsafe {
                let h = args.h.add(i * args.h_stride + c * CHUNK);
                rounded.push(round_chunk::<S, D>(h, CHUNK.min(args.rank - c * CHUNK)));
            }
        }
    }
    let height = if S::WIDE_TILES { 4 } else { 2 };
    let mut i = 0;
    while i < args.rows {
        let rows = if args.rows - i < height { 1 } else { height };
        let rounded = &rounded[i * chunks..];
        for panel in args.panels.0..args.panels.1 {
            // SAFETY: i + rows ≤ args.rows, and `rounded` holds them.
            unsafe {
                match rows {
                    4 => expand_tile::<S, D, 4>(args, panel, i, rounded),
                    2 => expand_tile::<S, D, 2>(args, panel, i, rounded),
                    _ => expand_tile::<S, D, 1>(args, panel, i, rounded),
                }
            }
        }
        i += rows;
    }
    CHUNKS.set(rounded);
}

/// Rounds `count` numbers of h. What is not finite makes the scale NaN.
#[inline(always)]
#[allow(clippy::cast_precision_loss, reason = "a sum of 16 bytes")]
unsafe fn round_chunk<S: Simd, D: ByteDot<S>>(h: *const f32, count: usize) -> RoundedChunk {
    // SAFETY: the caller vouches for `count` numbers.
    unsafe {
        let h = S::load_partial(h, count);
        let largest = S::max_lane(S::max(h, S::mul(h, S::splat(-1.0))));
        let inverse = if largest > 0.0 { LARGEST / largest } else { 0.0 };
        let mut bytes = [0; CHUNK];
        let sum = D::store_bytes(bytes.as_mut_ptr(), S::mul(h, S::splat(inverse)));
        // 0 · h is NaN where h is not finite: max forgets NaN.
        let poison = S::sum(S::mul(h, S::splat(0.0)));
        RoundedChunk { bytes, correction: sum as f32 * -f32::from(ZERO_POINT), scale: largest / LARGEST + poison }
    }
}

/// One panel of rows `i .. i + R`, which `rounded` begins with.
#[inline(always)]
unsafe fn expand_tile<S: Simd, D: ByteDot<S>, const R: usize>(args: &Expand, panel: usize, i: usize, rounded: &[RoundedChunk]) {
    let chunks = args.rank.div_ceil(CHUNK);
    // SAFETY: the caller keeps i + R ≤ rows and panel in range; the panel is read from its first chunk to its last.
    unsafe {
        let mut b = args.b.add(panel * panel_size(args.rank));
        let mut sums = load_outputs::<S, R>(args, panel, i);
        for c in 0..chunks {
            let scale = S::load_bf16(b.cast());
            S::prefetch(args.jump.over(b, PREFETCH_BYTES));
            b = b.add(LANES * SCALE_BYTES);
            let mut dots = [[D::zero(); 2]; R];
            for quad in 0..CHUNK.min(args.rank - c * CHUNK).div_ceil(QUAD) {
                S::prefetch(args.jump.over(b, PREFETCH_BYTES));
                let nibbles = D::load_nibbles(b);
                b = b.add(VECTOR);
                for (r, dots) in dots.iter_mut().enumerate() {
                    let h = D::load_nibble_quad(rounded[r * chunks + c].bytes.as_ptr().add(quad * QUAD));
                    for half in 0..2 {
                        dots[half] = D::dot_nibbles(dots[half], nibbles[half], h);
                    }
                }
            }
            for (r, dots) in dots.iter().enumerate() {
                let h = &rounded[r * chunks + c];
                let (scale, correction) = (S::mul(scale, S::splat(h.scale)), S::splat(h.correction));
                for half in 0..2 {
                    sums[r][half] = S::mul_add(S::add(D::nibble_total(dots[half]), correction), scale, sums[r][half]);
                }
            }
        }
        store_outputs::<S, R>(args, panel, i, &sums);
    }
}
