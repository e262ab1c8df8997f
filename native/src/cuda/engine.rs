//! Steps on a CUDA device: tables, token feed, the graph's run, sampling and the copies back follow each other on one
//! stream, step behind step; the host finds what constraints allow meanwhile, and waits only for what comes back.

use super::abi;
use super::bucket::Buckets;
use super::device::{Device, check};
use super::env::{CurrentStep, DeviceEnv, Launch, int};
use super::graphs::{Graphs, Key};
use super::host_tier::HostTier;
use super::image::Image;
use super::loader::{DeviceAdapter, Loader};
use super::memory::DeviceBuffer;
use super::running::{DeviceStep, LastEnd, Uses};
use super::sampling::{DeviceSampler, Plan};
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
use crate::session::context::{StepBatch, StepContext, StepLimits};
use crate::session::core::{Begun, Compiled, Core, Kept, Residents, Step};
use crate::session::engine::{CudaOptions, EngineOptions};
use crate::session::last_sampled::LastSampled;
use crate::weights::Weights;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

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
    last_end: LastEnd,
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
            last_end: LastEnd::default(),
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

    /// Queues all of a step behind whatever the stream holds; the host waits for none of it. Nothing of the step before is
    /// touched by that: device memory changes hands in the stream's order (tables, tokens, logits, what is sampled; captured
    /// runs find theirs at the same addresses), and pinned memory is not shared ([`StepTables`] has two halves, the sampler
    /// gives each step its own).
    fn queue(&mut self, step: &Step<'_>, uses: &Arc<Uses>) -> Result<DeviceStep> {
        let began = Instant::now();
        let request = step.request;
        let (mut copies, pool) = self.sampler.copies();
        let logits = self.launch(step, &uses.context)?;
        let plan = Plan::of(step, self.env.vocab);
        if !request.scores.is_empty() {
            self.sampler.queue(request, &plan, logits.cast(), &mut copies, &self.env.stream)?;
        }
        let done = self.device.event()?;
        done.record(&self.env.stream)?;
        Ok(DeviceStep::new(&self.device, uses, step, plan, (copies, pool), done, (began, self.last_end.clone())))
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
            logits: self.spaces.logits.of(logits_count * env.vocab * env.dtype.size(), &env.stream)?,
        };
        let launch = Launch {
            step: self.tables.step(),
            adapted: !context.segments.is_empty(),
            shrunk: self.spaces.shrunk.of(shrunk_bytes(env, rows, shape.h_stride)?, &env.stream)?.cast(),
            attention: self.spaces.attention.of(attention_bytes(env, shape.single_rows)?, &env.stream)?,
            shape,
        };
        env.current.set(Some(launch));
        let key = Key { bound, shape, adapted: launch.adapted, shrunk: launch.shrunk, attention: launch.attention };
        let graph = (self.session.captures() && shape.bucket.is_some()).then(|| self.graphs.name(key));
        // SAFETY: the memory is the engine's, which uses it in the stream's order and waits for the stream before it frees any;
        // what a captured run uses is fixed for the engine's life, and its name stands for all of it.
        unsafe { self.session.run(&bound, graph) }?;
        Ok(bound.logits.cast())
    }
}

impl Core for CudaCore {
    /// What sequence slots sampled the device remembers itself.
    fn begin(&mut self, step: &Step<'_>, _: &mut LastSampled) -> Result<Begun> {
        self.device.make_current()?;
        let context = StepContext::build(&step.request.batch, &self.limits, &self.adapters.store)?;
        let pages = self.env.kv.pages().begin_step(blocks_of(&step.request.batch))?;
        let uses = Arc::new(Uses { context, _pages: pages });
        let queued = guard(|| self.queue(step, &uses));
        // Operators have launched what they launch.
        self.env.current.set(None);
        if queued.is_err() {
            // Part of it may be in flight: not so when its pages are others' again, with `uses`.
            let _ = self.env.stream.wait();
        }
        queued.map(|step| Begun::Running(Box::new(step)))
    }
}

impl Drop for CudaCore {
    fn drop(&mut self) {
        // What is in flight uses what is about to be freed.
        let _ = self.device.make_current().and_then(|()| self.env.stream.wait());
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
