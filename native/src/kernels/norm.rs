//! The residual sum and its RMS norm, one row in one pass over memory and one over cache.

use super::simd::{LANES, Simd};

/// `sum = x + delta`, `y = sum / √(mean(sum²) + ε) ⊙ weight`.
pub struct Norm {
    /// f32 `[width]`.
    pub x: *const f32,
    /// f32 `[width]`; null: nothing is added.
    pub delta: *const f32,
    /// f32 `[width]`, may be `x`; null: the sum is not kept.
    pub sum: *mut f32,
    /// f32 `[width]`.
    pub weight: *const f32,
    pub epsilon: f32,
    pub width: usize,
    /// f32 `[width]`, overlaps nothing else.
    pub y: *mut f32,
}

/// Squares are summed lane by lane, then over the lanes: one order whatever the batch.
///
/// # Safety
/// The pointers of `args` cover what their docs say, and the CPU has `S`.
#[inline(always)]
#[allow(clippy::cast_precision_loss, reason = "a width is far below 2^24")]
pub unsafe fn residual_norm<S: Simd>(args: &Norm) {
    // SAFETY: every access is at c .. c + n with c + n ≤ width.
    unsafe {
        let mut squares = S::splat(0.0);
        let mut c = 0;
        while c < args.width {
            let n = (args.width - c).min(LANES);
            let mut v = load::<S>(args.x.add(c), n);
            if !args.delta.is_null() {
                v = S::add(v, load::<S>(args.delta.add(c), n));
            }
            if !args.sum.is_null() {
                store::<S>(args.sum.add(c), n, v);
            }
            store::<S>(args.y.add(c), n, v);
            squares = S::mul_add(v, v, squares);
            c += n;
        }
        let scale = S::splat(1.0 / (S::sum(squares) / args.width as f32 + args.epsilon).sqrt());
        let mut c = 0;
        while c < args.width {
            let n = (args.width - c).min(LANES);
            let v = S::mul(load::<S>(args.y.add(c), n), scale);
            store::<S>(args.y.add(c), n, S::mul(v, load::<S>(args.weight.add(c), n)));
            c += n;
        }
    }
}

#[inline(always)]
unsafe fn load<S: Simd>(p: *const f32, n: usize) -> S::V {
    // SAFETY: the caller vouches for n readable elements.
    unsafe { if n == LANES { S::load(p) } else { S::load_partial(p, n) } }
}

#[inline(always)]
unsafe fn store<S: Simd>(p: *mut f32, n: usize, v: S::V) {
    // SAFETY: the caller vouches for n writable elements.
    unsafe { if n == LANES { S::store(p, v) } else { S::store_partial(p, n, v) } }
}
