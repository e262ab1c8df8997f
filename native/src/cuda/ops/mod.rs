//! Operators of the ONNX domain `loramux` on a device: each queues its kernels on the run's stream and returns. What a step
//! is reaches the kernels through tables on the device, so that a captured run serves every step of its shape.

mod adapted;
mod attention;
mod gated_silu;

use super::abi::{self, RawStream};
use super::device::{Device, check};
use super::env::DeviceEnv;
use crate::error::{Code, Error, Result};
use crate::kernels::simd::Dtype;
use crate::ops::{compute, from_ort, infer_rows_by};
use ort::operator::{
    BoxedKernel, ComputeContext, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput, ShapeInferenceContext,
};
use ort::value::{DynTensorValueType, TensorElementType};
use std::ffi::c_void;
use std::sync::Arc;

/// The domain that a session's graph refers to.
///
/// # Errors
/// `ERR_NATIVE_LOAD` when the runtime refuses an operator.
pub fn domain(env: &Arc<DeviceEnv>) -> Result<OperatorDomain> {
    OperatorDomain::new("loramux")
        .and_then(|domain| domain.add(adapted::segmented_embedding(env)))
        .and_then(|domain| domain.add(adapted::segmented_norm(env)))
        .and_then(|domain| domain.add(adapted::segmented_lora(env)))
        .and_then(|domain| domain.add(adapted::segmented_head(env)))
        .and_then(|domain| domain.add(attention::paged_attention(env)))
        .and_then(|domain| domain.add(gated_silu::gated_silu(env)))
        .map_err(|e| Error::new(Code::NativeLoad, format!("registering operators: {e}")))
}

/// What one node does in a run.
type Body = Box<dyn Fn(&ComputeContext) -> Result<()> + Send>;
/// Reads a node's attributes.
type Prepare = Box<dyn Fn(&KernelContext<'_>) -> ort::Result<Body> + Send + Sync>;

/// An operator with one output, which may take the memory of input 0 where it is `IN_PLACE`.
struct DeviceOperator<const IN_PLACE: bool> {
    name: &'static str,
    inputs: Vec<TensorElementType>,
    /// Columns of the output by those of input 0.
    width: Box<dyn Fn(i64) -> i64 + Send + Sync>,
    prepare: Prepare,
}

impl<const IN_PLACE: bool> Operator for DeviceOperator<IN_PLACE> {
    type Kernel<'a> = BoxedKernel<'a>;
    const INPLACES: &'static [(u32, u32)] = if IN_PLACE { &[(0, 0)] } else { &[] };

    fn name(&self) -> &str {
        self.name
    }
    fn execution_provider_type(&self) -> Option<&str> {
        (!Device::emulated()).then_some("CUDAExecutionProvider")
    }
    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        self.inputs.iter().map(|&element| OperatorInput::required(element)).collect::<Vec<_>>()
    }
    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        self.inputs.first().map(|&element| OperatorOutput::required(element))
    }
    fn infer_shape(&self, ctx: &mut ShapeInferenceContext) -> ort::Result<()> {
        infer_rows_by(ctx, &self.width)
    }
    fn create_kernel<'a>(&self, info: &KernelContext<'a>) -> ort::Result<BoxedKernel<'a>> {
        let (name, body) = (self.name, (self.prepare)(info)?);
        Ok(Box::new(move |ctx: &ComputeContext| compute(name, || body(ctx))))
    }
}

/// The element type of tensors of `dtype`.
#[must_use]
pub fn element(dtype: Dtype) -> TensorElementType {
    match dtype {
        Dtype::F32 => TensorElementType::Float32,
        Dtype::F16 => TensorElementType::Float16,
        Dtype::Bf16 => TensorElementType::Bfloat16,
    }
}

/// A tensor [rows, columns] on the device.
struct Matrix {
    data: *mut c_void,
    rows: usize,
    columns: usize,
}

/// Input `index` as a matrix of `columns` columns (any number when None).
fn matrix(ctx: &ComputeContext, index: usize, columns: Option<usize>) -> Result<Matrix> {
    let value = ctx.input(index).map_err(from_ort)?.ok_or_else(|| Error::new(Code::StepFailed, format!("input {index} is missing")))?;
    let tensor = value.downcast::<DynTensorValueType>().map_err(from_ort)?;
    let shape = tensor.shape();
    match shape[..] {
        [rows, found] if columns.is_none_or(|wanted| i64::try_from(wanted) == Ok(found)) => Ok(Matrix {
            data: tensor.data_ptr().cast_mut().cast(),
            rows: usize::try_from(rows).unwrap_or(0),
            columns: usize::try_from(found).unwrap_or(0),
        }),
        _ => Err(Error::new(
            Code::StepFailed,
            format!("input {index}: expected [rows, {}], got {shape}", columns.map_or("columns".to_owned(), |c| c.to_string())),
        )),
    }
}

/// Output 0 [rows, columns], allocated by the runtime.
fn output(ctx: &ComputeContext, rows: usize, columns: usize) -> Result<*mut c_void> {
    let shape = [i64::try_from(rows), i64::try_from(columns)].map(|n| n.unwrap_or(-1));
    let value = ctx.output(0, shape).map_err(from_ort)?.ok_or_else(|| Error::new(Code::StepFailed, "output 0 is missing"))?;
    let tensor = value.downcast::<DynTensorValueType>().map_err(from_ort)?;
    Ok(tensor.data_ptr().cast_mut().cast())
}

/// Output 0 with what input 0 holds: input 0's own memory where the runtime permits, else a copy of it.
fn updated(ctx: &ComputeContext, base: &Matrix, dtype: Dtype, stream: RawStream) -> Result<*mut c_void> {
    let out = output(ctx, base.rows, base.columns)?;
    if out != base.data {
        let bytes = base.rows * base.columns * dtype.size();
        // SAFETY: both hold [rows, columns] of `dtype`, and the runtime gave distinct memory.
        check(unsafe { abi::lmx_copy(out, base.data, bytes, stream) }, "copying a matrix")?;
    }
    Ok(out)
}

/// The stream that the run's kernels are queued on; the engine's, which the emulator does not tell the runtime of.
fn stream(env: &DeviceEnv, ctx: &ComputeContext) -> Result<RawStream> {
    if Device::emulated() {
        return Ok(env.stream.raw());
    }
    let found = ctx.stream().map_err(from_ort)?;
    found.map(std::ptr::NonNull::as_ptr).map(<*mut _>::cast).ok_or_else(|| Error::new(Code::Native, "the runtime names no stream"))
}
