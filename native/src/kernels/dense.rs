//! The float32 base matmul `y = x · Wᵀ`. Every output is one chain of multiply-adds over the input columns in their order,
//! so a row's result depends neither on the rows beside it nor on the tile it falls into.
//!
//! Packed W: panels of LANES output columns (zeros behind the last), each `[inputs, LANES]`: a tile reads its weights as
//! one stream per panel, and while it multiplies it asks for those of the next group of panels, so that memory is read
//! at an even pace whether a group meets one row or sixteen.

use super::simd::{LANES, Simd};

/// Panels that a tile of a set with enough registers spans.
pub const GROUP: usize = 3;
/// Rows of the tallest tile.
const HEIGHT: usize = 8;
const LINE_BYTES: usize = 64;

/// `y[i, n] = Σ_c x[i, c] · w[n, c]` for `rows` rows and the output columns of panels `panels`.
pub struct Matmul {
    /// f32 `[rows, inputs]`.
    pub x: *const f32,
    pub rows: usize,
    pub inputs: usize,
    /// Packed, see above.
    pub w: *const f32,
    /// Panels to compute, `panels.0 .. panels.1`.
    pub panels: (usize, usize),
    /// The panel whose weights this thread reads after these; None when it reads no more.
    pub next_panel: Option<usize>,
    /// Output columns of the matrix.
    pub width: usize,
    /// f32 `[rows, width]`, overwritten.
    pub y: *mut f32,
}

/// # Safety
/// The pointers of `args` cover the shapes that their docs give; `y` overlaps nothing else; the CPU has `S`.
#[inline(always)]
pub unsafe fn matmul<S: Simd>(args: &Matmul) {
    let mut panel = args.panels.0;
    while panel < args.panels.1 {
        // As tall as registers allow; three panels side by side read fewer activations for each product.
        let wide = (S::SUMS >= HEIGHT * GROUP || args.rows * GROUP <= S::SUMS) && args.panels.1 - panel >= GROUP;
        // SAFETY: tiles of three panels run only where three are left.
        unsafe {
            if wide {
                all_rows::<S, GROUP>(args, panel, HEIGHT.min(S::SUMS / GROUP).max(1));
                panel += GROUP;
            } else {
                all_rows::<S, 1>(args, panel, HEIGHT.min(S::SUMS));
                panel += 1;
            }
        }
    }
}

/// Weights to ask for: `lines` cache lines for each input column.
#[derive(Clone, Copy)]
struct Ahead {
    at: *const u8,
    lines: usize,
}

/// Every row against panels `panel .. panel + P` in tiles of about the same height, at most `height`.
#[inline(always)]
unsafe fn all_rows<S: Simd, const P: usize>(args: &Matmul, panel: usize, height: usize) {
    let tiles = args.rows.div_ceil(height);
    let following = if panel + P < args.panels.1 { Some(panel + P) } else { args.next_panel };
    for t in 0..tiles {
        let (begin, end) = (args.rows * t / tiles, args.rows * (t + 1) / tiles);
        // The tiles share out the lines of the panels that follow.
        let (first, last) = (P * t / tiles, P * (t + 1) / tiles);
        let ahead = match following {
            Some(next) => Ahead {
                at: args.w.wrapping_add((next * args.inputs) * LANES).cast::<u8>().wrapping_add(first * args.inputs * LINE_BYTES),
                lines: last - first,
            },
            None => Ahead { at: std::ptr::null(), lines: 0 },
        };
        // SAFETY: rows begin .. end lie in x and y, and a tile is never taller than `height`.
        unsafe {
            match end - begin {
                1 => tile::<S, 1, P>(args, begin, panel, ahead),
                2 => tile::<S, 2, P>(args, begin, panel, ahead),
                3 => tile::<S, 3, P>(args, begin, panel, ahead),
                4 => tile::<S, 4, P>(args, begin, panel, ahead),
                5 => tile::<S, 5, P>(args, begin, panel, ahead),
                6 => tile::<S, 6, P>(args, begin, panel, ahead),
                7 => tile::<S, 7, P>(args, begin, panel, ahead),
                _ => tile::<S, 8, P>(args, begin, panel, ahead),
            }
        }
    }
}

/// Rows `i .. i + R` against panels `panel .. panel + P`.
#[inline(always)]
unsafe fn tile<S: Simd, const R: usize, const P: usize>(args: &Matmul, i: usize, panel: usize, ahead: Ahead) {
    // Tiles that `matmul` does not choose leave no code.
    if R * P > S::SUMS {
        return;
    }
    let inputs = args.inputs;
    // SAFETY: the caller keeps rows and panels in range.
    unsafe {
        let x = args.x.add(i * inputs);
        let w = args.w.add(panel * inputs * LANES);
        let mut y = [[S::splat(0.0); P]; R];
        let mut at = ahead.at;
        for c in 0..inputs {
            for _ in 0..ahead.lines {
                S::prefetch(at);
                at = at.wrapping_add(LINE_BYTES);
            }
            let mut weights = [S::splat(0.0); P];
            for (p, vector) in weights.iter_mut().enumerate() {
                *vector = S::load(w.add((p * inputs + c) * LANES));
            }
            for (r, row) in y.iter_mut().enumerate() {
                let value = S::splat(*x.add(r * inputs + c));
                for (p, sum) in row.iter_mut().enumerate() {
                    *sum = S::mul_add(weights[p], value, *sum);
                }
            }
        }
        for (r, row) in y.iter().enumerate() {
            for (p, value) in row.iter().enumerate() {
                let column = (panel + p) * LANES;
                let out = args.y.add((i + r) * args.width + column);
                let left = args.width - column;
                if left >= LANES { S::store(out, *value) } else { S::store_partial(out, left, *value) }
            }
        }
    }
}
