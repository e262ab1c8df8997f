//! The ONNX Runtime session of a device: its provider, and runs over memory that is on the device already.

use super::device::Device;
use super::env::{DeviceEnv, int};
use super::ops::{self, element};
use crate::error::{Code, Error, Result};
use crate::session::runtime;
use ort::AsPointer;
use ort::environment::Environment;
use ort::ep::ExecutionProviderDispatch;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::operator::OperatorDomain;
use ort::session::builder::SessionBuilder;
use ort::session::{OutputSelector, RunOptions, Session};
use ort::value::{DynValue, TensorElementType};
use std::ffi::c_void;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

/// Where one run finds its inputs and leaves its logits, all on the device. A captured run is only the same run again if
/// all of this is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bound {
    /// int64 `[rows]`.
    pub input_ids: *mut i64,
    pub rows: usize,
    /// int64 `[logits_count]`.
    pub logits_rows: *const i64,
    pub logits_count: usize,
    /// `[logits_count, vocab]` of the session's element type.
    pub logits: *mut c_void,
}

pub struct DeviceSession {
    session: Session,
    memory: MemoryInfo<'static>,
    element: TensorElementType,
    width: usize,
    vocab: usize,
    captures: bool,
}

impl DeviceSession {
    /// `captures`: runs may be captured as CUDA graphs. `threads` compute what the emulator leaves to the CPU's provider.
    ///
    /// # Errors
    /// `ERR_NATIVE_LOAD` where CUDA's provider cannot be used, `ERR_DEVICE` where the device refuses, `ERR_MODEL_INVALID` naming
    /// the graph.
    pub fn open(env: &Arc<DeviceEnv>, device: usize, graph: &Path, threads: usize, captures: bool) -> Result<Self> {
        let _one = runtime::one_session_opens();
        let index = int(device)?;
        let domain = ops::domain(env)?;
        let mut builder = builder(runtime::environment()?, domain, env, index, threads, captures).map_err(unusable)?;
        let session = builder.commit_from_file(graph).map_err(|e| refused(graph, &e))?;
        let (place, index) = if Device::emulated() { (AllocationDevice::CPU, 0) } else { (AllocationDevice::CUDA, index) };
        let memory = MemoryInfo::new(place, index, AllocatorType::Device, MemoryType::Default).map_err(unusable)?;
        let captures = captures && !Device::emulated();
        Ok(Self { session, memory, element: element(env.dtype), width: env.dtype.size(), vocab: env.vocab, captures })
    }

    /// Whether runs may be captured.
    #[must_use]
    pub fn captures(&self) -> bool {
        self.captures
    }

    /// Queues one run and returns. `graph` names what is captured by the first such run, and replayed from then on.
    ///
    /// # Safety
    /// `bound` is memory of this session's device that lives, and that nobody else uses, until the stream has come past the
    /// run; for a `graph` until the session is gone, and it is the same for every run of one `graph`.
    pub unsafe fn run(&mut self, bound: &Bound, graph: Option<usize>) -> Result<()> {
        let failed = |e: ort::Error| Error::new(Code::StepFailed, format!("session run: {e}"));
        let int64 = TensorElementType::Int64;
        // SAFETY: as the caller promises; the shapes are those of the memory.
        let (ids, logits_rows, logits) = unsafe {
            (
                self.tensor(bound.input_ids.cast(), int64, 8, &[bound.rows])?,
                self.tensor(bound.logits_rows.cast_mut().cast(), int64, 8, &[bound.logits_count])?,
                self.tensor(bound.logits, self.element, self.width, &[bound.logits_count, self.vocab])?,
            )
        };
        let mut options = RunOptions::new().map_err(failed)?;
        options.disable_device_sync().map_err(failed)?;
        if self.captures {
            let name = graph.map_or("-1".to_owned(), |graph| graph.to_string());
            options.set("gpu_graph_id", name).map_err(failed)?;
        }
        let options = options.with_outputs(OutputSelector::no_default().with("logits").preallocate("logits", logits));
        self.session.run_with_options(ort::inputs!["input_ids" => ids, "logits_rows" => logits_rows], &options).map_err(failed)?;
        Ok(())
    }

    /// A tensor over memory of the device.
    ///
    /// # Safety
    /// `data` holds the tensor for as long as the value, and what runs with it, live.
    unsafe fn tensor(&self, data: *mut c_void, element: TensorElementType, size: usize, shape: &[usize]) -> Result<DynValue> {
        let failed = |e: ort::Error| Error::new(Code::StepFailed, format!("session run: {e}"));
        let dims: Vec<i64> = shape.iter().map(|&n| i64::try_from(n).unwrap_or(-1)).collect();
        let bytes = shape.iter().product::<usize>() * size;
        let mut value = std::ptr::null_mut();
        // SAFETY: the memory is as the caller promises; the other arguments live through the call, which keeps none of them.
        unsafe {
            let status = (ort::api().CreateTensorWithDataAsOrtValue)(
                self.memory.ptr(),
                data,
                bytes,
                dims.as_ptr(),
                dims.len(),
                element.into(),
                &raw mut value,
            );
            ort::Error::result_from_status(status).map_err(failed)?;
        }
        let value = NonNull::new(value).ok_or_else(|| Error::new(Code::Native, "the runtime made no tensor and gave no reason"))?;
        // SAFETY: just made, and owned by nobody else. The value does not own its memory, so which allocator is named does not
        // matter.
        Ok(unsafe { DynValue::from_ptr(value, Some(&Allocator::default())) })
    }
}

fn builder(
    environment: &Environment,
    domain: OperatorDomain,
    env: &DeviceEnv,
    device: i32,
    threads: usize,
    captures: bool,
) -> ort::Result<SessionBuilder> {
    let builder = Session::builder(environment)?
        .with_operators(domain)?
        .with_intra_threads(threads)?
        // Batches have a new shape at nearly every step; patterns of each would pile up.
        .with_memory_pattern(false)?
        // Weights go to plain allocations instead of an arena that rounds up to powers of two.
        .with_device_allocated_initializers()?
        .with_config_entry("session.force_spinning_stop", "1")?
        // Quantised matmuls multiply blocks as they are, by kernels chosen by trial when the session opens; without this, steps
        // of more than a few rows would first write the whole matrix as float16.
        .with_config_entry("ep.cuda.fpa_intb_gemm", "1")?
        .with_execution_providers(providers(env, device, captures))?;
    // A node that fell back to the CPU would have its tensors copied at every step.
    if Device::emulated() { Ok(builder) } else { Ok(builder.with_disable_cpu_fallback()?) }
}

#[cfg(feature = "cuda")]
fn providers(env: &DeviceEnv, device: i32, captures: bool) -> Vec<ExecutionProviderDispatch> {
    use ort::ep::{ArenaExtendStrategy, CUDA};
    runtime::open_cuda_libraries();
    let provider = CUDA::default()
        .with_device_id(device)
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
        // Products of float32 are those of float32.
        .with_tf32(false)
        // Norms of float16 are summed in float32.
        .with_skip_layer_norm_strict_mode(true)
        .with_cuda_graph(captures);
    // SAFETY: the environment's stream lives as long as the session's operators, which hold the environment.
    let provider = unsafe { provider.with_compute_stream(env.stream.raw().cast()) };
    vec![provider.build().error_on_failure()]
}

/// The emulator's device memory is the host's: the CPU's provider runs the rest of the graph.
#[cfg(not(feature = "cuda"))]
fn providers(_: &DeviceEnv, _: i32, _: bool) -> Vec<ExecutionProviderDispatch> {
    Vec::new()
}

fn unusable<R>(e: ort::Error<R>) -> Error {
    Error::new(Code::NativeLoad, format!("ONNX Runtime's CUDA provider cannot be used: {e}: run `npm run cuda:runtime`, see docs/gpu.md"))
}

fn refused(graph: &Path, e: &ort::Error) -> Error {
    let what = format!("{}: {e}", graph.display());
    // In the runtime's words; its code is the same for all of them.
    if what.contains("CUDA failure") || what.contains("allocate memory") {
        return Error::new(Code::Device, format!("{what}. See docs/gpu.md"));
    }
    Error::new(Code::ModelInvalid, format!("{what}. Delete the cache entry to have it rebuilt"))
}
