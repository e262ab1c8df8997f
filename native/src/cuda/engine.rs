//! Steps on a CUDA device: tables, token feed, the graph's run, sampling and the copies back follow each other on one
//! stream; the host finds what constraints allow meanwhile, and waits once.

use super::abi;
use super::bucket::Buckets;
use super::device::{Device, check};
use super::env::{CurrentStep, DeviceEnv, Launch, int};
use super::graphs::{Graphs, Key};
use super::host_tier::HostTier;
use super::image::Image;
use super::loader::{DeviceAdapter, Loader};
use super::memory::DeviceBuffer;
use super::sampling::{Chosen, DeviceSampler, Plan, RowPlan};
use super::session::{Bound, DeviceSession};
use super::slab::Slab;
use super::spaces::{KvBlocks, RopeTables, Workspace};
use super::tables::StepTables;
use crate::adapters::compile::FactorStorage;
use crate::adapters::plan::AdapterPlan;
use crate::adapters::safetensors::File;
use crate::adapters::store::{AdapterStore, Resident};
use crate::error::{Code, Error, Result, guard};
use crate::kernels::simd::Dtype;
use crate::kv::rope::Rope;
use crate::manifest::{DecoderConfig, Manifest};
use crate::sampler::NO_TOKEN;
use crate::session::context::{StepBatch, StepContext, StepLimits};
use crate::session::core::{Compiled, Core, Kept, Residents, Step};
use crate::session::engine::{CudaOptions, EngineOptions};
use crate::session::last_sampled::LastSampled;
use crate::session::step::StepResult;
use crate::weights::Weights;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Head widths that the attention kernels take: multiples of 8 up to this.
const MOST_HEAD_DIM: usize = 256;
/// Rank times terms up to which decoding steps are captured.
const CAPTURED_STRIDE: usize = 512;

pub struct CudaCore {
    // Before the environment: operators use its stream and memory.
    session: DeviceSession,
    env: Arc<DeviceEnv>,
    device: Device,
    adapters: Arc<DeviceAdapters>,
    limits: StepLimits,
    tables: StepTables,
    /// int64 `[1]`: 0.
    row_zero: DeviceBuffer,
    sampler: DeviceSampler,
    spaces: Workspaces,
    buckets: Buckets,
    graphs: Graphs,
}

/// What runs write to beside the runtime's own memory.
struct Workspaces {
    shrunk: Workspace,
    attention: Workspace,
    logits: Workspace,
}

/// Adapters in device memory, and those on their way there.
pub struct DeviceAdapters {
    store: AdapterStore<DeviceAdapter>,
    loader: Loader,
    /// What is kept of them on the host; None where nothing is to be.
    host: Option<HostTier>,
    /// By handle: images that wait for their pages.
    unplaced: Mutex<HashMap<u32, Image>>,
}

impl CudaCore {
    /// # Errors
    /// `ERR_MODEL_INVALID` or `ERR_NATIVE_LOAD` naming the file, `ERR_DEVICE` where the device or its memory does not suffice.
    pub fn open(manifest: &Manifest, options: &EngineOptions, cuda: CudaOptions) -> Result<(Self, Arc<DeviceAdapters>)> {
        check_model(manifest, options)?;
        let device = Device::open(cuda.device)?;
        let (limits, dtype) = (options.limits, manifest.dtype());
        let config = manifest.config.clone();
        let stream = device.stream(-1)?;
        let rope = Rope::new(&config.rope_inverse_frequencies, config.rope_scale, limits.max_model_len);
        let env = DeviceEnv {
            dtype,
            current: CurrentStep::default(),
            kv: KvBlocks::new(&device, &stream, &config, limits.kv_pages, dtype)?,
            rope: RopeTables::upload(&device, &stream, &rope)?,
            sites: manifest.sites.iter().map(|site| (site.in_features, site.out_features)).collect(),
            norms: manifest.norms.len(),
            vocab: config.vocab_size,
            hidden: manifest.embedding.weight.cols,
            max_context: limits.max_model_len,
            config,
            stream,
        };
        let env = Arc::new(env);
        let graph = options.directory.join(&manifest.graph.file);
        let session = DeviceSession::open(&env, cuda.device, &graph, options.threads, cuda.graphs)?;
        let buckets = Buckets::new(limits.max_sequences, CAPTURED_STRIDE);
        let largest = limits.max_sequences;
        let spaces = Workspaces {
            shrunk: Workspace::new(&device, shrunk_bytes(&env, largest, CAPTURED_STRIDE)?)?,
            attention: Workspace::new(&device, attention_bytes(&env, largest)?)?,
            logits: Workspace::new(&device, largest * env.vocab * dtype.size())?,
        };
        let token_count = options.token_count.min(env.vocab);
        let sampler = DeviceSampler::new(&device, &env.stream, dtype, env.vocab, token_count, limits.max_sequences)?;
        let adapters = Arc::new(DeviceAdapters {
            store: AdapterStore::default(),
            loader: Loader::new(&device, env.kv.pages(), options.factors)?,
            host: match cuda.host_bytes {
                0 => None,
                bytes => Some(HostTier::new(&device, Slab::new(&device, bytes))?),
            },
            unplaced: Mutex::default(),
        });
        let row_zero = device.alloc(size_of::<i64>())?;
        env.stream.zero(&row_zero)?;
        let core = Self {
            session,
            row_zero,
            tables: StepTables::new(&device, &limits)?,
            adapters: adapters.clone(),
            limits,
            sampler,
            spaces,
            buckets,
            graphs: Graphs::default(),
            device,
            env,
        };
        Ok((core, adapters))
    }

    /// How many runs were captured as CUDA graphs.
    #[must_use]
    pub fn captured(&self) -> usize {
        self.graphs.count()
    }

    fn run(&mut self, step: &Step<'_>, context: &StepContext<DeviceAdapter>, last_sampled: &mut LastSampled) -> Result<StepResult> {
        let started = Instant::now();
        let request = step.request;
        let rows = request.scores.len();
        let logits = self.launch(step, context)?;
        let plan = Plan::of(step, self.env.vocab);
        if rows > 0 {
            self.sampler.queue(request, &plan, logits.cast(), &self.env.stream)?;
        }
        self.env.stream.wait()?;
        let device_seconds = started.elapsed().saturating_sub(plan.spent).as_secs_f64();

        let started = Instant::now();
        let chosen = self.sampler.chosen(rows)?;
        let mut masking = plan.spent;
        let mut result = settle(step, &plan, chosen, last_sampled, &mut masking);
        result.logits = self.sampler.logits(request.return_logits.len())?;
        result.run_seconds = device_seconds;
        result.mask_seconds = masking.as_secs_f64();
        result.sample_seconds = (plan.spent + started.elapsed()).as_secs_f64();
        Ok(result)
    }

    /// Queues the step's tables, its tokens and the graph's run; the address of its logits.
    fn launch(&mut self, step: &Step<'_>, context: &StepContext<DeviceAdapter>) -> Result<*mut u8> {
        let (env, batch) = (&self.env, &step.request.batch);
        let shape = self.tables.fill(context, batch, Some(&self.buckets))?;
        self.tables.upload(&env.stream)?;
        let (ids, rows) = (self.tables.token_ids(), shape.rows);
        let (count, vocab) = (int(rows)?, int(env.vocab)?);
        // SAFETY: both arrays hold the padded rows; slots are below those of `last_sampled` (resolved by the engine).
        let fed = unsafe { abi::lmx_feed_tokens(ids, self.tables.tokens(), self.sampler.last_sampled(), count, vocab, env.stream.raw()) };
        check(fed, "feeding tokens")?;
        // A run without logits rows is one of row 0, whose logits nobody reads.
        let none = shape.logits_rows == 0;
        let logits_count = shape.logits_rows.max(1);
        let bound = Bound {
            input_ids: ids,
            rows,
            logits_rows: if none { self.row_zero.ptr().cast() } else { self.tables.logits_rows() },
            logits_count,
            logits: self.spaces.logits.of(logits_count * env.vocab * env.dtype.size())?,
        };
        let launch = Launch {
            step: self.tables.step(),
            adapted: !context.segments.is_empty(),
            shrunk: self.spaces.shrunk.of(shrunk_bytes(env, rows, shape.h_stride)?)?.cast(),
            attention: self.spaces.attention.of(attention_bytes(env, shape.single_rows)?)?,
            shape,
        };
        env.current.set(Some(launch));
        let key = Key { bound, shape, adapted: launch.adapted, shrunk: launch.shrunk, attention: launch.attention };
        let graph = (self.session.captures() && shape.bucket.is_some()).then(|| self.graphs.name(key));
        // SAFETY: the memory is the engine's, which waits for the stream before it touches or frees any; what a captured run
        // uses is fixed for the engine's life, and its name stands for all of it.
        unsafe { self.session.run(&bound, graph) }?;
        Ok(bound.logits.cast())
    }
}

impl Core for CudaCore {
    fn step(&mut self, step: &Step<'_>, last_sampled: &mut LastSampled) -> Result<StepResult> {
        self.device.make_current()?;
        let context = StepContext::build(&step.request.batch, &self.limits, &self.adapters.store)?;
        let pages = self.env.kv.pages().begin_step(blocks_of(&step.request.batch))?;
        let result = guard(|| self.run(step, &context, last_sampled));
        self.env.current.set(None);
        // Whatever became of it: nothing may be in flight when adapters that were released meanwhile are freed.
        let idle = self.env.stream.wait();
        drop((context, pages));
        result.and_then(|result| idle.map(|()| result))
    }
}

impl Residents for DeviceAdapters {
    fn compile(&self, file: &File, plan: &AdapterPlan, manifest: &Manifest, weights: &Weights) -> Result<Compiled> {
        let handle = self.store.next_handle();
        let image = self.loader.read(file, plan, manifest, weights)?;
        let (bytes, runs) = (image.map().bytes(), self.loader.fit(image.map()).runs().to_vec());
        self.unplaced().insert(handle, image);
        Ok(Compiled { handle, bytes, runs })
    }

    fn place(&self, handle: u32, pages: &[i32]) -> Result<()> {
        let none = || Error::new(Code::Native, format!("adapter handle {handle} waits for no pages"));
        let image = self.unplaced().remove(&handle).ok_or_else(none)?;
        self.store.insert(Arc::new(self.loader.place(handle, image, pages)?));
        Ok(())
    }

    fn release(&self, handle: u32) -> Option<Box<dyn Send>> {
        // At once, because its pages may be given to others now; no memory is freed.
        drop(self.store.release(handle));
        let image = self.unplaced().remove(&handle);
        image.map(|image| Box::new(image) as Box<dyn Send>)
    }

    fn clear(&self) {
        self.store.clear();
        self.unplaced().clear();
        if let Some(host) = &self.host {
            host.clear();
        }
    }

    fn kept(&self) -> Option<&dyn Kept> {
        self.host.as_ref().map(|_| self as &dyn Kept)
    }

    fn memory(&self) -> (usize, usize) {
        let (bytes, count) = self.store.memory();
        let unplaced = self.unplaced();
        (bytes + unplaced.values().map(|image| image.map().bytes()).sum::<usize>(), count + unplaced.len())
    }
}

impl Kept for DeviceAdapters {
    fn keep(&self, handle: u32) -> Result<Option<(u32, usize)>> {
        self.host()?.keep(&*self.store.get(handle)?)
    }

    fn restore(&self, image: u32, pages: &[i32]) -> Result<(u32, usize)> {
        let image = self.host()?.get(image)?;
        let handle = self.store.next_handle();
        let adapter = self.loader.restore(handle, &image, pages)?;
        let bytes = adapter.bytes();
        self.store.insert(Arc::new(adapter));
        Ok((handle, bytes))
    }

    fn discard(&self, image: u32) {
        if let Some(host) = &self.host {
            host.discard(image);
        }
    }
}

impl DeviceAdapters {
    fn unplaced(&self) -> MutexGuard<'_, HashMap<u32, Image>> {
        self.unplaced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self) -> Result<&HostTier> {
        self.host.as_ref().ok_or_else(|| Error::new(Code::Native, "the engine was opened without a host tier"))
    }
}

/// Blocks that a step's rows read or write.
fn blocks_of(batch: &StepBatch) -> impl Iterator<Item = usize> + '_ {
    let known = |&number: &i32| usize::try_from(number).ok();
    let written = batch.slot_mapping.iter().filter_map(known).map(|slot| slot / abi::BLOCK);
    batch.block_tables.iter().filter_map(known).chain(written)
}

/// The results row by row, as sampling on the host gives them: matchers take what was chosen, and a row on which one fails
/// takes those with it that stand on its token.
fn settle(step: &Step<'_>, plan: &Plan<'_>, chosen: Vec<Chosen>, last_sampled: &mut LastSampled, masking: &mut Duration) -> StepResult {
    let request = step.request;
    let mut result = StepResult::with_rows(request.scores.len());
    let mut sampled = plan.rows.iter().zip(step.matchers).zip(&request.slots).zip(&request.follows);
    let mut before = NO_TOKEN;
    for (row, score) in chosen.into_iter().zip(&request.scores) {
        if score.is_some() {
            result.push(row.token, &row.likeliest);
            continue;
        }
        // As many as `check` counted.
        let Some((((plan, matcher), &slot), &follows)) = sampled.next() else { break };
        if u32::try_from(follows).is_ok_and(|guess| guess != before) {
            before = NO_TOKEN;
            result.skip();
            continue;
        }
        let token = row.token.token;
        let taken = match (plan, matcher) {
            (RowPlan::Refused(why), _) => Err(why.clone()),
            (RowPlan::Sampled(..), Some(matcher)) if token != NO_TOKEN => {
                let started = Instant::now();
                let taken = matcher.lock().commit(token);
                *masking += started.elapsed();
                taken
            }
            _ => Ok(()),
        };
        before = if taken.is_ok() { token } else { NO_TOKEN };
        last_sampled.set(slot, before);
        match taken {
            Ok(()) => result.push(row.token, &row.likeliest),
            Err(why) => {
                if let Some(matcher) = matcher {
                    step.constraints.give_up(matcher);
                }
                result.fail(why);
            }
        }
    }
    result
}

/// Of what the kernels shrink to, for the site with most inputs.
fn shrunk_bytes(env: &DeviceEnv, rows: usize, h_stride: usize) -> Result<usize> {
    let inputs = env.sites.iter().map(|site| site.0).max().unwrap_or(0);
    // SAFETY: computes a number.
    Ok(unsafe { abi::lmx_sgmv_workspace(int(rows)?, int(inputs)?, int(h_stride)?) } * size_of::<f32>())
}

fn attention_bytes(env: &DeviceEnv, single_rows: usize) -> Result<usize> {
    let DecoderConfig { heads, head_dim, .. } = env.config;
    // SAFETY: computes a number.
    Ok(unsafe { abi::lmx_attention_workspace(int(single_rows)?, int(heads)?, int(head_dim)?, int(env.max_context)?) })
}

/// What the device side has no kernels for.
fn check_model(manifest: &Manifest, options: &EngineOptions) -> Result<()> {
    let dim = manifest.config.head_dim;
    if !manifest.sites.iter().flat_map(|site| &site.modules).all(|module| module.weight.format.is_row_major()) {
        return Err(Error::new(
            Code::ModelInvalid,
            "expected weights row by row on a CUDA device, got those of a CPU's: prepare the model for it",
        ));
    }
    if !dim.is_multiple_of(8) || dim > MOST_HEAD_DIM {
        let what = format!("expected heads of a multiple of 8 up to {MOST_HEAD_DIM} on a CUDA device, got {dim}: use the CPU");
        return Err(Error::new(Code::ModelInvalid, what));
    }
    if options.factors == FactorStorage::Int4 {
        return Err(Error::new(Code::Native, "engine options, adapterDtype: expected file or int8 on a CUDA device, got int4"));
    }
    if options.kv_dtype != Dtype::F32 {
        return Err(Error::new(
            Code::Native,
            "engine options, kvDtype: keys and values have the model's type on a CUDA device, expected none",
        ));
    }
    Ok(())
}
