//! One base model, ready to step: the session, its operators' state, the resident adapters.

use super::context::{ContextSlot, StepContext, StepLimits};
use super::runtime;
use super::step::{StepRequest, StepResult};
use crate::adapters::compile::{self, AdapterPlan, FactorStorage};
use crate::adapters::safetensors::File;
use crate::adapters::store::AdapterStore;
use crate::constraint::sample::sample as sample_constrained;
use crate::constraint::store::{ConstraintStore, InUse};
use crate::error::{Code, Error, Result, guard};
use crate::kernels::dispatch;
use crate::kv::pages::KvPages;
use crate::kv::rope::Rope;
use crate::manifest::Manifest;
use crate::ops::{self, OpEnv};
use crate::pace;
use crate::sampler::{NO_TOKEN, Sampler};
use crate::weights::Weights;
use ort::session::Session;
use ort::value::TensorRef;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How an engine is opened; mirrors `NativeEngineOptions` of `src/engine/binding.ts`.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    pub directory: PathBuf,
    pub threads: usize,
    pub limits: StepLimits,
    /// Ids at or above this are never sampled.
    pub token_count: usize,
    pub factors: FactorStorage,
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
    pub adapters: AdapterStore,
    pub constraints: ConstraintStore,
    weights: Weights,
    factors: FactorStorage,
}

impl Shared {
    /// Makes `file` resident.
    ///
    /// # Errors
    /// See [`compile::compile`].
    pub fn compile_adapter(&self, file: &File, plan: &AdapterPlan) -> Result<(u32, usize)> {
        let handle = self.adapters.next_handle();
        let compiled = compile::compile(handle, file, plan, self.factors, &self.manifest, &self.weights);
        self.weights.release_pages();
        let adapter = compiled?;
        let bytes = adapter.bytes;
        self.adapters.insert(Arc::new(adapter));
        Ok((handle, bytes))
    }
}

/// Owned by the step thread.
pub struct Engine {
    session: Session,
    env: Arc<OpEnv>,
    shared: Arc<Shared>,
    limits: StepLimits,
    token_count: usize,
    /// What each sequence slot sampled last. [maxSequences]
    last_sampled: Vec<u32>,
    sampler: Sampler,
}

impl Engine {
    /// # Errors
    /// `ERR_MODEL_INVALID` or `ERR_NATIVE_LOAD` naming the file, `ERR_NATIVE` naming an option out of bounds.
    pub fn open(manifest: Manifest, options: &EngineOptions) -> Result<Self> {
        options.check()?;
        let kernels = dispatch::choose().map_err(|e| Error::new(Code::NativeLoad, e))?;
        let c = manifest.config.clone();
        let weights = Weights::open(&options.directory.join(&manifest.weights.file))?;
        let env = Arc::new(OpEnv {
            kernels,
            context: Arc::new(ContextSlot::default()),
            threads: options.threads,
            kv: KvPages::new(c.layers, options.limits.kv_pages, c.kv_heads, c.head_dim)?,
            rope: Rope::new(&c.rope_inverse_frequencies, c.rope_scale, options.limits.max_model_len),
            sites: manifest.sites.iter().map(|site| (site.in_features, site.out_features)).collect(),
            norms: manifest.norms.len(),
            vocab: c.vocab_size,
            hidden: manifest.embedding.weight.cols,
            config: c,
        });
        let graph = options.directory.join(&manifest.graph.file);
        let session = open_session(&env, &graph)
            .map_err(|e| Error::new(Code::ModelInvalid, format!("{}: {e}. Delete the cache entry to have it rebuilt", graph.display())))?;
        let constraints = ConstraintStore::new(options.directory.join(&manifest.tokenizer.file), manifest.eos_token_ids.clone());
        Ok(Self {
            session,
            env,
            limits: options.limits,
            token_count: options.token_count.min(manifest.config.vocab_size),
            last_sampled: vec![0; options.limits.max_sequences],
            sampler: Sampler::default(),
            shared: Arc::new(Shared { manifest, adapters: AdapterStore::default(), constraints, weights, factors: options.factors }),
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
        request.check(self.shared.manifest.config.vocab_size)?;
        self.check_slots(&request.slots)?;
        let matchers = self.matchers(&request.constraints)?;
        let _step = pace::Step::begin(self.env.threads);
        let context = StepContext::build(&request.batch, &self.limits, &self.shared.adapters)?;
        let ids = self.resolve_tokens(&request.batch.tokens)?;
        let logits_rows: Vec<i64> = request.batch.logits_rows.iter().map(|&row| i64::from(row)).collect();
        self.env.context.set(Some(Arc::new(context)));
        let result = guard(|| self.run(&ids, &logits_rows, request, &matchers));
        // Adapters that were released meanwhile are freed here, by the last holder.
        self.env.context.set(None);
        result
    }

    fn run(&mut self, ids: &[i64], logits_rows: &[i64], request: &StepRequest, matchers: &[Option<InUse>]) -> Result<StepResult> {
        let failed = |e: ort::Error| Error::new(Code::StepFailed, format!("session run: {e}"));
        let started = Instant::now();
        let inputs = ort::inputs![
            "input_ids" => TensorRef::from_array_view(([ids.len()], ids)).map_err(failed)?,
            "logits_rows" => TensorRef::from_array_view(([logits_rows.len()], logits_rows)).map_err(failed)?,
        ];
        let outputs = self.session.run(inputs).map_err(failed)?;
        let run_seconds = started.elapsed().as_secs_f64();

        let started = Instant::now();
        let (shape, logits) = outputs["logits"].try_extract_tensor::<f32>().map_err(failed)?;
        let width = self.shared.manifest.config.vocab_size;
        if logits.len() != logits_rows.len() * width {
            return Err(Error::new(Code::StepFailed, format!("expected logits [{}, {width}], got {shape}", logits_rows.len())));
        }
        let mut result = StepResult::with_rows(request.scores.len());
        let mut sampled = request.sampling.iter().zip(&request.slots).zip(&request.follows).zip(matchers);
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
                    .inspect_err(|_| self.shared.constraints.give_up(matcher)),
            };
            before = token.as_ref().map_or(NO_TOKEN, |token| token.token);
            if let Some(last) = usize::try_from(slot).ok().and_then(|slot| self.last_sampled.get_mut(slot)) {
                *last = before;
            }
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

    fn matchers(&self, handles: &[i32]) -> Result<Vec<Option<InUse>>> {
        let of = |&handle: &i32| if handle == -1 { Ok(None) } else { self.shared.constraints.get(handle).map(Some) };
        handles.iter().map(of).collect()
    }

    fn check_slots(&self, slots: &[i32]) -> Result<()> {
        let known = |slot: i32| slot == -1 || usize::try_from(slot).is_ok_and(|slot| slot < self.last_sampled.len());
        match slots.iter().find(|&&slot| !known(slot)) {
            Some(slot) => {
                let most = self.last_sampled.len();
                Err(Error::new(Code::StepFailed, format!("sampling.slot: expected −1 or a sequence slot below {most}, got {slot}")))
            }
            None => Ok(()),
        }
    }

    /// Token ids as the graph wants them; `−(s+1)` becomes what slot s sampled last.
    fn resolve_tokens(&self, tokens: &[i32]) -> Result<Vec<i64>> {
        let vocab = self.shared.manifest.config.vocab_size;
        tokens
            .iter()
            .map(|&token| match usize::try_from(token) {
                Ok(id) if id < vocab => Ok(i64::from(token)),
                Ok(id) => Err(Error::new(Code::StepFailed, format!("tokens: expected ids below {vocab}, got {id}"))),
                Err(_) => {
                    let slot = usize::try_from(-(i64::from(token) + 1)).unwrap_or(usize::MAX);
                    self.last_sampled.get(slot).filter(|&&id| (id as usize) < vocab).map(|&id| i64::from(id)).ok_or_else(|| {
                        Error::new(
                            Code::StepFailed,
                            format!(
                                "tokens: expected sequence slots below {} that have sampled a token, got {slot}",
                                self.last_sampled.len()
                            ),
                        )
                    })
                }
            })
            .collect()
    }
}

fn open_session(env: &Arc<OpEnv>, graph: &std::path::Path) -> std::result::Result<Session, String> {
    // One session opens at a time: each briefly needs its weights twice.
    static OPENING: Mutex<()> = Mutex::new(());
    let _one = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
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
