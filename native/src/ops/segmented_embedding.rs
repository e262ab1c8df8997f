//! `SegmentedEmbedding(x f32 [T, H], input_ids i64 [T]) → x'`, in place where the runtime permits: rows of adapters that
//! change the embedding. `x'[i] = g ⊙ (x[i] + Σ_k w_k · s_k · B_k A_k[:, id_i])`, or the adapter's own row of `id_i`.

use super::{OpEnv, Shared, check_rows, compute, float_input, float_output, from_ort, infer_rows_by, matrix, parallel, updated};
use crate::adapters::pack::unpack;
use crate::adapters::resident::{EmbeddingDelta, EmbeddingLora};
use crate::error::{Code, Error, Result};
use crate::kernels::ahead::Jump;
use crate::kernels::lora::{Expand, PANEL, Stored};
use crate::session::context::Segment;
use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext};
use ort::value::TensorElementType;
use std::sync::Arc;

pub struct SegmentedEmbedding(pub Arc<OpEnv>);

impl Operator for SegmentedEmbedding {
    type Kernel<'a> = BoxedKernel<'a>;
    const INPLACES: &'static [(u32, u32)] = &[(0, 0)];

    fn name(&self) -> &'static str {
        "SegmentedEmbedding"
    }
    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [float_input(), OperatorInput::required(TensorElementType::Int64)]
    }
    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [float_output()]
    }
    fn infer_shape(&self, ctx: &mut ShapeInferenceContext) -> ort::Result<()> {
        infer_rows_by(ctx, |width| width)
    }
    fn create_kernel<'a>(&self, _: &KernelContext<'a>) -> ort::Result<BoxedKernel<'a>> {
        let env = self.0.clone();
        Ok(Box::new(move |ctx: &ComputeContext| compute("SegmentedEmbedding", || run(&env, ctx))))
    }
}

fn run(env: &OpEnv, ctx: &ComputeContext) -> Result<()> {
    let base = matrix(ctx, 0, Some(env.hidden))?;
    let x = Shared(updated(ctx, &base)?);
    let step = env.context.get()?;
    let touched: Vec<&Segment> = step.segments.iter().filter(|s| s.terms.iter().any(|(a, _)| a.embedding.is_some())).collect();
    if touched.is_empty() {
        return Ok(());
    }
    let ids = token_ids(ctx, env.vocab)?;
    check_rows("embedding", base.rows.min(ids.len()), step.rows.len())?;
    parallel(ctx, env.threads, touched.len(), |i| {
        let segment = touched[i];
        for (adapter, strength) in &segment.terms {
            let rows = segment.rows.clone();
            // SAFETY: row < the matrix's rows (checked); each segment's rows are this task's alone.
            let row_of = |row: usize| unsafe { x.get().add(row * env.hidden) };
            match &adapter.embedding {
                None => {}
                Some(EmbeddingDelta::Lora(lora)) => {
                    let h = columns(lora, adapter.slab.bytes(), &ids[rows.clone()], *strength);
                    let args = expand_args(lora, adapter.slab.bytes(), &h, row_of(rows.start));
                    // SAFETY: h is [rows, rank], x's rows are `hidden` wide as B and the gain are (checked when compiled).
                    unsafe { (env.kernels.expand)(&args) };
                }
                Some(EmbeddingDelta::Replaced(replaced)) => {
                    for row in rows {
                        if let Some(at) = replaced.row_of(ids[row]) {
                            // SAFETY: as for `row_of`; the row is `hidden` wide.
                            let out = unsafe { std::slice::from_raw_parts_mut(row_of(row), env.hidden) };
                            replaced.rows.unpack(adapter.slab.bytes(), at, out);
                        }
                    }
                }
            }
        }
    })
}

/// Input 1, every id below `vocab`.
fn token_ids(ctx: &ComputeContext, vocab: usize) -> Result<Vec<usize>> {
    let value = ctx.input(1).map_err(from_ort)?.ok_or_else(|| Error::new(Code::StepFailed, "input 1 is missing"))?;
    let (_, ids) = value.try_extract_tensor::<i64>().map_err(from_ort)?;
    let known = |&id: &i64| usize::try_from(id).ok().filter(|&id| id < vocab);
    ids.iter()
        .map(|id| known(id).ok_or_else(|| Error::new(Code::StepFailed, format!("input 1: expected ids below {vocab}, got {id}"))))
        .collect()
}

/// `h[i] = w · s · A[:, id_i]`, f32 [rows, rank].
fn columns(lora: &EmbeddingLora, slab: &[u8], ids: &[usize], strength: f32) -> Vec<f32> {
    let mut h = vec![0.0f32; ids.len() * lora.rank];
    for (row, id) in h.chunks_exact_mut(lora.rank).zip(ids) {
        unpack(lora.dtype, &slab[lora.a + id * lora.rank * lora.dtype.size()..], row);
        for value in row {
            *value *= lora.scale * strength;
        }
    }
    h
}

fn expand_args(lora: &EmbeddingLora, slab: &[u8], h: &[f32], x: *mut f32) -> Expand {
    Expand {
        h: h.as_ptr(),
        h_stride: lora.rank,
        rows: h.len() / lora.rank,
        rank: lora.rank,
        b: slab[lora.b..].as_ptr(),
        stored: Stored::Float(lora.dtype),
        jump: Jump::NONE,
        panels: (0, lora.hidden.div_ceil(PANEL)),
        width: lora.hidden,
        y: x,
        y_stride: lora.hidden,
        gain: lora.gain.as_ref().map_or(std::ptr::null(), Vec::as_ptr),
        offset: std::ptr::null(),
        strength: 1.0,
    }
}
