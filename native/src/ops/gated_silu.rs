//! `GatedSilu(x f32 [T, 2F]) → f32 [T, F]`: `silu(x[:, :F]) ⊙ x[:, F:]`, for a fused gate|up projection.

use super::{OpEnv, Shared, compute, float_input, float_output, infer_rows_by, matrix, output, parallel};
use crate::error::{Code, Error};
use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext};
use std::sync::Arc;

pub struct GatedSilu(pub Arc<OpEnv>);

/// Rows per task: enough work to be worth handing over.
const ROWS_PER_TASK: usize = 4;

impl Operator for GatedSilu {
    type Kernel<'a> = BoxedKernel<'a>;

    fn name(&self) -> &'static str {
        "GatedSilu"
    }
    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [float_input()]
    }
    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [float_output()]
    }
    fn infer_shape(&self, ctx: &mut ShapeInferenceContext) -> ort::Result<()> {
        infer_rows_by(ctx, |width| width / 2)
    }
    fn create_kernel<'a>(&self, _: &KernelContext<'a>) -> ort::Result<BoxedKernel<'a>> {
        let env = self.0.clone();
        Ok(Box::new(move |ctx: &ComputeContext| compute("GatedSilu", || run(&env, ctx))))
    }
}

fn run(env: &OpEnv, ctx: &ComputeContext) -> crate::error::Result<()> {
    let x = matrix(ctx, 0, None)?;
    if !x.columns.is_multiple_of(2) {
        return Err(Error::new(Code::StepFailed, format!("input 0: expected an even number of columns, got {}", x.columns)));
    }
    let width = x.columns / 2;
    let out = Shared(output(ctx, x.rows, width)?);
    let (input, rows, columns) = (Shared(x.data.cast_mut()), x.rows, x.columns);
    parallel(ctx, env.threads, rows.div_ceil(ROWS_PER_TASK), |task| {
        for row in task * ROWS_PER_TASK..rows.min((task + 1) * ROWS_PER_TASK) {
            // SAFETY: row < rows, so the pointers stay in [rows, 2·width] and [rows, width]; each task owns its rows.
            unsafe {
                let gate = input.get().add(row * columns);
                (env.kernels.gated_silu)(gate, gate.add(width), out.get().add(row * width), width);
            }
        }
    })
}
