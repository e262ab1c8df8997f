//! `SegmentedNorm(y f32 [T, H], x f32 [T, H]) → y'`, in place where the runtime permits: rows of adapters that bring this
//! norm's weight. `y'[i] = x[i] / √(mean(x[i]²) + ε) ⊙ γ'`; `y`, the base's norm of `x`, passes through elsewhere.

use super::{OpEnv, attribute, check_rows, compute, float_input, float_output, infer_rows_by, matrix, updated};
use crate::error::Result;
use crate::kernels::simd::LANES;
use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext};
use std::sync::Arc;

pub struct SegmentedNorm(pub Arc<OpEnv>);

impl Operator for SegmentedNorm {
    type Kernel<'a> = BoxedKernel<'a>;
    const INPLACES: &'static [(u32, u32)] = &[(0, 0)];

    fn name(&self) -> &'static str {
        "SegmentedNorm"
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
        let norm = attribute(info.get("norm"), "norm")?;
        let epsilon: f32 =
            info.get("epsilon").ok_or_else(|| ort::Error::new("ERR_MODEL_INVALID: SegmentedNorm: expected attribute epsilon"))?;
        if norm >= env.norms {
            return Err(ort::Error::new(format!(
                "ERR_MODEL_INVALID: SegmentedNorm: the graph names norm {norm}, the manifest has {}: delete the model's cache entry",
                env.norms
            )));
        }
        Ok(Box::new(move |ctx: &ComputeContext| compute("SegmentedNorm", || run(&env, norm, epsilon, ctx))))
    }
}

fn run(env: &OpEnv, norm: usize, epsilon: f32, ctx: &ComputeContext) -> Result<()> {
    let base = matrix(ctx, 0, Some(env.hidden))?;
    let y = updated(ctx, &base)?;
    let step = env.context.get()?;
    for segment in &step.segments {
        // A replaced weight stands alone in its segment (checked with the batch).
        let Some(weight) = segment.terms.iter().find_map(|(adapter, _)| adapter.norms[norm].as_ref()) else { continue };
        let x = matrix(ctx, 1, Some(env.hidden))?;
        check_rows("norm", base.rows.min(x.rows), step.rows.len())?;
        for row in segment.rows.clone() {
            // SAFETY: both matrices have the row (checked) and are `hidden` wide; they are distinct buffers, because the
            // runtime may only give y the one of input 0.
            let (x, y) = unsafe {
                let x = std::slice::from_raw_parts(x.data.add(row * env.hidden), env.hidden);
                (x, std::slice::from_raw_parts_mut(y.add(row * env.hidden), env.hidden))
            };
            rms_norm(x, weight, epsilon, y);
        }
    }
    Ok(())
}

/// Squares are summed lane by lane, then over the lanes: one order whatever the batch.
#[allow(clippy::cast_precision_loss, reason = "a width is far below 2^24")]
fn rms_norm(x: &[f32], weight: &[f32], epsilon: f32, y: &mut [f32]) {
    let mut lanes = [0.0f32; LANES];
    for chunk in x.chunks(LANES) {
        lanes.iter_mut().zip(chunk).for_each(|(sum, v)| *sum += v * v);
    }
    let mean = lanes.iter().sum::<f32>() / x.len() as f32;
    let scale = 1.0 / (mean + epsilon).sqrt();
    for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
        *y = x * scale * w;
    }
}
