//! Attention of one query row over paged keys and values, for the query heads that share one key/value head.
//!
//! Keys lie transposed in their page, `[dim, slot]`, so that the scores of a page's 16 slots are one vector and need no
//! lane sums; values lie `[slot, dim]`. Pages are walked in absolute order and each page starts at a multiple of its
//! size, so a row's sums have one order whatever the batch or the prefill chunk. Elements of 16 bits widen to float32 as they
//! are loaded; all sums are float32's.

use super::simd::{Dtype, LANES, Simd};

/// Slots of one KV page: as many as a vector has lanes.
pub const PAGE: usize = LANES;
/// How many pages ahead of its reads a kernel asks for memory. Pages lie anywhere, so no hardware guesses the next one.
const PREFETCH_PAGES: usize = 2;
const LINE_BYTES: usize = 64;

/// Widens LANES numbers of keys or values.
trait Element {
    /// Bytes.
    const SIZE: usize;
    unsafe fn load<S: Simd>(p: *const u8) -> S::V;
}
struct F32;
struct F16;
struct Bf16;
// SAFETY (all blocks below): the caller vouches for LANES numbers at p.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Element for F32 {
    const SIZE: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::V {
        unsafe { S::load(p.cast()) }
    }
}
#[allow(clippy::undocumented_unsafe_blocks)]
impl Element for F16 {
    const SIZE: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::V {
        unsafe { S::load_f16(p.cast()) }
    }
}
#[allow(clippy::undocumented_unsafe_blocks)]
impl Element for Bf16 {
    const SIZE: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(p: *const u8) -> S::V {
        unsafe { S::load_bf16(p.cast()) }
    }
}

/// One row's attention within one group of query heads.
pub struct Attend {
    /// f32 [group, dim]: rotated queries in, outputs out.
    pub q: *mut f32,
    pub group: usize,
    pub dim: usize,
    /// `dim` rounded up to LANES: the row length of a page of values.
    pub padded_dim: usize,
    /// Of keys and values.
    pub dtype: Dtype,
    /// Page `b` of this layer and head: keys [dim, PAGE] at element `b · key_stride`, values `[PAGE, padded_dim]` at element
    /// `b · value_stride`.
    pub keys: *const u8,
    pub key_stride: usize,
    pub values: *const u8,
    pub value_stride: usize,
    /// int32 [ceil(end / PAGE)]: page of each 16 positions.
    pub block_table: *const i32,
    /// Visible positions `begin .. end`.
    pub begin: usize,
    pub end: usize,
    pub scale: f32,
    /// Scratch f32, at least `group · (end rounded up to PAGE)`.
    pub scores: *mut f32,
}

/// `q[g] ← softmax(scale · q[g] · Kᵀ) · V` over the visible positions.
///
/// # Safety
/// The pointers of `args` cover what their docs say, every used entry of `block_table` is a page of the pool,
/// `begin < end`, and the CPU has `S`.
#[inline(always)]
pub unsafe fn attend<S: Simd>(args: &Attend) {
    // SAFETY: passed on from the caller.
    unsafe {
        match args.dtype {
            Dtype::F32 => attend_as::<S, F32>(args),
            Dtype::F16 => attend_as::<S, F16>(args),
            Dtype::Bf16 => attend_as::<S, Bf16>(args),
        }
    }
}

#[inline(always)]
unsafe fn attend_as<S: Simd, E: Element>(args: &Attend) {
    let mut head = 0;
    while head < args.group {
        // SAFETY: head + tile ≤ group; everything else is passed on.
        unsafe {
            match args.group - head {
                1 => attend_heads::<S, E, 1>(args, head),
                2 => attend_heads::<S, E, 2>(args, head),
                3 => attend_heads::<S, E, 3>(args, head),
                _ => attend_heads::<S, E, 4>(args, head),
            }
        }
        head += 4;
    }
}

#[inline(always)]
unsafe fn attend_heads<S: Simd, E: Element, const G: usize>(args: &Attend, head: usize) {
    // SAFETY: see `attend`; scratch rows are `stride` long, one per head of the tile.
    unsafe {
        let first_page = args.begin / PAGE;
        let last_page = args.end.div_ceil(PAGE);
        let stride = last_page * PAGE;
        let q = args.q.add(head * args.dim);

        let mut top = [S::splat(f32::NEG_INFINITY); G];
        for page in first_page..last_page {
            let keys = args.keys.add(page_index(args, page) * args.key_stride * E::SIZE);
            let ahead = page_ahead(args, page, last_page, (args.keys, args.key_stride * E::SIZE));
            let mut even = [S::splat(0.0); G];
            let mut odd = [S::splat(0.0); G];
            let mut d = 0;
            while d + 2 <= args.dim {
                S::prefetch(ahead.wrapping_add(d * PAGE * E::SIZE));
                if PAGE * E::SIZE >= LINE_BYTES {
                    S::prefetch(ahead.wrapping_add((d + 1) * PAGE * E::SIZE));
                }
                let k0 = E::load::<S>(keys.add(d * PAGE * E::SIZE));
                let k1 = E::load::<S>(keys.add((d + 1) * PAGE * E::SIZE));
                for g in 0..G {
                    even[g] = S::mul_add(S::splat(*q.add(g * args.dim + d)), k0, even[g]);
                    odd[g] = S::mul_add(S::splat(*q.add(g * args.dim + d + 1)), k1, odd[g]);
                }
                d += 2;
            }
            if d < args.dim {
                let k0 = E::load::<S>(keys.add(d * PAGE * E::SIZE));
                for g in 0..G {
                    even[g] = S::mul_add(S::splat(*q.add(g * args.dim + d)), k0, even[g]);
                }
            }
            for g in 0..G {
                let out = args.scores.add(g * stride + page * PAGE);
                S::store(out, S::mul(S::add(even[g], odd[g]), S::splat(args.scale)));
                mask_page(args, page, out);
                top[g] = S::max(top[g], S::load(out));
            }
        }

        let mut inverse = [0.0f32; G];
        for g in 0..G {
            let top = S::splat(-S::max_lane(top[g]));
            let mut total = S::splat(0.0);
            for page in first_page..last_page {
                let p = args.scores.add(g * stride + page * PAGE);
                S::store(p, S::exp(S::add(S::load(p), top)));
                // The exponential of a masked slot is tiny, not zero: take it out of the sum.
                zero_page(args, page, p);
                total = S::add(total, S::load(p));
            }
            inverse[g] = 1.0 / S::sum(total);
        }

        let mut c = 0;
        while c < args.dim {
            if S::WIDE_TILES && c + 4 * LANES <= args.padded_dim {
                weigh_values::<S, E, G, 4>(args, q, c, first_page, last_page, stride, &inverse);
                c += 4 * LANES;
            } else if c + 2 * LANES <= args.padded_dim {
                weigh_values::<S, E, G, 2>(args, q, c, first_page, last_page, stride, &inverse);
                c += 2 * LANES;
            } else {
                weigh_values::<S, E, G, 1>(args, q, c, first_page, last_page, stride, &inverse);
                c += LANES;
            }
        }
    }
}

/// Columns `c .. c + C·LANES` of the output; none past `padded_dim`.
#[inline(always)]
unsafe fn weigh_values<S: Simd, E: Element, const G: usize, const C: usize>(
    args: &Attend,
    out: *mut f32,
    c: usize,
    first_page: usize,
    last_page: usize,
    stride: usize,
    inverse: &[f32; G],
) {
    // SAFETY: values have padded_dim columns, so a full vector at any c < dim is readable; stores stop at dim.
    unsafe {
        let mut acc = [[S::splat(0.0); C]; G];
        for page in first_page..last_page {
            let values = args.values.add((page_index(args, page) * args.value_stride + c) * E::SIZE);
            let ahead = page_ahead(args, page, last_page, (args.values, args.value_stride * E::SIZE)).wrapping_add(c * E::SIZE);
            let from = args.begin.max(page * PAGE) - page * PAGE;
            let to = args.end.min((page + 1) * PAGE) - page * PAGE;
            for slot in from..to {
                let mut v = [S::splat(0.0); C];
                for (part, v) in v.iter_mut().enumerate() {
                    let at = (slot * args.padded_dim + part * LANES) * E::SIZE;
                    // Vectors that share a line ask for it once.
                    if (part * LANES * E::SIZE).is_multiple_of(LINE_BYTES) {
                        S::prefetch(ahead.wrapping_add(at));
                    }
                    *v = E::load::<S>(values.add(at));
                }
                for (g, sums) in acc.iter_mut().enumerate() {
                    let p = S::splat(*args.scores.add(g * stride + page * PAGE + slot));
                    for (sum, v) in sums.iter_mut().zip(v) {
                        *sum = S::mul_add(p, v, *sum);
                    }
                }
            }
        }
        for (g, sums) in acc.iter().enumerate() {
            for (part, &sum) in sums.iter().enumerate() {
                let column = c + part * LANES;
                if column < args.dim {
                    let n = (args.dim - column).min(LANES);
                    S::store_partial(out.add(g * args.dim + column), n, S::mul(sum, S::splat(inverse[g])));
                }
            }
        }
    }
}

#[inline(always)]
#[allow(clippy::cast_sign_loss)]
unsafe fn page_index(args: &Attend, page: usize) -> usize {
    // SAFETY: page < ceil(end / PAGE), the table's length; the step context checked that its entries are pages.
    unsafe { *args.block_table.add(page) as usize }
}

/// Where the page lies that is read a few pages after `page`; `pool` is its page 0 and the bytes between pages. An address
/// to ask for, not to read.
#[inline(always)]
unsafe fn page_ahead(args: &Attend, page: usize, last_page: usize, (first, stride): (*const u8, usize)) -> *const u8 {
    // SAFETY: stays below last_page, as `page` does.
    let page = unsafe { page_index(args, (page + PREFETCH_PAGES).min(last_page - 1)) };
    first.wrapping_add(page * stride)
}

#[inline(always)]
unsafe fn mask_page(args: &Attend, page: usize, scores: *mut f32) {
    // SAFETY: scores holds PAGE elements.
    unsafe { fill_invisible(args, page, scores, f32::NEG_INFINITY) }
}

#[inline(always)]
unsafe fn zero_page(args: &Attend, page: usize, weights: *mut f32) {
    // SAFETY: weights holds PAGE elements.
    unsafe { fill_invisible(args, page, weights, 0.0) }
}

#[inline(always)]
unsafe fn fill_invisible(args: &Attend, page: usize, p: *mut f32, value: f32) {
    let start = page * PAGE;
    for slot in 0..args.begin.saturating_sub(start).min(PAGE) {
        // SAFETY: slot < PAGE.
        unsafe { *p.add(slot) = value };
    }
    for slot in (args.end - start).min(PAGE)..PAGE {
        // SAFETY: slot < PAGE.
        unsafe { *p.add(slot) = value };
    }
}
