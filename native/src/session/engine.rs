//! One base model, ready to step: what is the same whatever device runs it.

use super::context::StepLimits;
use super::core::{Begun, Compiled, Core, Residents, Step};
use super::cpu::CpuCore;
use super::last_sampled::LastSampled;
use super::step::{StepRequest, StepResult};
use crate::adapters::compile::FactorStorage;
use crate::adapters::plan::AdapterPlan;
use crate::adapters::safetensors::File;
use crate::constraint::store::{ConstraintStore, InUse};
use crate::error::{Code, Error, Result};
use crate::kernels::simd::Dtype;
use crate::manifest::Manifest;
use crate::weights::Weights;
use std::path::PathBuf;
use std::sync::Arc;

/// How an engine is opened; mirrors `NativeEngineOptions` of `src/engine/binding.ts`.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    pub directory: PathBuf,
    pub threads: usize,
    pub limits: StepLimits,
    /// Ids at or above this are never sampled.
    pub token_count: usize,
    pub factors: FactorStorage,
    /// Of keys and values on the CPU; on a device they have the model's type.
    pub kv_dtype: Dtype,
    /// None: the CPU.
    pub cuda: Option<CudaOptions>,
}

/// The CUDA device that steps run on.
#[derive(Debug, Clone, Copy)]
pub struct CudaOptions {
    pub device: usize,
    /// Decoding steps are captured as CUDA graphs, one a shape, and replayed.
    pub graphs: bool,
    /// Pinned host memory for adapters that leave the device; 0 = none are kept.
    pub host_bytes: usize,
}

impl EngineOptions {
    /// Bounds that keep tables made from these numbers allocatable.
    fn check(&self) -> Result<()> {
        let checks = [
            ("threads", self.threads, 1 << 10),
            ("maxModelLen", self.limits.max_model_len, 1 << 22),
            ("maxSequences", self.limits.max_sequences, 1 << 20),
            ("maxBatchTokens", self.limits.max_batch_tokens, 1 << 20),
            ("kvBlocks", self.limits.kv_pages, 1 << 27),
            ("tokenCount", self.token_count, usize::MAX),
        ];
        match checks.into_iter().find(|&(_, value, most)| value == 0 || value > most) {
            Some((name, value, most)) => {
                Err(Error::new(Code::Native, format!("engine options, {name}: expected 1 to {most}, got {value}")))
            }
            None => Ok(()),
        }
    }
}

/// The parts that other threads use while a step runs.
pub struct Shared {
    pub manifest: Manifest,
    pub adapters: Arc<dyn Residents>,
    pub constraints: Arc<ConstraintStore>,
    weights: Weights,
}

impl Shared {
    /// Makes `file` resident, or on a device ready to be placed.
    ///
    /// # Errors
    /// See [`Residents::compile`].
    pub fn compile_adapter(&self, file: &File, plan: &AdapterPlan) -> Result<Compiled> {
        let compiled = self.adapters.compile(file, plan, &self.manifest, &self.weights);
        self.weights.release_pages();
        compiled
    }
}

/// Owned by the step thread.
pub struct Engine {
    core: Box<dyn Core>,
    shared: Arc<Shared>,
    last_sampled: LastSampled,
}

impl Engine {
    /// # Errors
    /// `ERR_MODEL_INVALID` or `ERR_NATIVE_LOAD` naming the file, `ERR_NATIVE` naming an option out of bounds.
    pub fn open(manifest: Manifest, options: &EngineOptions) -> Result<Self> {
        options.check()?;
        let weights = Weights::open(&options.directory.join(&manifest.weights.file))?;
        let (core, adapters) = open_core(&manifest, options)?;
        let tokenizer = options.directory.join(&manifest.tokenizer.file);
        let constraints = Arc::new(ConstraintStore::new(tokenizer, manifest.eos_token_ids.clone()));
        Ok(Self {
            core,
            last_sampled: LastSampled::new(options.limits.max_sequences, manifest.config.vocab_size),
            shared: Arc::new(Shared { manifest, adapters, constraints, weights }),
        })
    }

    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Runs one forward pass and samples its logits rows.
    ///
    /// # Errors
    /// `ERR_STEP_FAILED` when the batch is not what it should be or the session fails; nothing is remembered then.
    pub fn step(&mut self, request: &StepRequest) -> Result<StepResult> {
        match self.begin(request)? {
            Begun::Done(result) => Ok(result),
            Begun::Running(step) => step.finish(),
        }
    }

    /// The same as far as it goes without waiting for the device; the next step may be begun before this one is over.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub fn begin(&mut self, request: &StepRequest) -> Result<Begun> {
        request.check(self.shared.manifest.config.vocab_size)?;
        self.last_sampled.check(&request.slots)?;
        let matchers = self.matchers(&request.constraints)?;
        let ids = self.last_sampled.resolve(&request.batch.tokens)?;
        let step = Step { request, ids: &ids, matchers: &matchers, constraints: &self.shared.constraints };
        self.core.begin(&step, &mut self.last_sampled)
    }

    fn matchers(&self, handles: &[i32]) -> Result<Vec<Option<InUse>>> {
        let of = |&handle: &i32| if handle == -1 { Ok(None) } else { self.shared.constraints.get(handle).map(Some) };
        handles.iter().map(of).collect()
    }
}

type Opened = (Box<dyn Core>, Arc<dyn Residents>);

fn open_core(manifest: &Manifest, options: &EngineOptions) -> Result<Opened> {
    if let Some(cuda) = options.cuda {
        return open_cuda(manifest, options, cuda);
    }
    let (core, adapters) = CpuCore::open(manifest, options)?;
    Ok((Box::new(core), adapters))
}

#[cfg(any(feature = "cuda", feature = "cuda-emulated"))]
fn open_cuda(manifest: &Manifest, options: &EngineOptions, cuda: CudaOptions) -> Result<Opened> {
    let (core, adapters) = crate::cuda::engine::CudaCore::open(manifest, options, cuda)?;
    Ok((Box::new(core), adapters))
}

#[cfg(not(any(feature = "cuda", feature = "cuda-emulated")))]
fn open_cuda(_: &Manifest, _: &EngineOptions, cuda: CudaOptions) -> Result<Opened> {
    let what = format!("this addon has no CUDA kernels, device {} cannot be used: run `npm run build:cuda` for one that has", cuda.device);
    Err(Error::new(Code::NativeLoad, what))
}
