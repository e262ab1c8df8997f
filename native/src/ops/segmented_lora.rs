//! What adapters add to a base matmul's product, in place:
//! `y[i] ← g ⊙ (y[i] + Σ_k w_k · s_k · B_k (A_k x[i])) + Σ_k w_k · o_k` over the adapters of row i's segment; rows of the base
//! are in no segment.
//!
//! Source: Punica's SGMV (arXiv 2310.18547), S-LoRA (arXiv 2311.03285) for adapters of different rank in one batch.

use super::{OpEnv, Shared, parallel};
use crate::adapters::resident::{Part, SiteDelta};
use crate::error::Result;
use crate::kernels::lora::{Expand, GROUP, Shrink};
use crate::session::context::StepContext;
use ort::operator::ComputeContext;
use std::cell::{RefCell, UnsafeCell};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rows of one tile: long segments are cut so that all threads get some.
const TILE_ROWS: usize = 16;
/// Cost below which a run is not worth waking other threads for: some 4 µs of one thread.
const SHARE_COST: usize = 128 << 10;
/// A tile is cut where each thread would get fewer tiles of its size: the last one would keep others waiting.
const LEAST_TILES_PER_THREAD: usize = 4;
/// Turns of a wait before it lets other threads of the system run.
const SPINS: usize = 1 << 10;

thread_local! {
    /// The [rows, rank] intermediate of one tile.
    static SHRUNK: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The product and what it was made of.
#[derive(Clone, Copy)]
struct Io {
    x: Shared<f32>,
    y: Shared<f32>,
    in_features: usize,
    out_features: usize,
}

/// Adds to `y` [rows, out], whose rows are those of `x` [rows, in]: both hold every row of the step's segments, with
/// `at_head` those that reach the head.
pub fn add(
    env: &OpEnv,
    ctx: &ComputeContext,
    step: &StepContext,
    (site, at_head): (usize, bool),
    x: *const f32,
    y: Shared<f32>,
) -> Result<()> {
    let (in_features, out_features) = env.sites[site];
    let io = Io { x: Shared(x.cast_mut()), y, in_features, out_features };
    let terms = terms_at(step, site);
    let tiles = tiles_of(step, &terms, at_head);
    let cost: usize = tiles.iter().map(Tile::cost).sum();
    if env.threads <= 1 || cost < SHARE_COST {
        for tile in &tiles {
            whole_tile(env, io, tile);
        }
        return Ok(());
    }
    // What is large beside a thread's share is cut over all threads; the rest is dealt out whole.
    let cut: Vec<CutTile<'_>> =
        tiles.iter().filter(|tile| tile.is_large(cost, env.threads)).map(|tile| CutTile::new(tile, env.threads)).collect();
    let whole: Vec<&Tile<'_>> = tiles.iter().filter(|tile| !tile.is_large(cost, env.threads)).collect();
    let work = Work { env, io, cut: &cut, whole: &whole, next: AtomicUsize::new(0) };
    parallel(ctx, env.threads, env.threads.min(work.units()), |_| work.take_units())
}

/// What one adapter adds at this site, and how strongly.
struct Term<'a> {
    delta: &'a SiteDelta,
    /// The adapter's slab.
    weights: &'a [u8],
    strength: f32,
}

/// What the segments' adapters add at `site`, one segment's terms after the other's; with each segment's end.
fn terms_at(step: &StepContext, site: usize) -> (Vec<Term<'_>>, Vec<usize>) {
    let mut terms = Vec::with_capacity(step.segments.len());
    let mut ends = Vec::with_capacity(step.segments.len());
    for segment in &step.segments {
        for (adapter, strength) in &segment.terms {
            if let Some(delta) = &adapter.sites[site] {
                terms.push(Term { delta, weights: adapter.slab.bytes(), strength: *strength });
            }
        }
        ends.push(terms.len());
    }
    (terms, ends)
}

/// Rows `start .. end` of one segment, and what its adapters add here.
struct Tile<'a> {
    start: usize,
    end: usize,
    terms: &'a [Term<'a>],
}

fn tiles_of<'a>(step: &StepContext, (terms, ends): &'a (Vec<Term<'a>>, Vec<usize>), at_head: bool) -> Vec<Tile<'a>> {
    let mut tiles = Vec::with_capacity(step.segments.len());
    let mut first = 0;
    for (segment, &end) in step.segments.iter().zip(ends) {
        let terms = &terms[first..end];
        first = end;
        if terms.is_empty() {
            continue;
        }
        let rows = segment.rows_of(at_head);
        for start in rows.clone().step_by(TILE_ROWS) {
            tiles.push(Tile { start, end: rows.end.min(start + TILE_ROWS), terms });
        }
    }
    tiles
}

impl Tile<'_> {
    /// Bytes of factors; rows beyond the first few cost arithmetic instead, about as much for every four.
    fn cost(&self) -> usize {
        let bytes: usize = self.terms.iter().map(|term| term.delta.bytes()).sum();
        bytes * (self.end - self.start).div_ceil(4)
    }

    /// One of several terms stays whole: all add to the same outputs, in their order.
    fn is_large(&self, all: usize, threads: usize) -> bool {
        self.terms.len() == 1 && self.cost() * LEAST_TILES_PER_THREAD * threads > all
    }
}

/// A tile of one term in parts for several threads: adapter rows of the shrink, then panels of the expand.
struct CutTile<'a> {
    tile: &'a Tile<'a>,
    term: &'a Term<'a>,
    /// f32 [rows, rank].
    h: Box<[UnsafeCell<f32>]>,
    /// Adapter rows of each part, whole groups.
    ranks: usize,
    /// Panels of each part, counted over all modules.
    panels: usize,
    /// Parts of the shrink that are not done.
    pending: AtomicUsize,
}

// SAFETY: parts of the shrink write distinct columns of h, and parts of the expand read it once `pending` is 0.
unsafe impl Sync for CutTile<'_> {}

impl<'a> CutTile<'a> {
    fn new(tile: &'a Tile<'a>, threads: usize) -> Self {
        let term = &tile.terms[0];
        let delta = term.delta;
        let h = (0..(tile.end - tile.start) * delta.rank).map(|_| UnsafeCell::new(0.0)).collect();
        // At least one group: the rank is 0 where an adapter only has biases.
        let ranks = delta.rank.div_ceil(threads).max(1).next_multiple_of(GROUP);
        let panels = delta.parts.iter().map(Part::panels).sum::<usize>().div_ceil(threads).max(1);
        let cut = Self { tile, term, h, ranks, panels, pending: AtomicUsize::new(0) };
        cut.pending.store(cut.shrinks(), Ordering::Relaxed);
        cut
    }

    fn shrinks(&self) -> usize {
        self.term.delta.rank.div_ceil(self.ranks)
    }

    fn expands(&self) -> usize {
        self.term.delta.parts.iter().map(Part::panels).sum::<usize>().div_ceil(self.panels)
    }

    fn h(&self) -> *mut f32 {
        self.h.as_ptr().cast_mut().cast()
    }

    fn shrink(&self, env: &OpEnv, io: Io, part: usize) {
        let _done = Countdown(&self.pending);
        let ranks = (part * self.ranks, self.term.delta.rank.min((part + 1) * self.ranks));
        // SAFETY: each part is claimed once and writes its own columns of h [rows, rank].
        unsafe { (env.kernels.shrink)(&shrink_args(io, self.tile, self.term, ranks, self.h())) }
    }

    fn expand(&self, env: &OpEnv, io: Io, part: usize) {
        self.wait_for_shrinks();
        let (from, to) = (part * self.panels, (part + 1) * self.panels);
        let mut first = 0;
        for module in &self.term.delta.parts {
            let last = first + module.panels();
            let panels = (from.clamp(first, last) - first, to.clamp(first, last) - first);
            if panels.0 < panels.1 {
                // SAFETY: each part is claimed once and owns its panels of y; h is complete and only read.
                unsafe { (env.kernels.expand)(&expand_args(io, self.tile, self.term, module, panels, self.h())) };
            }
            first = last;
        }
    }

    /// Every part of the shrink was claimed before this part of the expand, by a thread that is at it and waits for nobody.
    fn wait_for_shrinks(&self) {
        let mut turns = 0;
        while self.pending.load(Ordering::Acquire) > 0 {
            turns += 1;
            if turns < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

/// Counts down when a part ends, also by a panic: nobody must wait for it for ever.
struct Countdown<'a>(&'a AtomicUsize);

impl Drop for Countdown<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// Everything that one run of the operator has to do, in units that threads claim in order: shrinks of cut tiles, whole
/// tiles, expands of cut tiles.
struct Work<'a> {
    env: &'a OpEnv,
    io: Io,
    cut: &'a [CutTile<'a>],
    whole: &'a [&'a Tile<'a>],
    next: AtomicUsize,
}

impl Work<'_> {
    fn units(&self) -> usize {
        self.whole.len() + self.cut.iter().map(|tile| tile.shrinks() + tile.expands()).sum::<usize>()
    }

    /// Does units until all are claimed.
    fn take_units(&self) {
        while self.take(self.next.fetch_add(1, Ordering::Relaxed)) {}
    }

    /// Does unit `at`; false when there are fewer.
    fn take(&self, mut at: usize) -> bool {
        for tile in self.cut {
            if at < tile.shrinks() {
                tile.shrink(self.env, self.io, at);
                return true;
            }
            at -= tile.shrinks();
        }
        if let Some(tile) = self.whole.get(at) {
            whole_tile(self.env, self.io, tile);
            return true;
        }
        at -= self.whole.len();
        for tile in self.cut {
            if at < tile.expands() {
                tile.expand(self.env, self.io, at);
                return true;
            }
            at -= tile.expands();
        }
        false
    }
}

/// Shrink and expand of one tile in this thread.
fn whole_tile(env: &OpEnv, io: Io, tile: &Tile<'_>) {
    SHRUNK.with_borrow_mut(|h| {
        for term in tile.terms {
            let delta = term.delta;
            let rows = tile.end - tile.start;
            if h.len() < rows * delta.rank {
                h.resize(rows * delta.rank, 0.0);
            }
            // SAFETY: h holds [rows, rank]; this task owns the tile's rows of y.
            unsafe {
                (env.kernels.shrink)(&shrink_args(io, tile, term, (0, delta.rank), h.as_mut_ptr()));
                for part in &delta.parts {
                    (env.kernels.expand)(&expand_args(io, tile, term, part, (0, part.panels()), h.as_ptr()));
                }
            }
        }
    });
}

fn shrink_args(io: Io, tile: &Tile<'_>, term: &Term<'_>, ranks: (usize, usize), h: *mut f32) -> Shrink {
    let delta = term.delta;
    Shrink {
        // SAFETY: the tile's rows are rows of x.
        x: unsafe { io.x.get().add(tile.start * io.in_features) },
        x_stride: io.in_features,
        rows: tile.end - tile.start,
        width: io.in_features,
        a: term.weights[delta.a..].as_ptr(),
        stored: delta.stored,
        ranks,
        scale: delta.scale.as_ptr(),
        strength: term.strength,
        h,
        h_stride: delta.rank,
    }
}

fn expand_args(io: Io, tile: &Tile<'_>, term: &Term<'_>, part: &Part, panels: (usize, usize), h: *const f32) -> Expand {
    Expand {
        // SAFETY: the part's adapter rows lie inside h's columns.
        h: unsafe { h.add(part.rank_offset) },
        h_stride: term.delta.rank,
        rows: tile.end - tile.start,
        rank: part.rank,
        b: term.weights[part.b..].as_ptr(),
        stored: term.delta.stored,
        panels,
        width: part.out_features,
        // SAFETY: the tile's rows are rows of y, the part's columns lie inside them (checked with the manifest).
        y: unsafe { io.y.get().add(tile.start * io.out_features + part.out_offset) },
        y_stride: io.out_features,
        gain: part.gain.as_ref().map_or(std::ptr::null(), Vec::as_ptr),
        offset: part.offset.as_ref().map_or(std::ptr::null(), Vec::as_ptr),
        strength: term.strength,
    }
}
