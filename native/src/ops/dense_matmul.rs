//! `DenseMatMul(x f32 [T, in], w f32 [panels, in, 16]) → f32 [T, rows]`: `x · Wᵀ` with W packed as `kernels/dense.rs` says,
//! adapted as `adapted.rs` says.
//!
//! Attributes: `rows` the output columns, and those of `adapted.rs`. A row's result is the same bits in any batch.

use super::adapted::Adapted;
use super::product::Product;
use super::{Matrix, OpEnv, Shared, attribute, compute, float_input, float_output, infer_rows_by, matrix, output, packed};
use crate::error::Result;
use crate::kernels::dense::{GROUP, Matmul};
use crate::kernels::simd::LANES;
use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext};
use std::sync::Arc;

pub struct DenseMatMul(pub Arc<OpEnv>);

/// Rows that one part multiplies: they stay in a core's own cache.
const PART_ROWS: usize = 128;
/// Parts for each thread, below which panels go one by one.
const PARTS_PER_THREAD: usize = 2;

impl Operator for DenseMatMul {
    type Kernel<'a> = BoxedKernel<'a>;

    fn name(&self) -> &'static str {
        "DenseMatMul"
    }
    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [float_input(), float_input()]
    }
    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [float_output()]
    }
    fn infer_shape(&self, ctx: &mut ShapeInferenceContext) -> ort::Result<()> {
        let rows: i64 = ctx.attr("rows")?;
        infer_rows_by(ctx, |_| rows)
    }
    fn create_kernel<'a>(&self, info: &KernelContext<'a>) -> ort::Result<BoxedKernel<'a>> {
        let env = self.0.clone();
        let width = attribute(info.get("rows"), "rows")?;
        let adapted = Adapted::read(info, &env, width)?;
        Ok(Box::new(move |ctx: &ComputeContext| {
            compute("DenseMatMul", || {
                let x = matrix(ctx, 0, None)?;
                multiply(&env, &adapted, width, ctx, &x)
            })
        }))
    }
}

/// The product and what adapters make of it, in the operator's output.
fn multiply(env: &OpEnv, adapted: &Adapted, width: usize, ctx: &ComputeContext, x: &Matrix) -> Result<()> {
    let &Matrix { data, rows, columns: inputs } = x;
    let panels = width.div_ceil(LANES);
    let w = Shared(packed::<f32>(ctx, 1, [panels, inputs, LANES])?.cast_mut());
    let y = Shared(output(ctx, rows, width)?);
    let input = Shared(data.cast_mut());
    let group = if panels >= GROUP * PARTS_PER_THREAD * env.threads { GROUP } else { 1 };
    let groups = panels.div_ceil(group);
    let multiply = |part: usize, next: Option<usize>| {
        let (first, panel) = (part / groups * PART_ROWS, part % groups * group);
        // SAFETY: rows first .. first + rows lie in x and y, panels in the packed weights, whose shapes were checked;
        // parts own distinct rows or columns of y.
        unsafe {
            (env.kernels.dense_matmul)(&Matmul {
                x: input.get().add(first * inputs),
                rows: (rows - first).min(PART_ROWS),
                inputs,
                w: w.get(),
                panels: (panel, panels.min(panel + group)),
                next_panel: next.map(|next| next % groups * group),
                width,
                y: y.get().add(first * width),
            });
        }
    };
    adapted.run(env, ctx, x, y, &Product { parts: groups * rows.div_ceil(PART_ROWS), multiply: &multiply })
}
