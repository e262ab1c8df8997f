//! `ResidualNorm(x f32 [T, H], weight f32 [H], delta? f32 [T, H]) → (y f32 [T, H], sum? f32 [T, H])`, `sum` in the place of `x`
//! where the runtime permits: `sum = x + delta`, `y[i] = sum[i] / √(mean(sum[i]²) + ε) ⊙ γ`, where γ is the base's `weight` or
//! that of row i's adapter.
//!
//! Attributes: `epsilon`, and `norm` the index that adapters know the norm by, absent where they change nothing.

use super::{
    Matrix, OpEnv, Shared, check_rows, compute, float_input, float_output, from_ort, infer_rows_by, matrix, output, output_at, parallel,
};
use crate::error::{Code, Error, Result};
use crate::kernels::norm::Norm;
use ort::operator::{BoxedKernel, ComputeContext, KernelContext, Operator, OperatorInput, OperatorOutput, ShapeInferenceContext};
use ort::value::TensorElementType;
use std::ops::Range;
use std::sync::Arc;

pub struct ResidualNorm(pub Arc<OpEnv>);

/// Rows below which a part is not worth another thread: some 4 µs.
const PART_ROWS: usize = 32;

/// The attributes of one node.
struct Node {
    epsilon: f32,
    norm: Option<usize>,
}

impl Operator for ResidualNorm {
    type Kernel<'a> = BoxedKernel<'a>;
    const INPLACES: &'static [(u32, u32)] = &[(0, 1)];

    fn name(&self) -> &'static str {
        "ResidualNorm"
    }
    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [float_input(), float_input(), OperatorInput::optional(TensorElementType::Float32)]
    }
    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [float_output(), OperatorOutput::optional(TensorElementType::Float32)]
    }
    fn infer_shape(&self, ctx: &mut ShapeInferenceContext) -> ort::Result<()> {
        infer_rows_by(ctx, |width| width)
    }
    fn create_kernel<'a>(&self, info: &KernelContext<'a>) -> ort::Result<BoxedKernel<'a>> {
        let env = self.0.clone();
        let epsilon: f32 =
            info.get("epsilon").ok_or_else(|| ort::Error::new("ERR_MODEL_INVALID: ResidualNorm: expected attribute epsilon"))?;
        let norm: Option<i64> = info.get("norm");
        let known = norm.map(|norm| usize::try_from(norm).ok().filter(|&norm| norm < env.norms));
        if let Some(None) = known {
            return Err(ort::Error::new(format!(
                "ERR_MODEL_INVALID: ResidualNorm: the graph names norm {}, the manifest has {}: delete the model's cache entry",
                norm.unwrap_or(-1),
                env.norms
            )));
        }
        let node = Node { epsilon, norm: known.flatten() };
        Ok(Box::new(move |ctx: &ComputeContext| compute("ResidualNorm", || run(&env, &node, ctx))))
    }
}

/// The operator's matrices [rows, hidden]; null where they are absent.
#[derive(Clone, Copy)]
struct Io {
    x: Shared<f32>,
    delta: Shared<f32>,
    sum: Shared<f32>,
    y: Shared<f32>,
}

fn run(env: &OpEnv, node: &Node, ctx: &ComputeContext) -> Result<()> {
    let x = matrix(ctx, 0, Some(env.hidden))?;
    let weight = Shared(weight(ctx, env.hidden)?.cast_mut());
    let delta = delta(ctx, &x)?;
    let y = output(ctx, x.rows, x.columns)?;
    let sum = output_at(ctx, 1, x.rows, x.columns)?.unwrap_or(std::ptr::null_mut());
    let io = Io { x: Shared(x.data.cast_mut()), delta: Shared(delta.cast_mut()), sum: Shared(sum), y: Shared(y) };
    parallel(ctx, env.threads, x.rows.div_ceil(PART_ROWS), |part| {
        let rows = part * PART_ROWS..x.rows.min((part + 1) * PART_ROWS);
        // SAFETY: the matrices have these rows and are `hidden` wide, as the weight is; each part owns its rows.
        unsafe { normalise(env, node.epsilon, io, rows, weight.get()) };
    })?;
    match node.norm {
        Some(norm) => replace(env, node.epsilon, norm, x.rows, io),
        None => Ok(()),
    }
}

/// Once more the rows of adapters that bring this norm's weight.
fn replace(env: &OpEnv, epsilon: f32, norm: usize, rows: usize, io: Io) -> Result<()> {
    let step = env.context.get()?;
    // The sum may have taken the place of x.
    let none = Shared(std::ptr::null_mut());
    let io = if io.sum.get().is_null() { io } else { Io { x: io.sum, delta: none, sum: none, y: io.y } };
    for segment in &step.segments {
        // A replaced weight stands alone in its segment (checked with the batch).
        let Some(weight) = segment.terms.iter().find_map(|(adapter, _)| adapter.norms[norm].as_ref()) else { continue };
        check_rows("norm", rows, step.rows.len())?;
        // SAFETY: the matrices have the segment's rows (checked) and are `hidden` wide, as the weight is (checked when compiled).
        unsafe { normalise(env, epsilon, io, segment.rows.clone(), weight.as_ptr()) };
    }
    Ok(())
}

/// # Safety
/// The matrices of `io` hold `rows`, which nobody else touches, and `weight` [hidden].
unsafe fn normalise(env: &OpEnv, epsilon: f32, io: Io, rows: Range<usize>, weight: *const f32) {
    for row in rows {
        // Of a matrix that is absent nothing is read or written, wherever its row would lie.
        let at = |matrix: Shared<f32>| if matrix.get().is_null() { matrix.get() } else { matrix.get().wrapping_add(row * env.hidden) };
        let args = Norm { x: at(io.x), delta: at(io.delta), sum: at(io.sum), weight, epsilon, width: env.hidden, y: at(io.y) };
        // SAFETY: the row's floats, as the caller vouches; y is a buffer of its own, since only sum may be x.
        unsafe { (env.kernels.residual_norm)(&args) };
    }
}

/// Input 1, f32 [hidden].
fn weight(ctx: &ComputeContext, hidden: usize) -> Result<*const f32> {
    let value = ctx.input(1).map_err(from_ort)?.ok_or_else(|| Error::new(Code::StepFailed, "input 1 is missing"))?;
    let (shape, data) = value.try_extract_tensor::<f32>().map_err(from_ort)?;
    if data.len() == hidden {
        return Ok(data.as_ptr());
    }
    Err(Error::new(Code::StepFailed, format!("input 1: expected [{hidden}], got {shape}")))
}

/// Input 2 with the shape of x; null where the node has none.
fn delta(ctx: &ComputeContext, x: &Matrix) -> Result<*const f32> {
    if ctx.num_inputs().map_err(from_ort)? < 3 {
        return Ok(std::ptr::null());
    }
    let delta = matrix(ctx, 2, Some(x.columns))?;
    check_rows("input 2", delta.rows, x.rows)?;
    Ok(delta.data)
}
