//! `SegmentedHead(logits f32 [L, V], x f32 [L, H]) → logits'`, in place where the runtime permits: rows of adapters that
//! bring rows of the head. `logits'[i, t] = w_t · x[i]` for every such token t; other logits pass through.

use super::{OpEnv, Shared, check_rows, compute, float_input, float_output, infer_rows_by, matrix, parallel, updated};
use crate::adapters::resident::PackedRows;
use crate::error::Result;
use crate::kernels::lora::{GROUP, Shrink, Stored};
use crate::session::context::Segment;
use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext};
use std::sync::Arc;

/// Rows of the head that one task multiplies by: they stay in a core's cache while the task's rows of x pass.
const TASK_ROWS: usize = 64 * GROUP;

pub struct SegmentedHead(pub Arc<OpEnv>);

impl Operator for SegmentedHead {
    type Kernel<'a> = BoxedKernel<'a>;
    const INPLACES: &'static [(u32, u32)] = &[(0, 0)];

    fn name(&self) -> &'static str {
        "SegmentedHead"
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
    fn create_kernel<'a>(&self, _: &KernelContext<'a>) -> ort::Result<BoxedKernel<'a>> {
        let env = self.0.clone();
        Ok(Box::new(move |ctx: &ComputeContext| compute("SegmentedHead", || run(&env, ctx))))
    }
}

fn run(env: &OpEnv, ctx: &ComputeContext) -> Result<()> {
    let base = matrix(ctx, 0, Some(env.vocab))?;
    let logits = Shared(updated(ctx, &base)?);
    let step = env.context.get()?;
    for segment in &step.segments {
        // Replaced rows stand alone in their segment (checked with the batch).
        let head = segment.terms.iter().find_map(|(adapter, _)| adapter.head.as_ref().map(|head| (head, adapter.slab.bytes())));
        let Some((head, slab)) = head.filter(|_| !segment.logits_rows.is_empty()) else { continue };
        let x = matrix(ctx, 1, Some(env.hidden))?;
        check_rows("head", base.rows.min(x.rows), step.logits_rows)?;
        // SAFETY: the segment's rows are rows of the matrix (checked).
        let out = Shared(unsafe { logits.get().add(segment.logits_rows.start * env.vocab) });
        match &head.tokens {
            None => multiply(env, ctx, &head.rows, slab, segment, x.data, out, env.vocab)?,
            Some(tokens) => {
                let mut products = vec![0.0f32; segment.logits_rows.len() * tokens.len()];
                multiply(env, ctx, &head.rows, slab, segment, x.data, Shared(products.as_mut_ptr()), tokens.len())?;
                for (row, products) in products.chunks_exact(tokens.len()).enumerate() {
                    for (&token, &product) in tokens.iter().zip(products) {
                        // SAFETY: the row as above; tokens are below the vocabulary's size (checked when compiled).
                        unsafe { *out.get().add(row * env.vocab + token as usize) = product };
                    }
                }
            }
        }
    }
    Ok(())
}

/// `out[i, j] = rows[j] · x[i]` for the segment's rows of x; `out` rows lie `stride` apart.
#[allow(clippy::too_many_arguments, reason = "one call of a kernel, said in full")]
fn multiply(
    env: &OpEnv,
    ctx: &ComputeContext,
    rows: &PackedRows,
    slab: &[u8],
    segment: &Segment,
    x: *const f32,
    out: Shared<f32>,
    stride: usize,
) -> Result<()> {
    let x = Shared(x.cast_mut());
    parallel(ctx, env.threads, rows.count.div_ceil(TASK_ROWS), |task| {
        let args = Shrink {
            // SAFETY: the segment's rows are rows of x (checked by the caller).
            x: unsafe { x.get().add(segment.logits_rows.start * rows.width) },
            x_stride: rows.width,
            rows: segment.logits_rows.len(),
            width: rows.width,
            a: slab[rows.offset..].as_ptr(),
            stored: Stored::Float(rows.dtype),
            ranks: (task * TASK_ROWS, rows.count.min((task + 1) * TASK_ROWS)),
            scale: std::ptr::null(),
            strength: 1.0,
            h: out.get(),
            h_stride: stride,
        };
        // SAFETY: tasks write distinct columns of out [rows, stride]; the packed rows are whole groups from a multiple of GROUP.
        unsafe { (env.kernels.shrink)(&args) };
    })
}
