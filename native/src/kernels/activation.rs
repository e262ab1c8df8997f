//! SwiGLU's elementwise half: `silu(gate) ⊙ up`.

use super::simd::{LANES, Simd};

/// `out[c] = gate[c] / (1 + e^−gate[c]) · up[c]` for one row of `width` columns.
///
/// # Safety
/// `gate` and `up` are readable and `out` is writable for `width` elements; `out` may be neither; the CPU has `S`.
#[inline(always)]
pub unsafe fn gated_silu<S: Simd>(gate: *const f32, up: *const f32, out: *mut f32, width: usize) {
    let mut c = 0;
    while c < width {
        let n = (width - c).min(LANES);
        // SAFETY: c + n ≤ width.
        unsafe {
            let (g, u) = if n == LANES {
                (S::load(gate.add(c)), S::load(up.add(c)))
            } else {
                (S::load_partial(gate.add(c), n), S::load_partial(up.add(c), n))
            };
            let denominator = S::add(S::splat(1.0), S::exp(S::mul(g, S::splat(-1.0))));
            let value = S::mul(S::div(g, denominator), u);
            if n == LANES {
                S::store(out.add(c), value);
            } else {
                S::store_partial(out.add(c), n, value);
            }
        }
        c += n;
    }
}
