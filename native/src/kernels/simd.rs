//! The vector type that every kernel is written in: 16 float32 lanes, whatever the instruction set offers.
//!
//! One logical width everywhere keeps the order of every sum the same on each instruction set, so a kernel is one
//! piece of code and its results differ between machines only by fused multiply-add.

/// Float32 lanes of one vector.
pub const LANES: usize = 16;

/// How the elements of an adapter file are widened to float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

impl Dtype {
    /// Bytes of one element.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

/// Sixteen float32 lanes on one instruction set.
///
/// # Safety
/// Every method may use the instructions its type is named after: call only where the CPU has them. Loads and stores
/// touch exactly [`LANES`] elements from the pointer (any alignment).
pub trait Simd: Copy {
    type V: Copy;
    /// Enough registers for 16 sums: a shrink tile of four rows by four adapter rows, an expand tile of eight rows.
    const WIDE_TILES: bool;
    /// Vectors of sums that registers hold beside the operands of a matmul.
    const SUMS: usize;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(p: *const f32) -> Self::V;
    unsafe fn store(p: *mut f32, v: Self::V);
    /// Sixteen IEEE half floats.
    unsafe fn load_f16(p: *const u16) -> Self::V;
    /// Sixteen bfloat16: the upper halves of float32.
    unsafe fn load_bf16(p: *const u16) -> Self::V;
    /// Sixteen signed bytes.
    unsafe fn load_i8(p: *const i8) -> Self::V;
    /// `a · b + c`, fused where the instruction set can.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// Lane-wise `a > b ? a : b`: `b` where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// Lane-wise `a < b ? a : b`: `b` where either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// Nearest integer, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `2^n` for integer-valued lanes in −126 … 127; infinity for 128.
    unsafe fn exp2_int(n: Self::V) -> Self::V;

    /// Asks for the cache line at `p`, which need not be readable.
    #[inline(always)]
    unsafe fn prefetch(_p: *const u8) {}

    /// The lanes added as a balanced tree of halves: the same order on every instruction set.
    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        let mut lanes = [0.0f32; LANES];
        // SAFETY: `lanes` holds exactly LANES elements.
        unsafe { Self::store(lanes.as_mut_ptr(), v) };
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
            width /= 2;
        }
        lanes[0]
    }

    /// The sum of each four neighbouring lanes, halves onto halves.
    #[inline(always)]
    unsafe fn sum_quads(v: Self::V) -> [f32; LANES / 4] {
        let mut lanes = [0.0f32; LANES];
        // SAFETY: `lanes` holds exactly LANES elements.
        unsafe { Self::store(lanes.as_mut_ptr(), v) };
        std::array::from_fn(|quad| {
            let at = 4 * quad;
            (lanes[at] + lanes[at + 2]) + (lanes[at + 1] + lanes[at + 3])
        })
    }

    #[inline(always)]
    unsafe fn max_lane(v: Self::V) -> f32 {
        let mut lanes = [0.0f32; LANES];
        // SAFETY: `lanes` holds exactly LANES elements.
        unsafe { Self::store(lanes.as_mut_ptr(), v) };
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] = if lanes[i] > lanes[i + width] { lanes[i] } else { lanes[i + width] };
            }
            width /= 2;
        }
        lanes[0]
    }

    /// The first `n` ≤ LANES elements, zeros behind.
    #[inline(always)]
    unsafe fn load_partial(p: *const f32, n: usize) -> Self::V {
        let mut lanes = [0.0f32; LANES];
        // SAFETY: the caller vouches for n readable elements; n ≤ LANES bounds the copy.
        unsafe {
            if n == LANES {
                return Self::load(p);
            }
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n);
            Self::load(lanes.as_ptr())
        }
    }

    /// The first `n` ≤ LANES bfloat16, zeros behind.
    #[inline(always)]
    unsafe fn load_bf16_partial(p: *const u16, n: usize) -> Self::V {
        let mut lanes = [0u16; LANES];
        // SAFETY: the caller vouches for n readable elements; n ≤ LANES bounds the copy.
        unsafe {
            if n == LANES {
                return Self::load_bf16(p);
            }
            std::ptr::copy_nonoverlapping(p.cast::<u8>(), lanes.as_mut_ptr().cast(), 2 * n);
            Self::load_bf16(lanes.as_ptr())
        }
    }

    /// Stores the first `n` ≤ LANES lanes.
    #[inline(always)]
    unsafe fn store_partial(p: *mut f32, n: usize, v: Self::V) {
        let mut lanes = [0.0f32; LANES];
        // SAFETY: the caller vouches for n writable elements; n ≤ LANES bounds the copy.
        unsafe {
            Self::store(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n);
        }
    }

    /// `e^x` with a relative error below 2·10⁻⁷ in −87.3 … 88.3; `e^−87.3` (1.2·10⁻³⁸) below, infinity above 88.4, NaN of NaN.
    ///
    /// Cody–Waite reduction to |r| ≤ ln2/2, then the degree-5 polynomial of Cephes' `expf` for `(e^r − 1 − r) / r²`.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        // SAFETY: register arithmetic only; the caller vouches for the instruction set.
        unsafe {
            // x comes second, so that NaN survives. At 89 the power of two below is infinite.
            let clamped = Self::max(Self::splat(-87.3), Self::min(Self::splat(89.0), x));
            let n = Self::round(Self::mul(clamped, Self::splat(std::f32::consts::LOG2_E)));
            // ln 2 split in two so that n·hi is exact for |n| < 2^9.
            let r = Self::mul_add(n, Self::splat(-0.693_359_4), clamped);
            let r = Self::mul_add(n, Self::splat(2.121_944_4e-4), r);
            let mut p = Self::splat(1.987_569_1e-4);
            for c in [1.398_199_9e-3_f32, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5] {
                p = Self::mul_add(p, r, Self::splat(c));
            }
            let p = Self::mul_add(p, Self::mul(r, r), Self::add(r, Self::splat(1.0)));
            Self::mul(p, Self::exp2_int(n))
        }
    }
}

/// Plain Rust lanes: the reference, and what runs where no better set is known.
#[derive(Clone, Copy)]
pub struct Portable;

macro_rules! lanewise {
    ($f:expr) => {{
        let mut out = [0.0f32; LANES];
        for (i, lane) in out.iter_mut().enumerate() {
            *lane = $f(i);
        }
        out
    }};
}

impl Simd for Portable {
    type V = [f32; LANES];
    const WIDE_TILES: bool = false;
    const SUMS: usize = if cfg!(target_arch = "aarch64") { 6 } else { 2 };

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: the caller vouches for LANES readable elements.
        unsafe { p.cast::<[f32; LANES]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: the caller vouches for LANES writable elements.
        unsafe { p.cast::<[f32; LANES]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::V {
        // SAFETY: the caller vouches for LANES readable elements.
        let bits = unsafe { p.cast::<[u16; LANES]>().read_unaligned() };
        lanewise!(|i: usize| half::f16::from_bits(bits[i]).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::V {
        // SAFETY: the caller vouches for LANES readable elements.
        let bits = unsafe { p.cast::<[u16; LANES]>().read_unaligned() };
        lanewise!(|i: usize| f32::from_bits(u32::from(bits[i]) << 16))
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> Self::V {
        // SAFETY: the caller vouches for LANES readable elements.
        let bytes = unsafe { p.cast::<[i8; LANES]>().read_unaligned() };
        lanewise!(|i: usize| f32::from(bytes[i]))
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // NOTE: not f32::mul_add elsewhere: it is a library call where the CPU has no fused multiply-add.
        if cfg!(target_arch = "aarch64") {
            return lanewise!(|i: usize| a[i].mul_add(b[i], c[i]));
        }
        lanewise!(|i: usize| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(|i: usize| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(|i: usize| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(|i: usize| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(|i: usize| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        lanewise!(|i: usize| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        lanewise!(|i: usize| a[i].round_ties_even())
    }
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    unsafe fn exp2_int(n: Self::V) -> Self::V {
        lanewise!(|i: usize| f32::from_bits(((n[i] as i32 + 127) as u32) << 23))
    }
}
