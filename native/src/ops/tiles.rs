//! A step's segments at one site, in tiles that threads take.

use super::Shared;
use crate::adapters::resident::{Part, SiteDelta};
use crate::kernels::ahead::{Jump, ask_for_slice, ask_for_value};
use crate::kernels::lora::{Expand, Shrink};
use crate::session::context::StepContext;

/// Rows of one tile: long segments are cut so that all threads get some.
const TILE_ROWS: usize = 16;
/// A tile is cut where each thread would get fewer tiles of its size: the last one would keep others waiting.
const LEAST_TILES_PER_THREAD: usize = 4;

/// The product and what it was made of.
#[derive(Clone, Copy)]
pub struct Io {
    pub x: Shared<f32>,
    pub y: Shared<f32>,
    pub in_features: usize,
    pub out_features: usize,
}

/// What one adapter adds at this site, and how strongly.
pub struct Term<'a> {
    pub delta: &'a SiteDelta,
    /// The adapter's slab.
    weights: &'a [u8],
    strength: f32,
}

impl<'a> Term<'a> {
    /// A and every B, which lie one behind the other.
    pub fn factors(&self) -> &'a [u8] {
        &self.weights[self.delta.a..self.delta.end]
    }
}

/// What the segments' adapters add at `site`, one segment's terms after the other's; with each segment's end.
pub fn terms_at(step: &StepContext, site: usize) -> (Vec<Term<'_>>, Vec<usize>) {
    let mut terms = Vec::with_capacity(step.segments.len());
    let mut ends = Vec::with_capacity(step.segments.len());
    for segment in &step.segments {
        for (adapter, strength) in &segment.terms {
            // Weights stream through the caches meanwhile, so that every look at a table would wait for memory.
            if let Some(next) = adapter.sites.get(site + 1) {
                ask_for_value(next);
            }
            if let Some(delta) = &adapter.sites[site] {
                ask_for_slice(&delta.parts);
                ask_for_slice(&delta.scale);
                terms.push(Term { delta, weights: adapter.slab.bytes(), strength: *strength });
            }
        }
        ends.push(terms.len());
    }
    (terms, ends)
}

/// Rows `start .. end` of one segment, and what its adapters add here.
pub struct Tile<'a> {
    start: usize,
    end: usize,
    pub terms: &'a [Term<'a>],
}

pub fn tiles_of<'a>(step: &StepContext, (terms, ends): &'a (Vec<Term<'a>>, Vec<usize>), at_head: bool) -> Vec<Tile<'a>> {
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
    pub fn rows(&self) -> usize {
        self.end - self.start
    }

    /// Bytes of factors; rows beyond the first few cost arithmetic instead, about as much for every four.
    pub fn cost(&self) -> usize {
        let bytes: usize = self.terms.iter().map(|term| term.delta.bytes).sum();
        bytes * self.rows().div_ceil(4)
    }

    /// One of several terms stays whole: all add to the same outputs, in their order.
    pub fn is_large(&self, all: usize, threads: usize) -> bool {
        self.terms.len() == 1 && self.cost() * LEAST_TILES_PER_THREAD * threads > all
    }

    /// Adapter rows `ranks` of `h` [rows, rank] of one of its terms.
    pub fn shrink(&self, io: Io, term: &Term<'_>, ranks: (usize, usize), h: *mut f32) -> Shrink {
        let delta = term.delta;
        Shrink {
            // SAFETY: the tile's rows are rows of x.
            x: unsafe { io.x.get().add(self.start * io.in_features) },
            x_stride: io.in_features,
            rows: self.rows(),
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

    /// Panels of one module of one of its terms, whose intermediate is `h` [rows, rank]; its thread then reads `next`, if not null.
    pub fn expand(&self, io: Io, term: &Term<'_>, (part, panels): (&Part, (usize, usize)), h: *const f32, next: *const u8) -> Expand {
        Expand {
            // SAFETY: the part's adapter rows lie inside h's columns.
            h: unsafe { h.add(part.rank_offset) },
            h_stride: term.delta.rank,
            rows: self.rows(),
            rank: part.rank,
            b: term.weights[part.b..].as_ptr(),
            stored: term.delta.stored,
            jump: Jump { from: term.factors().as_ptr_range().end, to: next },
            panels,
            width: part.out_features,
            // SAFETY: the tile's rows are rows of y, the part's columns lie inside them (checked with the manifest).
            y: unsafe { io.y.get().add(self.start * io.out_features + part.out_offset) },
            y_stride: io.out_features,
            gain: part.gain.as_ref().map_or(std::ptr::null(), Vec::as_ptr),
            offset: part.offset.as_ref().map_or(std::ptr::null(), Vec::as_ptr),
            strength: term.strength,
        }
    }
}
