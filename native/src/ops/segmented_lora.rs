//! What adapters add to a base matmul's product, in place:
//! `y[i] ← g ⊙ (y[i] + Σ_k w_k · s_k · B_k (A_k x[i])) + Σ_k w_k · o_k` over the adapters of row i's segment; rows of the base
//! are in no segment.
//!
//! Source: Punica's SGMV (arXiv 2310.18547), S-LoRA (arXiv 2311.03285) for adapters of different rank in one batch.

use super::product::Product;
use super::shares::Shares;
use super::tiles::{Io, Term, Tile, terms_at, tiles_of};
use super::{OpEnv, Shared, parallel};
use crate::adapters::resident::Part;
use crate::error::Result;
use crate::kernels::ahead::ask_for;
use crate::kernels::lora::GROUP;
use crate::session::context::StepContext;
use ort::operator::ComputeContext;
use std::cell::{RefCell, UnsafeCell};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Cost of all tiles below which cutting one saves less than its parts cost to hand out: some 4 µs of one thread.
const LEAST_CUT_COST: usize = 128 << 10;
/// Turns of a wait before it lets other threads of the system run.
const SPINS: usize = 1 << 10;

thread_local! {
    /// The [rows, rank] intermediate of one tile.
    static SHRUNK: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The product `y` [rows, out] of `x` [rows, in], and what adapters add to it: both hold every row of the step's segments,
/// with `at_head` those that reach the head.
///
/// One run of the pool does it all: who is done with the product shrinks, and expands once all of the product is done.
pub fn multiply_and_add(
    env: &OpEnv,
    ctx: &ComputeContext,
    product: &Product<'_>,
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
    // What is large beside a thread's share is cut over all threads; the rest is dealt out whole.
    let cuts = env.threads > 1 && cost >= LEAST_CUT_COST;
    let (cut, whole): (Vec<_>, Vec<_>) = tiles.iter().partition(|tile| cuts && tile.is_large(cost, env.threads));
    let cut: Vec<CutTile<'_>> = cut.into_iter().map(|tile| CutTile::new(tile, env.threads)).collect();
    let work = Work::new(env, io, &cut, &whole, product.parts);
    let (parts, arrived) = (product.shares(env.threads), AtomicUsize::new(0));
    parallel(ctx, env.threads, env.threads.min(product.parts.max(work.units())), |_| {
        let worker = arrived.fetch_add(1, Ordering::Relaxed);
        parts.draw_all(worker, |part, next| {
            let _done = Countdown(&work.unmultiplied);
            if next.is_none() {
                work.ask_ahead(worker);
            }
            (product.multiply)(part, next);
        });
        work.take_units(worker);
    })
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
        let h = (0..tile.rows() * delta.rank).map(|_| UnsafeCell::new(0.0)).collect();
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

    fn shrink(&self, work: &Work<'_>, part: usize) {
        let _done = Countdown(&self.pending);
        let ranks = (part * self.ranks, self.term.delta.rank.min((part + 1) * self.ranks));
        // SAFETY: each part is claimed once and writes its own columns of h [rows, rank].
        unsafe { (work.env.kernels.shrink)(&self.tile.shrink(work.io, self.term, ranks, self.h())) }
    }

    fn expand(&self, work: &Work<'_>, part: usize) {
        wait_for(&work.unmultiplied);
        // Every part of the shrink was claimed before this one, by a thread that is at it and waits for nobody.
        wait_for(&self.pending);
        let (from, to) = (part * self.panels, (part + 1) * self.panels);
        let mut first = 0;
        for module in &self.term.delta.parts {
            let last = first + module.panels();
            let panels = (from.clamp(first, last) - first, to.clamp(first, last) - first);
            if panels.0 < panels.1 {
                // SAFETY: each part is claimed once and owns its panels of y; h is complete and only read.
                unsafe { (work.env.kernels.expand)(&self.tile.expand(work.io, self.term, (module, panels), self.h(), std::ptr::null())) };
            }
            first = last;
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

/// Waits for parts that threads are at; they wait for nobody.
fn wait_for(pending: &AtomicUsize) {
    let mut turns = 0;
    while pending.load(Ordering::Acquire) > 0 {
        turns += 1;
        if turns < SPINS {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

/// Everything that adapters have to do in one run of the operator, in units that threads claim in order: shrinks of cut
/// tiles, whole tiles, expands of cut tiles.
struct Work<'a> {
    env: &'a OpEnv,
    io: Io,
    cut: &'a [CutTile<'a>],
    whole: &'a [&'a Tile<'a>],
    /// Of `whole`.
    tiles: Shares,
    next_shrink: AtomicUsize,
    next_expand: AtomicUsize,
    /// Parts of the product that are not done.
    unmultiplied: AtomicUsize,
}

impl<'a> Work<'a> {
    fn new(env: &'a OpEnv, io: Io, cut: &'a [CutTile<'a>], whole: &'a [&'a Tile<'a>], parts: usize) -> Self {
        let tiles = Shares::new(whole.iter().map(|tile| tile.cost()), env.threads.max(1));
        let counter = || AtomicUsize::new(0);
        Self { env, io, cut, whole, tiles, next_shrink: counter(), next_expand: counter(), unmultiplied: AtomicUsize::new(parts) }
    }

    fn units(&self) -> usize {
        self.whole.len() + self.cut.iter().map(|tile| tile.shrinks().max(tile.expands())).sum::<usize>()
    }

    /// Does units until all are claimed.
    fn take_units(&self, worker: usize) {
        let draw = |counter: &AtomicUsize| counter.fetch_add(1, Ordering::Relaxed);
        while self.take(draw(&self.next_shrink), CutTile::shrinks, CutTile::shrink) {}
        self.tiles.draw_all(worker, |tile, next| {
            let next = next.and_then(|next| self.whole[next].terms.first());
            self.whole_tile(self.whole[tile], next.map_or(std::ptr::null(), |term| term.factors().as_ptr()));
        });
        while self.take(draw(&self.next_expand), CutTile::expands, CutTile::expand) {}
    }

    /// Does the cut tiles' unit `at`; false when there are fewer.
    fn take(&self, mut at: usize, count: fn(&CutTile<'a>) -> usize, unit: fn(&CutTile<'a>, &Self, usize)) -> bool {
        for tile in self.cut {
            if at < count(tile) {
                unit(tile, self, at);
                return true;
            }
            at -= count(tile);
        }
        false
    }

    /// Asks for the beginning of what thread `worker` reads after the product: too little for a stream to be noticed.
    fn ask_ahead(&self, worker: usize) {
        let tile = self.tiles.peek(worker).map(|tile| self.whole[tile]);
        if let Some(term) = tile.and_then(|tile| tile.terms.first()) {
            ask_for(term.factors());
        }
    }

    /// Shrink and expand of one tile in this thread, which reads `next` after it.
    fn whole_tile(&self, tile: &Tile<'_>, next: *const u8) {
        let (env, io) = (self.env, self.io);
        SHRUNK.with_borrow_mut(|h| {
            for (at, term) in tile.terms.iter().enumerate() {
                let delta = term.delta;
                let next = tile.terms.get(at + 1).map_or(next, |term| term.factors().as_ptr());
                if h.len() < tile.rows() * delta.rank {
                    h.resize(tile.rows() * delta.rank, 0.0);
                }
                // SAFETY: h holds [rows, rank]; this task owns the tile's rows of y once the product is complete.
                unsafe {
                    (env.kernels.shrink)(&tile.shrink(io, term, (0, delta.rank), h.as_mut_ptr()));
                    wait_for(&self.unmultiplied);
                    for part in &delta.parts {
                        (env.kernels.expand)(&tile.expand(io, term, (part, (0, part.panels())), h.as_ptr(), next));
                    }
                }
            }
        });
    }
}
