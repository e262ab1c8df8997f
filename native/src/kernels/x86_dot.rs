//! Dot products of bytes on x86: with VNNI in one instruction, else widened to 16 bits.
//!
//! NOTE: `maddubs` adds two products in 16 bits and saturates on weights of 8 bits. Nibbles leave it room: eight quads into
//! one sum reach 15 · 127 · 2 · 8 = 30480.

use super::byte_dot::ByteDot;
use super::x86::{Avx2, Avx512};
use std::arch::x86_64::*;

const LOW_NIBBLES: i8 = 15;

/// 512-bit VNNI. Needs `avx512f`, `avx512bw` and `avx512vnni`.
pub struct Vnni512;

// SAFETY (all blocks below, of every implementation): the trait's contract puts the instruction set and the pointers on
// the caller.
#[allow(clippy::undocumented_unsafe_blocks)]
impl ByteDot<Avx512> for Vnni512 {
    type Sums = __m512i;
    type Quants = __m512i;
    type Quad = __m512i;
    type Nibbles = __m512i;
    type NibbleQuad = __m512i;

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn whole(x: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn load_quants(p: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_quad(p: *const i8) -> __m512i {
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn dot(sums: __m512i, quants: __m512i, quad: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sums, quants, quad) }
    }
    #[inline(always)]
    unsafe fn total(sums: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(sums) }
    }
    #[inline(always)]
    unsafe fn load_nibbles(p: *const u8) -> [__m512i; 2] {
        unsafe { nibbles512(p) }
    }
    #[inline(always)]
    unsafe fn load_nibble_quad(p: *const i8) -> __m512i {
        unsafe { Self::load_quad(p) }
    }
    #[inline(always)]
    unsafe fn load_nibble_row(p: *const i8) -> __m512i {
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn nibbles_of(code: u8) -> __m512i {
        unsafe { _mm512_set1_epi8(code.cast_signed()) }
    }
    #[inline(always)]
    unsafe fn dot_nibbles(sums: __m512i, nibbles: __m512i, quad: __m512i) -> __m512i {
        unsafe { Self::dot(sums, nibbles, quad) }
    }
    #[inline(always)]
    unsafe fn nibble_total(sums: __m512i) -> __m512 {
        unsafe { Self::total(sums) }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut i8, v: __m512) -> i32 {
        unsafe { store_bytes512(p, v) }
    }
}

/// 512-bit lanes without VNNI. Needs `avx512f` and `avx512bw`.
pub struct Wide512;

#[allow(clippy::undocumented_unsafe_blocks)]
impl ByteDot<Avx512> for Wide512 {
    type Sums = __m512i;
    /// Inputs 0 and 2 of each quad, then 1 and 3, as 16 bits.
    type Quants = [__m512i; 2];
    type Quad = [__m512i; 2];
    type Nibbles = __m512i;
    type NibbleQuad = __m512i;

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn whole(x: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn load_quants(p: *const u8) -> [__m512i; 2] {
        unsafe {
            let bytes = _mm512_loadu_si512(p.cast());
            [_mm512_and_si512(bytes, _mm512_set1_epi16(0xff)), _mm512_srli_epi16::<8>(bytes)]
        }
    }
    #[inline(always)]
    unsafe fn load_quad(p: *const i8) -> [__m512i; 2] {
        unsafe {
            let bytes = Self::load_nibble_quad(p);
            [_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(bytes)), _mm512_srai_epi16::<8>(bytes)]
        }
    }
    #[inline(always)]
    unsafe fn dot(sums: __m512i, quants: [__m512i; 2], quad: [__m512i; 2]) -> __m512i {
        unsafe {
            let even = _mm512_add_epi32(sums, _mm512_madd_epi16(quants[0], quad[0]));
            _mm512_add_epi32(even, _mm512_madd_epi16(quants[1], quad[1]))
        }
    }
    #[inline(always)]
    unsafe fn total(sums: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(sums) }
    }
    #[inline(always)]
    unsafe fn load_nibbles(p: *const u8) -> [__m512i; 2] {
        unsafe { nibbles512(p) }
    }
    #[inline(always)]
    unsafe fn load_nibble_quad(p: *const i8) -> __m512i {
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn load_nibble_row(p: *const i8) -> __m512i {
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn nibbles_of(code: u8) -> __m512i {
        unsafe { _mm512_set1_epi8(code.cast_signed()) }
    }
    #[inline(always)]
    unsafe fn dot_nibbles(sums: __m512i, nibbles: __m512i, quad: __m512i) -> __m512i {
        unsafe { _mm512_add_epi16(sums, _mm512_maddubs_epi16(nibbles, quad)) }
    }
    #[inline(always)]
    unsafe fn nibble_total(sums: __m512i) -> __m512 {
        unsafe { Self::total(_mm512_madd_epi16(sums, _mm512_set1_epi16(1))) }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut i8, v: __m512) -> i32 {
        unsafe { store_bytes512(p, v) }
    }
}

#[inline(always)]
unsafe fn nibbles512(p: *const u8) -> [__m512i; 2] {
    // SAFETY: the callers' contract: one readable vector, AVX-512.
    unsafe {
        let bytes = _mm512_loadu_si512(p.cast());
        let mask = _mm512_set1_epi8(LOW_NIBBLES);
        [_mm512_and_si512(bytes, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask)]
    }
}

#[inline(always)]
unsafe fn store_bytes512(p: *mut i8, v: __m512) -> i32 {
    // SAFETY: the callers' contract: LANES writable bytes, AVX-512.
    unsafe {
        let whole = _mm512_cvtps_epi32(v);
        _mm_storeu_si128(p.cast(), _mm512_cvtsepi32_epi8(whole));
        _mm512_reduce_add_epi32(whole)
    }
}

/// 256-bit VNNI, registers in pairs. Needs `avx2` and `avxvnni`.
pub struct Vnni256;

#[allow(clippy::undocumented_unsafe_blocks)]
impl ByteDot<Avx2> for Vnni256 {
    type Sums = [__m256i; 2];
    type Quants = [__m256i; 2];
    type Quad = __m256i;
    type Nibbles = [__m256i; 2];
    type NibbleQuad = __m256i;

    #[inline(always)]
    unsafe fn zero() -> [__m256i; 2] {
        unsafe { [_mm256_setzero_si256(); 2] }
    }
    #[inline(always)]
    unsafe fn whole(x: i32) -> [__m256i; 2] {
        unsafe { [_mm256_set1_epi32(x); 2] }
    }
    #[inline(always)]
    unsafe fn load_quants(p: *const u8) -> [__m256i; 2] {
        unsafe { load256(p) }
    }
    #[inline(always)]
    unsafe fn load_quad(p: *const i8) -> __m256i {
        unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn dot(sums: [__m256i; 2], quants: [__m256i; 2], quad: __m256i) -> [__m256i; 2] {
        unsafe { [_mm256_dpbusd_avx_epi32(sums[0], quants[0], quad), _mm256_dpbusd_avx_epi32(sums[1], quants[1], quad)] }
    }
    #[inline(always)]
    unsafe fn total(sums: [__m256i; 2]) -> (__m256, __m256) {
        unsafe { total256(sums) }
    }
    #[inline(always)]
    unsafe fn load_nibbles(p: *const u8) -> [[__m256i; 2]; 2] {
        unsafe { nibbles256(p) }
    }
    #[inline(always)]
    unsafe fn load_nibble_quad(p: *const i8) -> __m256i {
        unsafe { Self::load_quad(p) }
    }
    #[inline(always)]
    unsafe fn load_nibble_row(p: *const i8) -> __m256i {
        unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn nibbles_of(code: u8) -> [__m256i; 2] {
        unsafe { [_mm256_set1_epi8(code.cast_signed()); 2] }
    }
    #[inline(always)]
    unsafe fn dot_nibbles(sums: [__m256i; 2], nibbles: [__m256i; 2], quad: __m256i) -> [__m256i; 2] {
        unsafe { Self::dot(sums, nibbles, quad) }
    }
    #[inline(always)]
    unsafe fn nibble_total(sums: [__m256i; 2]) -> (__m256, __m256) {
        unsafe { total256(sums) }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut i8, v: (__m256, __m256)) -> i32 {
        unsafe { store_bytes256(p, v) }
    }
}

/// 256-bit lanes without VNNI, registers in pairs. Needs `avx2`.
pub struct Wide256;

#[allow(clippy::undocumented_unsafe_blocks)]
impl ByteDot<Avx2> for Wide256 {
    type Sums = [__m256i; 2];
    /// Inputs 0 and 2 of each quad, then 1 and 3, as 16 bits.
    type Quants = [[__m256i; 2]; 2];
    type Quad = [__m256i; 2];
    type Nibbles = [__m256i; 2];
    type NibbleQuad = __m256i;

    #[inline(always)]
    unsafe fn zero() -> [__m256i; 2] {
        unsafe { [_mm256_setzero_si256(); 2] }
    }
    #[inline(always)]
    unsafe fn whole(x: i32) -> [__m256i; 2] {
        unsafe { [_mm256_set1_epi32(x); 2] }
    }
    #[inline(always)]
    unsafe fn load_quants(p: *const u8) -> [[__m256i; 2]; 2] {
        unsafe {
            let [low, high] = load256(p);
            let mask = _mm256_set1_epi16(0xff);
            [[_mm256_and_si256(low, mask), _mm256_and_si256(high, mask)], [_mm256_srli_epi16::<8>(low), _mm256_srli_epi16::<8>(high)]]
        }
    }
    #[inline(always)]
    unsafe fn load_quad(p: *const i8) -> [__m256i; 2] {
        unsafe {
            let bytes = Self::load_nibble_quad(p);
            [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes)), _mm256_srai_epi16::<8>(bytes)]
        }
    }
    #[inline(always)]
    unsafe fn dot(mut sums: [__m256i; 2], quants: [[__m256i; 2]; 2], quad: [__m256i; 2]) -> [__m256i; 2] {
        for (weights, x) in quants.iter().zip(quad) {
            for (sum, w) in sums.iter_mut().zip(weights) {
                *sum = unsafe { _mm256_add_epi32(*sum, _mm256_madd_epi16(*w, x)) };
            }
        }
        sums
    }
    #[inline(always)]
    unsafe fn total(sums: [__m256i; 2]) -> (__m256, __m256) {
        unsafe { total256(sums) }
    }
    #[inline(always)]
    unsafe fn load_nibbles(p: *const u8) -> [[__m256i; 2]; 2] {
        unsafe { nibbles256(p) }
    }
    #[inline(always)]
    unsafe fn load_nibble_quad(p: *const i8) -> __m256i {
        unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn load_nibble_row(p: *const i8) -> __m256i {
        unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn nibbles_of(code: u8) -> [__m256i; 2] {
        unsafe { [_mm256_set1_epi8(code.cast_signed()); 2] }
    }
    #[inline(always)]
    unsafe fn dot_nibbles(sums: [__m256i; 2], nibbles: [__m256i; 2], quad: __m256i) -> [__m256i; 2] {
        let one = |i: usize| unsafe { _mm256_add_epi16(sums[i], _mm256_maddubs_epi16(nibbles[i], quad)) };
        [one(0), one(1)]
    }
    #[inline(always)]
    unsafe fn nibble_total(sums: [__m256i; 2]) -> (__m256, __m256) {
        unsafe { total256(sums.map(|sum| _mm256_madd_epi16(sum, _mm256_set1_epi16(1)))) }
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut i8, v: (__m256, __m256)) -> i32 {
        unsafe { store_bytes256(p, v) }
    }
}

#[inline(always)]
unsafe fn load256(p: *const u8) -> [__m256i; 2] {
    // SAFETY: the callers' contract: 64 readable bytes, AVX2.
    unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(32).cast())] }
}

#[inline(always)]
unsafe fn nibbles256(p: *const u8) -> [[__m256i; 2]; 2] {
    // SAFETY: the callers' contract: 64 readable bytes, AVX2.
    unsafe {
        let bytes = load256(p);
        let mask = _mm256_set1_epi8(LOW_NIBBLES);
        [bytes.map(|b| _mm256_and_si256(b, mask)), bytes.map(|b| _mm256_and_si256(_mm256_srli_epi16::<4>(b), mask))]
    }
}

#[inline(always)]
unsafe fn total256(sums: [__m256i; 2]) -> (__m256, __m256) {
    // SAFETY: register arithmetic on AVX2, which the callers' contract vouches for.
    unsafe { (_mm256_cvtepi32_ps(sums[0]), _mm256_cvtepi32_ps(sums[1])) }
}

#[inline(always)]
unsafe fn store_bytes256(p: *mut i8, v: (__m256, __m256)) -> i32 {
    // SAFETY: the callers' contract: LANES writable bytes, AVX2.
    unsafe {
        let (low, high) = (_mm256_cvtps_epi32(v.0), _mm256_cvtps_epi32(v.1));
        // Packing interleaves halves of 128 bits: 0 2 1 3 puts them back in order.
        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
        _mm_storeu_si128(p.cast(), _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words)));
        let mut lanes = [0i32; 8];
        _mm256_storeu_si256(lanes.as_mut_ptr().cast(), _mm256_add_epi32(low, high));
        lanes.iter().fold(0, |sum, &lane| sum.wrapping_add(lane))
    }
}
