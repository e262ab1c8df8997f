//! `SegmentedLora(y f32 [T, out], x f32 [T, in]) → y'`, in place where the runtime permits:
//! `y'[i] = g ⊙ (y[i] + Σ_k w_k · s_k · B_k (A_k x[i])) + Σ_k w_k · o_k` over the adapters of row i's segment; base rows pass through.
//!
//! Attribute `site` names the base matmul. With `logits_rows` 1 the matrices hold only the rows that reach the head.
//!
//! Source: Punica's SGMV (arXiv 2310.18547), S-LoRA (arXiv 2311.03285) for adapters of different rank in one batch.

use super::{OpEnv, Shared, attribute, check_rows, compute, float_input, float_output, infer_rows_by, matrix, parallel, updated};
use crate::adapters::resident::{Part, SiteDelta};
use crate::error::Result;
use crate::kernels::lora::{Expand, GROUP, Shrink};
use crate::session::context::StepContext;
use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext};
use std::cell::RefCell;
use std::sync::Arc;

pub struct SegmentedLora(pub Arc<OpEnv>);

/// Rows of one tile: long segments are cut so that all threads get some.
const TILE_ROWS: usize = 16;
/// Multiply-adds below which a lone tile is not worth waking another thread for.
const SPLIT_WORK: usize = 1 << 16;

thread_local! {
    /// The [rows, rank] intermediate of one tile.
    static SHRUNK: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Operator for SegmentedLora {
    type Kernel<'a> = BoxedKernel<'a>;
    const INPLACES: &'static [(u32, u32)] = &[(0, 0)];

    fn name(&self) -> &'static str {
        "SegmentedLora"
    }
    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [float_input(), float_input()]
    }
    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [float_output()]
    }
    fn infer_shape(&self, ctx: &mut ShapeInferenceContext) -> ort::Result<()> {
        infer_rows_by(ctx, |width| width)
    }
    fn create_kernel<'a>(&self, info: &KernelContext<'a>) -> ort::Result<BoxedKernel<'a>> {
        let env = self.0.clone();
        let site = attribute(info.get("site"), "site")?;
        if site >= env.sites.len() {
            return Err(ort::Error::new(format!(
                "ERR_MODEL_INVALID: SegmentedLora: the graph names site {site}, the manifest has {}: delete the model's cache entry",
                env.sites.len()
            )));
        }
        let at_head = info.get("logits_rows").is_some_and(|flag: i64| flag != 0);
        Ok(Box::new(move |ctx: &ComputeContext| compute("SegmentedLora", || run(&env, site, at_head, ctx))))
    }
}

/// Rows `start .. end` of one segment, and what its adapters add here.
struct Tile<'a> {
    start: usize,
    end: usize,
    terms: &'a [Term<'a>],
}

/// What one adapter adds at this site, and how strongly.
struct Term<'a> {
    delta: &'a SiteDelta,
    /// The adapter's slab.
    weights: &'a [u8],
    strength: f32,
}

/// The operator's two matrices.
#[derive(Clone, Copy)]
struct Io {
    x: Shared<f32>,
    y: Shared<f32>,
    in_features: usize,
    out_features: usize,
}

fn run(env: &OpEnv, site: usize, at_head: bool, ctx: &ComputeContext) -> Result<()> {
    let (in_features, out_features) = env.sites[site];
    let base = matrix(ctx, 0, Some(out_features))?;
    let x = matrix(ctx, 1, Some(in_features))?;
    let y = updated(ctx, &base)?;
    let step = env.context.get()?;
    if step.segments.is_empty() {
        return Ok(());
    }
    check_rows(&format!("site {site}"), base.rows.min(x.rows), step.row_count(at_head))?;
    let io = Io { x: Shared(x.data.cast_mut()), y: Shared(y), in_features, out_features };
    let terms = terms_at(&step, site);
    let tiles = tiles_of(&step, &terms, at_head);
    let lone_work = |tile: &Tile<'_>| {
        tile.terms.iter().map(|term| term.delta.rank * (in_features + out_features)).sum::<usize>() * (tile.end - tile.start)
    };
    if env.threads > 1 && tiles.len() == 1 && lone_work(&tiles[0]) >= SPLIT_WORK {
        return split_tile(env, ctx, io, &tiles[0]);
    }
    parallel(ctx, env.threads, tiles.len(), |i| whole_tile(env, io, &tiles[i]))
}

/// For each segment, what its adapters add at `site`.
fn terms_at(step: &StepContext, site: usize) -> Vec<Vec<Term<'_>>> {
    let mut all = Vec::with_capacity(step.segments.len());
    for segment in &step.segments {
        let mut terms = Vec::with_capacity(segment.terms.len());
        for (adapter, strength) in &segment.terms {
            if let Some(delta) = &adapter.sites[site] {
                terms.push(Term { delta, weights: adapter.slab.bytes(), strength: *strength });
            }
        }
        all.push(terms);
    }
    all
}

fn tiles_of<'a>(step: &StepContext, terms: &'a [Vec<Term<'a>>], at_head: bool) -> Vec<Tile<'a>> {
    let mut tiles = Vec::with_capacity(step.segments.len());
    for (segment, terms) in step.segments.iter().zip(terms) {
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

/// One tile over all threads: adapter rows of the shrink, then panels of the expand.
fn split_tile(env: &OpEnv, ctx: &ComputeContext, io: Io, tile: &Tile<'_>) -> Result<()> {
    let rows = tile.end - tile.start;
    for term in tile.terms {
        let delta = term.delta;
        let mut h = vec![0.0f32; rows * delta.rank];
        let shrunk = Shared(h.as_mut_ptr());
        // At least one group: the rank is 0 where an adapter only has biases.
        let chunk = delta.rank.div_ceil(env.threads).max(1).next_multiple_of(GROUP);
        parallel(ctx, env.threads, delta.rank.div_ceil(chunk), |i| {
            let ranks = (i * chunk, delta.rank.min((i + 1) * chunk));
            // SAFETY: tasks write distinct columns of h [rows, rank].
            unsafe { (env.kernels.shrink)(&shrink_args(io, tile, term, ranks, shrunk.get())) }
        })?;
        let total: usize = delta.parts.iter().map(Part::panels).sum();
        let chunk = total.div_ceil(env.threads);
        parallel(ctx, env.threads, total.div_ceil(chunk), |i| {
            let (from, to) = (i * chunk, total.min((i + 1) * chunk));
            let mut first = 0;
            for part in &delta.parts {
                let panels = (from.max(first) - first, to.clamp(first, first + part.panels()) - first);
                if panels.0 < panels.1 {
                    // SAFETY: tasks own distinct panels of y, h is only read.
                    unsafe { (env.kernels.expand)(&expand_args(io, tile, term, part, panels, shrunk.get())) };
                }
                first += part.panels();
            }
        })?;
    }
    Ok(())
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
        a_stride: delta.a_stride,
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
