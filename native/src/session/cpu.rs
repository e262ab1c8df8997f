//! Steps on the CPU: the session with our kernels, and sampling row by row.

use super::context::{ContextSlot, StepContext, StepLimits};
use super::core::{Begun, Compiled, Core, Residents, Step};
use super::engine::EngineOptions;
use super::last_sampled::LastSampled;
use super::runtime;
use super::step::StepResult;
use crate::adapters::compile::{self, FactorStorage};
use crate::adapters::plan::AdapterPlan;
use crate::adapters::safetensors::File;
use crate::adapters::store::AdapterStore;
use crate::constraint::sample::sample as sample_constrained;
use crate::error::{Code, Error, Result, guard};
use crate::kernels::dispatch;
use crate::kernels::simd::Dtype;
use crate::kv::pages::KvPages;
use crate::kv::rope::Rope;
use crate::manifest::Manifest;
use crate::ops::{self, OpEnv};
use crate::pace;
use crate::sampler::{NO_TOKEN, Sampler};
use crate::weights::Weights;
use ort::session::Session;
use ort::value::TensorRef;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The session, its operators' state and the sampler's buffers.
pub struct CpuCore {
    session: Session,
    env: Arc<OpEnv>,
    adapters: Arc<CpuAdapters>,
    limits: StepLimits,
    token_count: usize,
    sampler: Sampler,
}

/// Adapters as the CPU's kernels read them.
pub struct CpuAdapters {
    store: AdapterStore,
    factors: FactorStorage,
}

impl CpuCore {
    /// # Errors
    /// `ERR_MODEL_INVALID` or `ERR_NATIVE_LOAD` naming the file, `ERR_NATIVE` where memory does not suffice.
    pub fn open(manifest: &Manifest, options: &EngineOptions) -> Result<(Self, Arc<CpuAdapters>)> {
        if manifest.dtype() != Dtype::F32 {
            let what = format!("expected a model in f32, w8 or w4 on the CPU, got {:?}: choose another precision", manifest.precision);
            return Err(Error::new(Code::ModelInvalid, what));
        }
        let kernels = dispatch::choose().map_err(|e| Error::new(Code::NativeLoad, e))?;
        let c = manifest.config.clone();
        let env = Arc::new(OpEnv {
            kernels,
            context: Arc::new(ContextSlot::default()),
            threads: options.threads,
            kv: KvPages::new(c.layers, options.limits.kv_pages, c.kv_heads, c.head_dim, options.kv_dtype)?,
            rope: Rope::new(&c.rope_inverse_frequencies, c.rope_scale, options.limits.max_model_len),
            sites: manifest.sites.iter().map(|site| (site.in_features, site.out_features)).collect(),
            norms: manifest.norms.len(),
            vocab: c.vocab_size,
            hidden: manifest.embedding.weight.cols,
            config: c,
        });
        let session = runtime::graph_opened(&options.directory.join(&manifest.graph.file), |graph| open_session(&env, graph))?;
        let adapters = Arc::new(CpuAdapters { store: AdapterStore::default(), factors: options.factors });
        let token_count = options.token_count.min(manifest.config.vocab_size);
        let core = Self { session, env, adapters: adapters.clone(), limits: options.limits, token_count, sampler: Sampler::default() };
        Ok((core, adapters))
    }

    fn run(&mut self, step: &Step<'_>, last_sampled: &mut LastSampled) -> Result<StepResult> {
        let failed = |e: ort::Error| Error::new(Code::StepFailed, format!("session run: {e}"));
        let request = step.request;
        let logits_rows: Vec<i64> = request.batch.logits_rows.iter().map(|&row| i64::from(row)).collect();
        let started = Instant::now();
        let inputs = ort::inputs![
            "input_ids" => TensorRef::from_array_view(([step.ids.len()], step.ids)).map_err(failed)?,
            "logits_rows" => TensorRef::from_array_view(([logits_rows.len()], &*logits_rows)).map_err(failed)?,
        ];
        let outputs = self.session.run(inputs).map_err(failed)?;
        let run_seconds = started.elapsed().as_secs_f64();

        let started = Instant::now();
        let (shape, logits) = outputs["logits"].try_extract_tensor::<f32>().map_err(failed)?;
        let width = self.env.vocab;
        if logits.len() != logits_rows.len() * width {
            return Err(Error::new(Code::StepFailed, format!("expected logits [{}, {width}], got {shape}", logits_rows.len())));
        }
        let mut result = StepResult::with_rows(request.scores.len());
        let mut sampled = request.sampling.iter().zip(&request.slots).zip(&request.follows).zip(step.matchers);
        let mut before = NO_TOKEN;
        let mut masking = Duration::ZERO;
        for (row, score) in logits.chunks_exact(width).zip(&request.scores) {
            if let Some(score) = score {
                let token = self.sampler.score(row, self.token_count, score.token, score.top);
                result.push(token, self.sampler.likeliest());
                continue;
            }
            // As many as `check` counted.
            let Some((((sampling, &slot), &follows), matcher)) = sampled.next() else { break };
            if u32::try_from(follows).is_ok_and(|guess| guess != before) {
                before = NO_TOKEN;
                result.skip();
                continue;
            }
            let token = match matcher {
                None => Ok(self.sampler.sample(row, self.token_count, sampling, None)),
                Some(matcher) => sample_constrained(&mut self.sampler, row, self.token_count, sampling, &mut matcher.lock(), &mut masking)
                    .inspect_err(|_| step.constraints.give_up(matcher)),
            };
            before = token.as_ref().map_or(NO_TOKEN, |token| token.token);
            last_sampled.set(slot, before);
            match token {
                Ok(token) => result.push(token, self.sampler.likeliest()),
                Err(why) => result.fail(why),
            }
        }
        if !request.return_logits.is_empty() {
            let rows = request.return_logits.iter().map(|&row| &logits[row * width..(row + 1) * width]);
            result.logits = Some(rows.flatten().copied().collect());
        }
        result.run_seconds = run_seconds;
        result.mask_seconds = masking.as_secs_f64();
        result.sample_seconds = started.elapsed().as_secs_f64();
        Ok(result)
    }
}

impl Core for CpuCore {
    fn begin(&mut self, step: &Step<'_>, last_sampled: &mut LastSampled) -> Result<Begun> {
        let _step = pace::Step::begin(self.env.threads);
        let context = StepContext::build(&step.request.batch, &self.limits, &self.adapters.store)?;
        self.env.context.set(Some(Arc::new(context)));
        let result = guard(|| self.run(step, last_sampled));
        // Adapters that were released meanwhile are freed here, by the last holder.
        self.env.context.set(None);
        result.map(Begun::Done)
    }
}

impl Residents for CpuAdapters {
    fn compile(&self, file: &File, plan: &AdapterPlan, manifest: &Manifest, weights: &Weights) -> Result<Compiled> {
        let handle = self.store.next_handle();
        let adapter = compile::compile(handle, file, plan, self.factors, manifest, weights)?;
        let bytes = adapter.bytes;
        self.store.insert(Arc::new(adapter));
        Ok(Compiled { handle, bytes, runs: Vec::new() })
    }

    fn place(&self, handle: u32, _pages: &[i32]) -> Result<()> {
        Err(Error::new(Code::Native, format!("adapter handle {handle} waits for no pages: the CPU has none")))
    }

    fn release(&self, handle: u32) -> Option<Box<dyn Send>> {
        drop(self.store.release(handle));
        None
    }

    fn clear(&self) {
        self.store.clear();
    }

    fn memory(&self) -> (usize, usize) {
        self.store.memory()
    }
}

fn open_session(env: &Arc<OpEnv>, graph: &std::path::Path) -> std::result::Result<Session, String> {
    let _one = runtime::one_session_opens();
    let environment = runtime::environment().map_err(|e| e.message)?;
    let domain = ops::domain(env).map_err(|e| e.message)?;
    let text = |e: &dyn std::fmt::Display| e.to_string();
    Session::builder(environment)
        .map_err(|e| text(&e))?
        .with_operators(domain)
        .map_err(|e| text(&e))?
        .with_intra_threads(env.threads)
        .map_err(|e| text(&e))?
        // Batches have a new shape at nearly every step; patterns of each would pile up.
        .with_memory_pattern(false)
        .map_err(|e| text(&e))?
        // Weights go to plain allocations instead of an arena that rounds up to powers of two.
        .with_device_allocated_initializers()
        .map_err(|e| text(&e))?
        // Pool threads sleep between steps, so that the scheduler and the HTTP thread get the cores.
        .with_config_entry("session.force_spinning_stop", "1")
        .map_err(|e| text(&e))?
        .commit_from_file(graph)
        .map_err(|e| text(&e))
}
