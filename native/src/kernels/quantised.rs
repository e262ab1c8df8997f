//! The quantised base matmul `y = x · Wᵀ`: W in blocks of 32 input columns at 8 or 4 bits, x rounded to 8 bits in the same
//! blocks, each row by itself. Products are summed as integers within a block, exactly and in any order; blocks are added
//! in float32 in one fixed order, so a row's result depends neither on the rows beside it nor on the tile it falls into.
//!
//! Packed W: panels of LANES output columns (zeros behind the last), each `[blocks, 32 / 4, LANES, 4]` quants, so that a
//! vector holds four neighbouring inputs of every output column. 8 bits: one byte each, `value = (q − 128) · scale`.
//! 4 bits: of each 64 bytes the low nibbles are one group of four inputs and the high nibbles the next,
//! `value = q · scale + min`. Scales and minima: float16 `[panels, blocks, LANES]`.

use super::byte_dot::{ByteDot, QUAD, VECTOR};
use super::simd::{LANES, Simd};

/// Input columns that share a scale.
pub const BLOCK: usize = 32;
/// How far ahead of its reads a tile asks for weights.
const PREFETCH_BYTES: usize = 2048;
/// What a quant of 8 bits is stored with, so that it has no sign.
const ZERO_POINT: i32 = 128;

/// How many bits a stored weight has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    Eight,
    Four,
}

impl Bits {
    /// Bytes of one block of one panel.
    #[must_use]
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Eight => BLOCK * LANES,
            Self::Four => BLOCK * LANES / 2,
        }
    }
}

/// One block of one rounded row: `x ≈ scale · q`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowBlock {
    pub scale: f32,
    /// `Σ q`.
    pub sum: i32,
    /// `scale · Σ q`.
    pub scaled_sum: f32,
}

/// Rounds one row of `width` columns, a multiple of BLOCK, to signed bytes: `q = round(x / scale)`, `scale = max |x| / 127`.
/// A block that holds NaN or infinity gets the scale NaN.
///
/// # Safety
/// `x` is readable and `q` writable for `width` elements, `blocks` for `width / BLOCK`; the CPU has `S` and `D`.
#[inline(always)]
#[allow(clippy::cast_precision_loss)]
pub unsafe fn quantise_row<S: Simd, D: ByteDot<S>>(x: *const f32, width: usize, q: *mut i8, blocks: *mut RowBlock) {
    for b in 0..width / BLOCK {
        // SAFETY: b < width / BLOCK, and a block is two vectors.
        unsafe {
            let (low, high) = (S::load(x.add(b * BLOCK)), S::load(x.add(b * BLOCK + LANES)));
            let magnitude = |v| S::max(v, S::mul(v, S::splat(-1.0)));
            let largest = S::max_lane(S::max(magnitude(low), magnitude(high)));
            // 0 · x is NaN where x is not finite: max forgets NaN.
            let poison = S::sum(S::mul(S::add(low, high), S::splat(0.0)));
            let inverse = S::splat(if largest > 0.0 { 127.0 / largest } else { 0.0 });
            let left = D::store_bytes(q.add(b * BLOCK), S::mul(low, inverse));
            // What is not finite became any bytes.
            let sum = left.wrapping_add(D::store_bytes(q.add(b * BLOCK + LANES), S::mul(high, inverse)));
            let scale = largest / 127.0 + poison;
            *blocks.add(b) = RowBlock { scale, sum, scaled_sum: scale * sum as f32 };
        }
    }
}

/// `y[i, n] = Σ_c x[i, c] · w[n, c]` for `rows` rows and the output columns of panels `panels`.
pub struct Matmul {
    /// i8 [rows, 32 · blocks], rounded by [`quantise_row`].
    pub x: *const i8,
    /// `[rows, blocks]`.
    pub x_blocks: *const RowBlock,
    pub rows: usize,
    pub blocks: usize,
    pub bits: Bits,
    /// Packed quants, see above.
    pub w: *const u8,
    /// Float16 `[panels, blocks, LANES]`.
    pub scales: *const u16,
    /// As `scales`; not read at 8 bits.
    pub mins: *const u16,
    /// Panels to compute, `panels.0 .. panels.1`.
    pub panels: (usize, usize),
    /// Output columns of the matrix.
    pub width: usize,
    /// f32 `[rows, width]`, overwritten.
    pub y: *mut f32,
}

/// # Safety
/// The pointers of `args` cover the shapes that their docs give; `y` overlaps nothing else; the CPU has `S` and `D`.
#[inline(always)]
pub unsafe fn matmul<S: Simd, D: ByteDot<S>>(args: &Matmul) {
    // SAFETY: passed on from the caller.
    unsafe {
        match args.bits {
            Bits::Eight => matmul_at::<S, D, 8>(args),
            Bits::Four => matmul_at::<S, D, 4>(args),
        }
    }
}

#[inline(always)]
unsafe fn matmul_at<S: Simd, D: ByteDot<S>, const BITS: usize>(args: &Matmul) {
    let mut panel = args.panels.0;
    while panel < args.panels.1 {
        // SAFETY: tiles of two panels run only where two are left.
        unsafe {
            if S::WIDE_TILES && args.panels.1 - panel >= 2 {
                all_rows::<S, D, BITS, 2>(args, panel);
                panel += 2;
            } else {
                all_rows::<S, D, BITS, 1>(args, panel);
                panel += 1;
            }
        }
    }
}

/// Every row against panels `panel .. panel + P`, which stay in the nearest cache meanwhile.
#[inline(always)]
unsafe fn all_rows<S: Simd, D: ByteDot<S>, const BITS: usize, const P: usize>(args: &Matmul, panel: usize) {
    let mut i = 0;
    while i < args.rows {
        // SAFETY: a tile is never taller than the rows that are left.
        unsafe {
            match args.rows - i {
                1 => tile::<S, D, BITS, 1, P>(args, i, panel),
                2 => tile::<S, D, BITS, 2, P>(args, i, panel),
                3 => tile::<S, D, BITS, 3, P>(args, i, panel),
                _ => tile::<S, D, BITS, 4, P>(args, i, panel),
            }
        }
        i += 4;
    }
}

/// Rows `i .. i + R` against panels `panel .. panel + P`.
#[inline(always)]
unsafe fn tile<S: Simd, D: ByteDot<S>, const BITS: usize, const R: usize, const P: usize>(args: &Matmul, i: usize, panel: usize) {
    let row_bytes = args.blocks * BLOCK;
    let block_bytes = VECTOR * BITS;
    // SAFETY: the caller keeps rows and panels in range; blocks end with them.
    unsafe {
        let x = args.x.add(i * row_bytes);
        let x_blocks = args.x_blocks.add(i * args.blocks);
        let w = args.w.add(panel * args.blocks * block_bytes);
        let factors = panel * args.blocks * LANES;
        let mut y = [[S::splat(0.0); P]; R];
        for b in 0..args.blocks {
            let mut acc = [[D::zero(); P]; R];
            if BITS == 8 {
                for (r, row) in acc.iter_mut().enumerate() {
                    let start = D::whole((*x_blocks.add(r * args.blocks + b)).sum.wrapping_mul(-ZERO_POINT));
                    row.fill(start);
                }
            }
            let w = w.add(b * block_bytes);
            let x = x.add(b * BLOCK);
            for v in 0..BITS {
                let vector = |p: usize| w.add(p * args.blocks * block_bytes + v * VECTOR);
                // Later rows find them in the cache.
                if i == 0 {
                    for p in 0..P {
                        S::prefetch(vector(p).wrapping_add(PREFETCH_BYTES));
                    }
                }
                if BITS == 8 {
                    let quants: [D::Quants; P] = std::array::from_fn(|p| D::load_quants(vector(p)));
                    for (r, row) in acc.iter_mut().enumerate() {
                        let quad = D::load_quad(x.add(r * row_bytes + v * QUAD));
                        for (p, sum) in row.iter_mut().enumerate() {
                            *sum = D::dot(*sum, quants[p], quad);
                        }
                    }
                } else {
                    let nibbles: [[D::Nibbles; 2]; P] = std::array::from_fn(|p| D::load_nibbles(vector(p)));
                    for (r, row) in acc.iter_mut().enumerate() {
                        for half in 0..2 {
                            let quad = D::load_nibble_quad(x.add(r * row_bytes + (2 * v + half) * QUAD));
                            for (p, sum) in row.iter_mut().enumerate() {
                                *sum = D::dot_nibbles(*sum, nibbles[p][half], quad);
                            }
                        }
                    }
                }
            }
            let factor = |table: *const u16, p: usize| S::load_f16(table.add(factors + (p * args.blocks + b) * LANES));
            for p in 0..P {
                let scale = factor(args.scales, p);
                for r in 0..R {
                    let block = *x_blocks.add(r * args.blocks + b);
                    let sum = if BITS == 8 { D::total(acc[r][p]) } else { D::nibble_total(acc[r][p]) };
                    y[r][p] = S::mul_add(sum, S::mul(scale, S::splat(block.scale)), y[r][p]);
                }
                if BITS == 4 {
                    let min = factor(args.mins, p);
                    for r in 0..R {
                        let block = *x_blocks.add(r * args.blocks + b);
                        y[r][p] = S::mul_add(min, S::splat(block.scaled_sum), y[r][p]);
                    }
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
