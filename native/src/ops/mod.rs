//! Operators of the ONNX domain `loramux`. Each reads the step's facts from the context slot.

mod adapted;
mod dense_matmul;
mod gated_silu;
mod paged_attention;
mod product;
mod quantised_matmul;
mod residual_norm;
mod segmented_embedding;
mod segmented_head;
mod segmented_lora;
mod shares;
mod tiles;

#[cfg(any(feature = "cuda", feature = "cuda-emulated"))]
pub(crate) use paged_attention::AttentionNode;

use crate::error::{Code, Error, Result, guard};
use crate::kernels::dispatch::Kernels;
use crate::kv::pages::KvPages;
use crate::kv::rope::Rope;
use crate::manifest::DecoderConfig;
use crate::session::context::ContextSlot;
use ort::operator::{ComputeContext, OperatorDomain, OperatorInput, OperatorOutput, ShapeInferenceContext};
use ort::value::{PrimitiveTensorElementType, TensorElementType, ValueType};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What all operators of one session share.
pub struct OpEnv {
    pub kernels: &'static Kernels,
    pub context: Arc<ContextSlot>,
    pub threads: usize,
    pub kv: KvPages,
    pub rope: Rope,
    pub config: DecoderConfig,
    /// Per site: input and output features.
    pub sites: Vec<(usize, usize)>,
    pub norms: usize,
    pub vocab: usize,
    pub hidden: usize,
}

/// The domain that a session's graph refers to.
///
/// # Errors
/// `ERR_NATIVE_LOAD` when the runtime refuses an operator.
pub fn domain(env: &Arc<OpEnv>) -> Result<OperatorDomain> {
    OperatorDomain::new("loramux")
        .and_then(|domain| domain.add(segmented_embedding::SegmentedEmbedding(env.clone())))
        .and_then(|domain| domain.add(residual_norm::ResidualNorm(env.clone())))
        .and_then(|domain| domain.add(paged_attention::PagedAttention(env.clone())))
        .and_then(|domain| domain.add(gated_silu::GatedSilu(env.clone())))
        .and_then(|domain| domain.add(quantised_matmul::QuantisedMatMul(env.clone())))
        .and_then(|domain| domain.add(dense_matmul::DenseMatMul(env.clone())))
        .map_err(|e| Error::new(Code::NativeLoad, format!("registering operators: {e}")))
}

fn float_input() -> OperatorInput {
    OperatorInput::required(TensorElementType::Float32)
}

fn float_output() -> OperatorOutput {
    OperatorOutput::required(TensorElementType::Float32)
}

/// Output 0 has input 0's rows and `width` columns.
pub(crate) fn infer_rows_by(ctx: &mut ShapeInferenceContext, width: impl Fn(i64) -> i64) -> ort::Result<()> {
    let inputs = ctx.inputs();
    if let Some(ValueType::Tensor { ty, shape, dimension_symbols }) = inputs.first() {
        let mut shape = shape.clone();
        if let Some(last) = shape.last_mut() {
            *last = if *last < 0 { -1 } else { width(*last) };
            return ctx.set_output(0, &ValueType::Tensor { ty: *ty, shape, dimension_symbols: dimension_symbols.clone() });
        }
    }
    Ok(())
}

/// Runs an operator's body so that neither an error nor a panic leaves it as anything but a coded message.
pub(crate) fn compute(name: &str, body: impl FnOnce() -> Result<()>) -> ort::Result<()> {
    guard(body).map_err(|e| ort::Error::new(format!("{}: {name}: {}", e.code.as_str(), e.message)))
}

pub(crate) fn from_ort(e: ort::Error) -> Error {
    Error::new(Code::StepFailed, e.to_string())
}

pub(crate) fn attribute(value: Option<i64>, name: &str) -> ort::Result<usize> {
    value.and_then(|v| usize::try_from(v).ok()).ok_or_else(|| {
        ort::Error::new(format!("ERR_MODEL_INVALID: expected attribute {name} as an integer ≥ 0: delete the model's cache entry"))
    })
}

/// Runs `body` for 0 … count − 1 on the session's own pool; alone in this thread when there is nothing to share.
fn parallel(ctx: &ComputeContext, threads: usize, count: usize, body: impl Fn(usize) + Sync + Send) -> Result<()> {
    if count <= 1 || threads <= 1 {
        (0..count).for_each(body);
        return Ok(());
    }
    let panicked = AtomicBool::new(false);
    ctx.par_for(count, 0, |i| {
        // A panic must not unwind into the runtime's C++ frames.
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(i))).is_err() {
            panicked.store(true, Ordering::Relaxed);
        }
    })
    .map_err(from_ort)?;
    if panicked.load(Ordering::Relaxed) {
        return Err(Error::new(Code::Native, "a parallel part panicked: please report it"));
    }
    Ok(())
}

/// A float32 tensor [rows, columns] as its parts.
struct Matrix {
    data: *const f32,
    rows: usize,
    columns: usize,
}

/// Input `index` as a matrix of `columns` columns (any number when None).
fn matrix(ctx: &ComputeContext, index: usize, columns: Option<usize>) -> Result<Matrix> {
    let value = ctx.input(index).map_err(from_ort)?.ok_or_else(|| Error::new(Code::StepFailed, format!("input {index} is missing")))?;
    let (shape, data) = value.try_extract_tensor::<f32>().map_err(from_ort)?;
    match shape[..] {
        [rows, found] if columns.is_none_or(|wanted| i64::try_from(wanted) == Ok(found)) => {
            Ok(Matrix { data: data.as_ptr(), rows: usize::try_from(rows).unwrap_or(0), columns: usize::try_from(found).unwrap_or(0) })
        }
        _ => Err(Error::new(
            Code::StepFailed,
            format!("input {index}: expected [rows, {}], got {shape}", columns.map_or("columns".to_owned(), |c| c.to_string())),
        )),
    }
}

/// Input `index`, which must have the shape of packed weights.
fn packed<T: PrimitiveTensorElementType>(ctx: &ComputeContext, index: usize, wanted: [usize; 3]) -> Result<*const T> {
    let value = ctx.input(index).map_err(from_ort)?.ok_or_else(|| Error::new(Code::StepFailed, format!("input {index} is missing")))?;
    let (shape, data) = value.try_extract_tensor::<T>().map_err(from_ort)?;
    if shape.len() == 3 && shape.iter().zip(wanted).all(|(&found, wanted)| i64::try_from(wanted) == Ok(found)) {
        return Ok(data.as_ptr());
    }
    Err(Error::new(Code::StepFailed, format!("input {index}: expected {wanted:?}, got {shape}")))
}

/// Output 0 [rows, columns], allocated by the runtime.
fn output(ctx: &ComputeContext, rows: usize, columns: usize) -> Result<*mut f32> {
    output_at(ctx, 0, rows, columns)?.ok_or_else(|| Error::new(Code::StepFailed, "output 0 is missing"))
}

/// Output `index` [rows, columns], allocated by the runtime; None where the node has it not.
fn output_at(ctx: &ComputeContext, index: usize, rows: usize, columns: usize) -> Result<Option<*mut f32>> {
    if index >= ctx.num_outputs().map_err(from_ort)? {
        return Ok(None);
    }
    let shape = [i64::try_from(rows), i64::try_from(columns)].map(|n| n.unwrap_or(-1));
    let Some(mut value) = ctx.output(index, shape).map_err(from_ort)? else { return Ok(None) };
    let (_, data) = value.try_extract_tensor_mut::<f32>().map_err(from_ort)?;
    Ok(Some(data.as_mut_ptr()))
}

/// Output 0 with what input 0 holds: input 0's own buffer where the runtime permits, else a copy of it.
fn updated(ctx: &ComputeContext, base: &Matrix) -> Result<*mut f32> {
    let out = output(ctx, base.rows, base.columns)?;
    if out.cast_const() != base.data {
        // SAFETY: both are [rows, columns] and the runtime gave distinct buffers.
        unsafe { std::ptr::copy_nonoverlapping(base.data, out, base.rows * base.columns) };
    }
    Ok(out)
}

/// That a matrix holds every row that segments point into: a graph that drops rows before an operator would have it read
/// and write past them.
pub(crate) fn check_rows(what: &str, found: usize, wanted: usize) -> Result<()> {
    if found >= wanted {
        return Ok(());
    }
    Err(Error::new(Code::StepFailed, format!("{what}: expected the step's {wanted} rows, got {found}")))
}

/// Lets a raw pointer into parallel closures. Whoever uses it says why the parts do not overlap.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);
// SAFETY: a plain address; each use states which part it owns.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}
impl<T> Shared<T> {
    fn get(self) -> *mut T {
        self.0
    }
}
