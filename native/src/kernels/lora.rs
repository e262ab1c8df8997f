//! SGMV in two halves, for rows that use one adapter: shrink `h = s · (x · Aᵀ)`, expand `y ← g ⊙ (y + h · Bᵀ) + o`.
//!
//! Source: Punica (arXiv 2310.18547) for the split and its names, DoRA (arXiv 2402.09353) for the gain. Each row's sums
//! run in one fixed order whatever the tile, so a row's result never depends on the rows beside it.

use super::ahead::{Jump, PREFETCH_BYTES, prefetch_behind};
use super::byte_dot::ByteDot;
use super::nibbles;
use super::simd::{Dtype, LANES, Simd};

/// Output columns of one panel of packed B.
pub const PANEL: usize = 2 * LANES;
/// Adapter rows of one group of packed A: their vectors alternate, so that a tile reads one stream.
pub const GROUP: usize = 4;
/// Bytes of a scale: bfloat16, which has float32's range.
pub const SCALE_BYTES: usize = 2;
/// How the factors of one site are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    Float(Dtype),
    /// Signed bytes, −127 … 127. An adapter row of A has one scale, folded into `Shrink::scale`; B has one for each adapter
    /// row of each panel.
    Int8,
    /// Two numbers a byte, −8 … 7 times a scale, multiplied as bytes: see [`nibbles`].
    Int4,
}

impl Stored {
    /// Bytes of packed A [rank, width]; also where adapter row `rank` lies, a multiple of GROUP.
    #[must_use]
    pub const fn a_size(self, rank: usize, width: usize) -> usize {
        match self {
            Self::Float(dtype) => rank * width.next_multiple_of(LANES) * dtype.size(),
            Self::Int8 => rank * width.next_multiple_of(LANES),
            Self::Int4 => rank.div_ceil(GROUP) * nibbles::group_size(width),
        }
    }

    /// Bytes of one panel of B [out, rank], its scales included.
    #[must_use]
    pub const fn panel_size(self, rank: usize) -> usize {
        match self {
            Self::Float(dtype) => rank * PANEL * dtype.size(),
            Self::Int8 => rank * (PANEL + SCALE_BYTES),
            Self::Int4 => nibbles::panel_size(rank),
        }
    }

    /// Bytes of packed B [outputs, rank].
    #[must_use]
    pub const fn b_size(self, outputs: usize, rank: usize) -> usize {
        outputs.div_ceil(PANEL) * self.panel_size(rank)
    }
}

/// `h[i, j] = scale[j] · Σ_c x[i, c] · a[j, c]` for `rows` rows and adapter rows `j` of `ranks`.
pub struct Shrink {
    /// f32 [rows, width], rows `x_stride` apart.
    pub x: *const f32,
    pub x_stride: usize,
    pub rows: usize,
    pub width: usize,
    /// `stored` [rank, width], rows padded with zeros to whole vectors; for int4 see [`nibbles`].
    pub a: *const u8,
    pub stored: Stored,
    /// Adapter rows to compute, `ranks.0 .. ranks.1`; whole groups: `ranks.0` is a multiple of GROUP, `ranks.1` too or rank.
    pub ranks: (usize, usize),
    /// f32 [rank] or null: scaling of each adapter row, times the segment's strength.
    pub scale: *const f32,
    pub strength: f32,
    /// f32 `[rows, h_stride]`, overwritten in columns `ranks`.
    pub h: *mut f32,
    pub h_stride: usize,
}

/// `y[i, n] += Σ_j h[i, j] · b[j, n]` for the columns of panels `panels`, then `y[i, n] *= gain[n]` if there is a gain, then
/// `y[i, n] += strength · offset[n]` if there is an offset. `rank` may be 0.
pub struct Expand {
    /// f32 `[rows, h_stride]`; column 0 is the module's first adapter row.
    pub h: *const f32,
    pub h_stride: usize,
    pub rows: usize,
    pub rank: usize,
    /// `stored` [panels, rank, PANEL]; columns past `width` are zero. As int8, each panel begins with its scales, bf16 [rank];
    /// for int4 see [`nibbles`].
    pub b: *const u8,
    pub stored: Stored,
    /// What is read after B.
    pub jump: Jump,
    /// Panels to compute, `panels.0 .. panels.1`.
    pub panels: (usize, usize),
    /// Output columns of the module.
    pub width: usize,
    /// f32 `[rows, y_stride]`, updated in place; column 0 is the module's first.
    pub y: *mut f32,
    pub y_stride: usize,
    /// f32 [width] or null: DoRA's `g`.
    pub gain: *const f32,
    /// f32 [width] or null: biases, times the segment's strength.
    pub offset: *const f32,
    pub strength: f32,
}

/// Widens what is stored, a vector of an adapter row at a time.
trait Element {
    const STORED: Stored;
    /// Bytes of a vector.
    const STEP: usize;
    /// Bytes of the scale that an adapter row has in each panel of B; 0 = none.
    const SCALE: usize = 0;
    unsafe fn load<S: Simd>(p: *const u8) -> S::V;
}
struct F32;
struct F16;
struct Bf16;
struct I8;
// SAFETY (all blocks below): the caller vouches for a whole vector at p.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Element for F32 {
    const STORED: Stored = Stored::Float(Dtype::F32);
    const STEP: usize = 4 * LANES;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::V {
        unsafe { S::load(p.cast()) }
    }
}
#[allow(clippy::undocumented_unsafe_blocks)]
impl Element for F16 {
    const STORED: Stored = Stored::Float(Dtype::F16);
    const STEP: usize = 2 * LANES;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::V {
        unsafe { S::load_f16(p.cast()) }
    }
}
#[allow(clippy::undocumented_unsafe_blocks)]
impl Element for Bf16 {
    const STORED: Stored = Stored::Float(Dtype::Bf16);
    const STEP: usize = 2 * LANES;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::V {
        unsafe { S::load_bf16(p.cast()) }
    }
}
#[allow(clippy::undocumented_unsafe_blocks)]
impl Element for I8 {
    const STORED: Stored = Stored::Int8;
    const STEP: usize = LANES;
    const SCALE: usize = SCALE_BYTES;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::V {
        unsafe { S::load_i8(p.cast()) }
    }
}

/// # Safety
/// The pointers of `args` cover the shapes that their docs give; `h` overlaps nothing else; the CPU has `S` and `D`.
#[inline(always)]
pub unsafe fn shrink<S: Simd, D: ByteDot<S>>(args: &Shrink) {
    // SAFETY: passed on from the caller.
    unsafe {
        match args.stored {
            Stored::Float(Dtype::F32) => shrink_as::<S, F32>(args),
            Stored::Float(Dtype::F16) => shrink_as::<S, F16>(args),
            Stored::Float(Dtype::Bf16) => shrink_as::<S, Bf16>(args),
            Stored::Int8 => shrink_as::<S, I8>(args),
            Stored::Int4 => nibbles::shrink::<S, D>(args),
        }
    }
}

#[inline(always)]
unsafe fn shrink_as<S: Simd, E: Element>(args: &Shrink) {
    let (first, last) = args.ranks;
    let mut i = 0;
    while i < args.rows {
        let tall = S::WIDE_TILES && args.rows - i >= 4;
        let mut j = first;
        while j < last {
            // SAFETY: i and j stay below rows and rank; tiles never pass them. `ranks.0` is a multiple of GROUP, so j is.
            unsafe {
                match (tall, (last - j).min(GROUP)) {
                    (true, 4) => shrink_tile::<S, E, 4, 4>(args, i, j),
                    (true, 3) => shrink_tile::<S, E, 4, 3>(args, i, j),
                    (true, 2) => shrink_tile::<S, E, 4, 2>(args, i, j),
                    (true, _) => shrink_tile::<S, E, 4, 1>(args, i, j),
                    (false, 4) => shrink_tile::<S, E, 1, 4>(args, i, j),
                    (false, 3) => shrink_tile::<S, E, 1, 3>(args, i, j),
                    (false, 2) => shrink_tile::<S, E, 1, 2>(args, i, j),
                    (false, _) => shrink_tile::<S, E, 1, 1>(args, i, j),
                }
            }
            j += GROUP;
        }
        i += if tall { 4 } else { 1 };
    }
}

/// Rows `i .. i + R` against one whole group of adapter rows, `j .. j + J`.
#[inline(always)]
unsafe fn shrink_tile<S: Simd, E: Element, const R: usize, const J: usize>(args: &Shrink, i: usize, j: usize) {
    // SAFETY: the caller keeps i + R ≤ rows and j + J ≤ rank; x is read to width, the group to the end of its last step.
    unsafe {
        let mut a = args.a.add(E::STORED.a_size(j, args.width));
        let mut sums = [[S::splat(0.0); J]; R];
        let mut c = 0;
        while c + LANES <= args.width {
            dot_step::<S, E, R, J, true>(args, i, c, a, &mut sums);
            a = a.add(J * E::STEP);
            c += LANES;
        }
        if c < args.width {
            dot_step::<S, E, R, J, false>(args, i, c, a, &mut sums);
        }
        for (ii, row) in sums.iter().enumerate() {
            for (jj, sum) in row.iter().enumerate() {
                let scale = if args.scale.is_null() { args.strength } else { *args.scale.add(j + jj) * args.strength };
                *args.h.add((i + ii) * args.h_stride + j + jj) = S::sum(*sum) * scale;
            }
        }
    }
}

/// One vector of inputs `c …`, all of them there if it is `WHOLE`: what cuts it short needs a call, which would cost the sums
/// their registers every time.
#[inline(always)]
unsafe fn dot_step<S: Simd, E: Element, const R: usize, const J: usize, const WHOLE: bool>(
    args: &Shrink,
    i: usize,
    c: usize,
    a: *const u8,
    sums: &mut [[S::V; J]; R],
) {
    // SAFETY: as for the caller; a vector of x is read as far as `width`.
    unsafe {
        prefetch_behind::<S>(a, J * E::STEP);
        let mut av = [S::splat(0.0); J];
        for (jj, v) in av.iter_mut().enumerate() {
            *v = E::load::<S>(a.add(jj * E::STEP));
        }
        for (ii, row) in sums.iter_mut().enumerate() {
            let x = args.x.add((i + ii) * args.x_stride + c);
            let xv = if WHOLE { S::load(x) } else { S::load_partial(x, args.width - c) };
            for (jj, sum) in row.iter_mut().enumerate() {
                *sum = S::mul_add(xv, av[jj], *sum);
            }
        }
    }
}

/// # Safety
/// The pointers of `args` cover the shapes that their docs give; `y` overlaps nothing else; the CPU has `S` and `D`.
#[inline(always)]
pub unsafe fn expand<S: Simd, D: ByteDot<S>>(args: &Expand) {
    // SAFETY: passed on from the caller.
    unsafe {
        match args.stored {
            Stored::Float(Dtype::F32) => expand_as::<S, F32>(args),
            Stored::Float(Dtype::F16) => expand_as::<S, F16>(args),
            Stored::Float(Dtype::Bf16) => expand_as::<S, Bf16>(args),
            Stored::Int8 => expand_as::<S, I8>(args),
            Stored::Int4 => nibbles::expand::<S, D>(args),
        }
    }
}

#[inline(always)]
unsafe fn expand_as<S: Simd, E: Element>(args: &Expand) {
    let mut i = 0;
    while i < args.rows {
        let height = match args.rows - i {
            8.. if S::WIDE_TILES => 8,
            4.. => 4,
            _ => 1,
        };
        // Panels inside rows: the outputs are streamed, and what is read again for the next rows is B, the smaller part.
        for panel in args.panels.0..args.panels.1 {
            // SAFETY: i + height ≤ rows.
            unsafe {
                match height {
                    8 => expand_tile::<S, E, 8>(args, panel, i),
                    4 => expand_tile::<S, E, 4>(args, panel, i),
                    _ => expand_tile::<S, E, 1>(args, panel, i),
                }
            }
        }
        i += height;
    }
}

#[inline(always)]
unsafe fn expand_tile<S: Simd, E: Element, const R: usize>(args: &Expand, panel: usize, i: usize) {
    // SAFETY: the caller keeps i + R ≤ rows and panel in range; partial loads and stores stop at the module's width.
    unsafe {
        let scales = args.b.add(panel * E::STORED.panel_size(args.rank));
        let b = scales.add(args.rank * E::SCALE);
        let row_bytes = PANEL / LANES * E::STEP;
        let ahead = args.jump.over(b, PREFETCH_BYTES);
        let mut acc = load_outputs::<S, R>(args, panel, i);
        let mut first = 0;
        while first < args.rank {
            let count = (args.rank - first).min(LANES);
            let mut scaled = [[0.0f32; LANES]; R];
            if E::SCALE > 0 {
                let scale = S::load_bf16_partial(scales.add(first * E::SCALE).cast(), count);
                for (ii, row) in scaled.iter_mut().enumerate() {
                    let h = args.h.add((i + ii) * args.h_stride + first);
                    S::store(row.as_mut_ptr(), S::mul(S::load_partial(h, count), scale));
                }
            }
            for j in 0..count {
                let p = b.add((first + j) * row_bytes);
                // Several times a line where rows are short: a branch costs more.
                S::prefetch(ahead.wrapping_add((first + j) * row_bytes));
                let low = E::load::<S>(p);
                let high = E::load::<S>(p.add(E::STEP));
                for (ii, row) in acc.iter_mut().enumerate() {
                    let h = if E::SCALE > 0 { scaled[ii][j] } else { *args.h.add((i + ii) * args.h_stride + first + j) };
                    row[0] = S::mul_add(S::splat(h), low, row[0]);
                    row[1] = S::mul_add(S::splat(h), high, row[1]);
                }
            }
            first += count;
        }
        store_outputs::<S, R>(args, panel, i, &acc);
    }
}

/// Lanes of each half of a panel that are columns of the module.
fn columns_of(args: &Expand, panel: usize) -> [usize; 2] {
    let left = args.width - panel * PANEL;
    [left.min(LANES), left.saturating_sub(LANES).min(LANES)]
}

/// The outputs of rows `i .. i + R` in one panel; zeros past the module's width.
///
/// # Safety
/// As for [`expand`]; i + R ≤ rows, and the panel is one of the module.
#[inline(always)]
pub unsafe fn load_outputs<S: Simd, const R: usize>(args: &Expand, panel: usize, i: usize) -> [[S::V; 2]; R] {
    let columns = columns_of(args, panel);
    // SAFETY: partial loads stop at the module's width.
    unsafe {
        let mut outputs = [[S::splat(0.0); 2]; R];
        for (ii, row) in outputs.iter_mut().enumerate() {
            let y = args.y.add((i + ii) * args.y_stride + panel * PANEL);
            for (half, v) in row.iter_mut().enumerate() {
                *v = match columns[half] {
                    LANES => S::load(y.add(half * LANES)),
                    0 => S::splat(0.0),
                    n => S::load_partial(y.add(half * LANES), n),
                };
            }
        }
        outputs
    }
}

/// Applies gain and offset to `outputs` and writes them back.
///
/// # Safety
/// As for [`load_outputs`].
#[inline(always)]
pub unsafe fn store_outputs<S: Simd, const R: usize>(args: &Expand, panel: usize, i: usize, outputs: &[[S::V; 2]; R]) {
    let (columns, column) = (columns_of(args, panel), panel * PANEL);
    // SAFETY: partial loads and stores stop at the module's width.
    unsafe {
        for (ii, row) in outputs.iter().enumerate() {
            let y = args.y.add((i + ii) * args.y_stride + column);
            for (half, &sum) in row.iter().enumerate() {
                let n = columns[half];
                if n == 0 {
                    continue;
                }
                let mut value = sum;
                if !args.gain.is_null() {
                    value = S::mul(value, S::load_partial(args.gain.add(column + half * LANES), n));
                }
                if !args.offset.is_null() {
                    let offset = S::load_partial(args.offset.add(column + half * LANES), n);
                    value = S::mul_add(S::splat(args.strength), offset, value);
                }
                if n == LANES {
                    S::store(y.add(half * LANES), value);
                } else {
                    S::store_partial(y.add(half * LANES), n, value);
                }
            }
        }
    }
}
