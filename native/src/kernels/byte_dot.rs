//! Integer dot products of bytes: what the quantised matmul needs beyond float lanes.

use super::simd::{LANES, Portable, Simd};

/// Dot products of unsigned weights and signed activations, exact whatever their values, beside the float lanes `S`.
///
/// # Safety
/// As for [`Simd`]. A vector of quants is 4 · LANES bytes: four neighbouring inputs of each output column.
pub trait ByteDot<S: Simd> {
    /// LANES running sums.
    type Sums: Copy;
    /// One vector of weights of 8 bits.
    type Quants: Copy;
    /// Four activations, for every lane.
    type Quad: Copy;
    /// One vector of weights below 16.
    type Nibbles: Copy;
    /// Activations for [`ByteDot::dot_nibbles`], four for each lane.
    type NibbleQuad: Copy;

    unsafe fn zero() -> Self::Sums;
    /// Each sum begins with `x`; not for nibbles.
    unsafe fn whole(x: i32) -> Self::Sums;
    unsafe fn load_quants(p: *const u8) -> Self::Quants;
    unsafe fn load_quad(p: *const i8) -> Self::Quad;
    /// `sums[n] + Σ_k quants[4n + k] · quad[k]`.
    unsafe fn dot(sums: Self::Sums, quants: Self::Quants, quad: Self::Quad) -> Self::Sums;
    unsafe fn total(sums: Self::Sums) -> S::V;

    /// The low, then the high nibbles of one vector.
    unsafe fn load_nibbles(p: *const u8) -> [Self::Nibbles; 2];
    unsafe fn load_nibble_quad(p: *const i8) -> Self::NibbleQuad;
    /// Sixteen activations: four for each lane of four, again and again.
    unsafe fn load_nibble_row(p: *const i8) -> Self::NibbleQuad;
    /// `code` below 16 everywhere.
    unsafe fn nibbles_of(code: u8) -> Self::Nibbles;
    /// As [`ByteDot::dot`]; at most eight times into one sum.
    unsafe fn dot_nibbles(sums: Self::Sums, nibbles: Self::Nibbles, quad: Self::NibbleQuad) -> Self::Sums;
    unsafe fn nibble_total(sums: Self::Sums) -> S::V;

    /// Stores the lanes as the nearest integers (ties to even), and returns their sum. Lanes outside −127 … 127 give any bytes.
    unsafe fn store_bytes(p: *mut i8, v: S::V) -> i32;
}

/// Neighbouring bytes that one 32-bit lane takes.
pub const QUAD: usize = 4;
/// Bytes of one vector of quants.
pub const VECTOR: usize = QUAD * LANES;

impl ByteDot<Portable> for Portable {
    type Sums = [i32; LANES];
    type Quants = [u8; VECTOR];
    type Quad = [i8; QUAD];
    type Nibbles = [u8; VECTOR];
    type NibbleQuad = [i8; VECTOR];

    #[inline(always)]
    unsafe fn zero() -> Self::Sums {
        [0; LANES]
    }
    #[inline(always)]
    unsafe fn whole(x: i32) -> Self::Sums {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load_quants(p: *const u8) -> Self::Quants {
        // SAFETY: the caller vouches for one vector.
        unsafe { p.cast::<Self::Quants>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_quad(p: *const i8) -> Self::Quad {
        // SAFETY: the caller vouches for four activations.
        unsafe { p.cast::<Self::Quad>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn dot(mut sums: Self::Sums, quants: Self::Quants, quad: Self::Quad) -> Self::Sums {
        for (n, sum) in sums.iter_mut().enumerate() {
            for k in 0..QUAD {
                *sum += i32::from(quants[QUAD * n + k]) * i32::from(quad[k]);
            }
        }
        sums
    }
    #[inline(always)]
    #[allow(clippy::cast_precision_loss)]
    unsafe fn total(sums: Self::Sums) -> [f32; LANES] {
        sums.map(|sum| sum as f32)
    }
    #[inline(always)]
    unsafe fn load_nibbles(p: *const u8) -> [Self::Nibbles; 2] {
        // SAFETY: the caller vouches for one vector.
        let bytes = unsafe { Self::load_quants(p) };
        [bytes.map(|byte| byte & 15), bytes.map(|byte| byte >> 4)]
    }
    #[inline(always)]
    unsafe fn load_nibble_quad(p: *const i8) -> Self::NibbleQuad {
        // SAFETY: passed on from the caller.
        let quad = unsafe { Self::load_quad(p) };
        std::array::from_fn(|at| quad[at % QUAD])
    }
    #[inline(always)]
    unsafe fn load_nibble_row(p: *const i8) -> Self::NibbleQuad {
        // SAFETY: the caller vouches for sixteen activations.
        let row = unsafe { p.cast::<[i8; LANES]>().read_unaligned() };
        std::array::from_fn(|at| row[at % LANES])
    }
    #[inline(always)]
    unsafe fn nibbles_of(code: u8) -> Self::Nibbles {
        [code; VECTOR]
    }
    #[inline(always)]
    unsafe fn dot_nibbles(mut sums: Self::Sums, nibbles: Self::Nibbles, quad: Self::NibbleQuad) -> Self::Sums {
        for (n, sum) in sums.iter_mut().enumerate() {
            for k in QUAD * n..QUAD * (n + 1) {
                *sum += i32::from(nibbles[k]) * i32::from(quad[k]);
            }
        }
        sums
    }
    #[inline(always)]
    #[allow(clippy::cast_precision_loss)]
    unsafe fn nibble_total(sums: Self::Sums) -> [f32; LANES] {
        sums.map(|sum| sum as f32)
    }
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)]
    unsafe fn store_bytes(p: *mut i8, v: [f32; LANES]) -> i32 {
        let mut sum = 0;
        for (i, lane) in v.iter().enumerate() {
            let q = lane.round_ties_even() as i8;
            // SAFETY: the caller vouches for LANES bytes.
            unsafe { *p.add(i) = q };
            sum += i32::from(q);
        }
        sum
    }
}
