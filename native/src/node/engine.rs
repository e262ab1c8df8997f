//! The engine class: a step thread that owns the session, and what other threads may ask meanwhile.

use super::adapter_file::AdapterFile;
use super::constraint::ConstraintObject;
use super::job::{Job, JsError, js_error, rejection};
use super::loader;
use super::step::{StepBatchObject, StepOutputObject};
use crate::adapters::compile::FactorStorage;
use crate::adapters::plan::AdapterPlan;
use crate::adapters::safetensors::File;
use crate::error::{Code, Error, Result, guard};
use crate::kernels::attention::PAGE;
use crate::kernels::simd::Dtype;
use crate::manifest::Manifest;
use crate::session::context::StepLimits;
use crate::session::core::{Begun, Compiled, Kept};
use crate::session::engine::{CudaOptions, Engine as Core, EngineOptions, Shared};
use crate::session::step::StepRequest;
use napi::bindgen_prelude::{AsyncTask, Int32Array, Object};
use napi::{Env, JsDeferred};
use napi_derive::napi;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

#[napi(object, object_to_js = false)]
pub struct EngineOptionsObject {
    pub directory: String,
    pub threads: u32,
    pub max_model_len: u32,
    pub max_sequences: u32,
    pub max_batch_tokens: u32,
    pub kv_blocks: u32,
    pub token_count: u32,
    pub adapter_dtype: Option<String>,
    pub kv_dtype: Option<String>,
    pub cuda: Option<CudaObject>,
}

#[napi(object, object_to_js = false)]
pub struct CudaObject {
    pub device: u32,
    pub graphs: Option<bool>,
    pub host_bytes: Option<f64>,
}

impl CudaObject {
    fn into_options(self) -> CudaOptions {
        // Beyond what numbers hold exactly there is no memory: the cast saturates, and less than a byte is none.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let host_bytes = self.host_bytes.unwrap_or(0.0) as usize;
        CudaOptions { device: self.device as usize, graphs: self.graphs.unwrap_or(true), host_bytes }
    }
}

#[napi(object, object_from_js = false)]
pub struct KeptAdapterObject {
    pub image: u32,
    pub bytes: f64,
}

#[napi(object, object_from_js = false)]
pub struct CompiledAdapterObject {
    pub handle: u32,
    pub bytes: f64,
    pub runs: Vec<u32>,
}

#[napi(object, object_from_js = false)]
pub struct RestoredAdapterObject {
    pub handle: u32,
    pub bytes: f64,
}

#[napi(object, object_from_js = false)]
pub struct AdapterMemoryObject {
    pub bytes: f64,
    pub count: u32,
}

type KeepJob = Job<Option<(u32, usize)>, Option<KeptAdapterObject>>;
type Resolver = Box<dyn FnOnce(Env) -> napi::Result<StepOutputObject> + Send>;
type Deferred = JsDeferred<StepOutputObject, Resolver>;

/// Steps that may be in flight: one that runs and one behind it.
const MOST_STEPS: usize = 2;

/// The step thread and the way to it. It begins steps in the order in which they come; where they run on a device another
/// thread waits for their ends, in the same order.
pub struct StepThread {
    steps: Mutex<Option<mpsc::Sender<(StepRequest, Deferred)>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    in_flight: Arc<AtomicUsize>,
    shared: Arc<Shared>,
}

impl StepThread {
    /// Opens the engine on a thread of its own and waits until it is ready.
    fn start(manifest: Manifest, options: EngineOptions) -> Result<Self> {
        let (steps, inbox) = mpsc::channel::<(StepRequest, Deferred)>();
        let (ready, opened) = mpsc::channel();
        let in_flight = Arc::new(AtomicUsize::new(0));
        let mut threads = Vec::new();
        let mut ends = None;
        if options.cuda.is_some() {
            let (sender, begun) = mpsc::channel::<(Result<Begun>, Deferred)>();
            let ending = in_flight.clone();
            threads.push(spawn("loramux-end", move || begun.into_iter().for_each(|(step, deferred)| end(step, deferred, &ending)))?);
            ends = Some(sender);
        }
        let ending = in_flight.clone();
        threads.push(spawn("loramux-step", move || {
            let mut core = match guard(|| Core::open(manifest, &options)) {
                Ok(core) => core,
                Err(e) => return drop(ready.send(Err(e))),
            };
            if ready.send(Ok(core.shared())).is_err() {
                return;
            }
            drop(ready);
            while let Ok((request, deferred)) = inbox.recv() {
                let step = guard(|| core.begin(&request));
                drop(request);
                match &ends {
                    Some(ends) => drop(ends.send((step, deferred))),
                    None => end(step, deferred, &ending),
                }
            }
        })?);
        let shared = opened.recv().unwrap_or_else(|_| Err(Error::new(Code::Native, "the step thread ended while opening")))?;
        Ok(Self { steps: Mutex::new(Some(steps)), threads: Mutex::new(threads), in_flight, shared })
    }

    /// Refuses further steps; those in flight go on.
    fn refuse_steps(&self) {
        drop(self.steps.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Lets steps in flight end, then frees the session. Again: waits for the same end.
    fn stop(&self) {
        self.refuse_steps();
        // Held while joining: whoever comes second returns when the session is gone, too.
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            let _ = thread.join();
        }
        drop(threads);
        // The environment's cleanup hook keeps `shared` alive until the environment goes; the adapters need not wait.
        self.shared.adapters.clear();
        self.shared.constraints.clear();
    }

    fn open_constraint(&self, constraint: ConstraintObject) -> Result<i32> {
        self.refuse_if_closed()?;
        let handle = self.shared.constraints.open(constraint.into_constraint()?)?;
        // Closed meanwhile: `stop` may have cleared the store before this matcher entered it.
        self.refuse_if_closed().inspect_err(|_| self.shared.constraints.release(handle))?;
        Ok(handle)
    }

    fn compile_adapter(&self, file: &File, plan: &AdapterPlan) -> Result<Compiled> {
        self.refuse_if_closed()?;
        let compiled = self.shared.compile_adapter(file, plan)?;
        // Closed meanwhile: `stop` may have cleared the store before this adapter entered it.
        self.refuse_if_closed().inspect_err(|_| drop(self.shared.adapters.release(compiled.handle)))?;
        Ok(compiled)
    }

    fn place_adapter(&self, handle: u32, pages: &[i32]) -> Result<()> {
        self.refuse_if_closed()?;
        self.shared.adapters.place(handle, pages)?;
        self.refuse_if_closed().inspect_err(|_| drop(self.shared.adapters.release(handle)))
    }

    fn restore_adapter(&self, image: u32, pages: &[i32]) -> Result<(u32, usize)> {
        self.refuse_if_closed()?;
        let restored = self.kept()?.restore(image, pages)?;
        self.refuse_if_closed().inspect_err(|_| drop(self.shared.adapters.release(restored.0)))?;
        Ok(restored)
    }

    fn keep_adapter(&self, handle: u32) -> Result<Option<(u32, usize)>> {
        self.refuse_if_closed()?;
        let kept = self.kept()?.keep(handle)?;
        if let Some((image, _)) = kept {
            self.refuse_if_closed().inspect_err(|_| self.discard_image(image))?;
        }
        Ok(kept)
    }

    fn discard_image(&self, image: u32) {
        if let Some(kept) = self.shared.adapters.kept() {
            kept.discard(image);
        }
    }

    fn kept(&self) -> Result<&dyn Kept> {
        let none = || Error::new(Code::Native, "this engine keeps no adapters on the host: open it with cuda.hostBytes");
        self.shared.adapters.kept().ok_or_else(none)
    }

    fn refuse_if_closed(&self) -> Result<()> {
        match *self.steps.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(_) => Ok(()),
            None => Err(Error::new(Code::EngineClosed, "the engine is closed: open another")),
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map_err(|e| Error::new(Code::Native, format!("starting the thread {name}: {e}")))
}

/// Waits for a step's end and answers it.
fn end(step: Result<Begun>, deferred: Deferred, in_flight: &AtomicUsize) {
    let result = guard(|| match step? {
        Begun::Done(result) => Ok(result),
        Begun::Running(step) => step.finish(),
    });
    in_flight.fetch_sub(1, Ordering::AcqRel);
    deferred.resolve(Box::new(move |env| match result {
        Ok(output) => Ok(output.into()),
        Err(e) => Err(rejection(env, e)),
    }));
}

impl Drop for StepThread {
    fn drop(&mut self) {
        self.stop();
    }
}

#[napi]
pub struct Engine {
    inner: Arc<StepThread>,
}

#[napi]
impl Engine {
    #[napi(ts_return_type = "Promise<Engine>", catch_unwind)]
    pub fn open(manifest_json: String, options: EngineOptionsObject) -> AsyncTask<Job<Arc<StepThread>, Engine>> {
        let work = move || {
            let manifest = Manifest::parse(&manifest_json)?;
            let options = EngineOptions {
                directory: options.directory.into(),
                threads: options.threads as usize,
                limits: StepLimits {
                    max_batch_tokens: options.max_batch_tokens as usize,
                    max_sequences: options.max_sequences as usize,
                    max_model_len: options.max_model_len as usize,
                    kv_pages: options.kv_blocks as usize,
                },
                token_count: options.token_count as usize,
                cuda: options.cuda.map(CudaObject::into_options),
                factors: match options.adapter_dtype.as_deref() {
                    None | Some("file") => FactorStorage::File,
                    Some("int8") => FactorStorage::Int8,
                    Some("int4") => FactorStorage::Int4,
                    Some(found) => {
                        return Err(Error::new(
                            Code::Native,
                            format!("engine options, adapterDtype: expected file, int8 or int4, got {found}"),
                        ));
                    }
                },
                kv_dtype: match options.kv_dtype.as_deref() {
                    None | Some("f32") => Dtype::F32,
                    Some("f16") => Dtype::F16,
                    Some("bf16") => Dtype::Bf16,
                    Some(found) => {
                        return Err(Error::new(Code::Native, format!("engine options, kvDtype: expected f32, f16 or bf16, got {found}")));
                    }
                },
            };
            StepThread::start(manifest, options).map(Arc::new)
        };
        Job::new(work, |env, inner| {
            // A worker that is terminated must not leave a thread stepping into a dead environment.
            env.add_env_cleanup_hook(inner.clone(), |inner: Arc<StepThread>| inner.stop())?;
            Ok(Engine { inner })
        })
    }

    #[napi(getter, catch_unwind)]
    #[allow(clippy::cast_possible_truncation, clippy::unused_self)]
    pub fn block_size(&self) -> u32 {
        PAGE as u32
    }

    #[napi(ts_return_type = "Promise<StepOutput>", catch_unwind)]
    pub fn step<'env>(&self, env: &'env Env, batch: StepBatchObject) -> std::result::Result<Object<'env>, JsError> {
        let request = batch.into_request().map_err(js_error)?;
        let steps = self.inner.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(steps) = steps.as_ref() else {
            return Err(js_error(Error::new(Code::EngineClosed, "the engine is closed: open another")));
        };
        // Only this thread adds to it.
        if self.inner.in_flight.load(Ordering::Acquire) >= MOST_STEPS {
            let what = format!("{MOST_STEPS} steps are in flight: wait for one before the next");
            return Err(js_error(Error::new(Code::StepFailed, what)));
        }
        self.inner.in_flight.fetch_add(1, Ordering::AcqRel);
        let internal = |e: napi::Error| js_error(Error::new(Code::Native, e.reason.clone()));
        let not_stepping = |e: JsError| {
            self.inner.in_flight.fetch_sub(1, Ordering::AcqRel);
            e
        };
        let (deferred, promise) = env.create_deferred::<StepOutputObject, Resolver>().map_err(internal).map_err(not_stepping)?;
        if steps.send((request, deferred)).is_err() {
            return Err(not_stepping(js_error(Error::new(Code::EngineClosed, "the step thread has ended: open another engine"))));
        }
        Ok(promise)
    }

    #[napi(ts_return_type = "Promise<{ handle: number, bytes: number, runs: number[] }>", catch_unwind)]
    pub fn compile_adapter<'env>(
        &self,
        env: &'env Env,
        file: &AdapterFile,
        plan_json: String,
    ) -> std::result::Result<Object<'env>, JsError> {
        let (inner, file) = (self.inner.clone(), file.held()?.clone());
        let work = move || inner.compile_adapter(&file, &AdapterPlan::parse(&plan_json)?);
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
        let shown = |Compiled { handle, bytes, runs }| CompiledAdapterObject {
            handle,
            bytes: bytes as f64,
            runs: runs.into_iter().map(|pages: usize| pages as u32).collect(),
        };
        loader::submit(env, work, shown)
    }

    #[napi(ts_return_type = "Promise<void>", catch_unwind)]
    pub fn place_adapter<'env>(&self, env: &'env Env, handle: u32, pages: Int32Array) -> std::result::Result<Object<'env>, JsError> {
        let (inner, pages) = (self.inner.clone(), pages.to_vec());
        loader::submit(env, move || inner.place_adapter(handle, &pages), |()| ())
    }

    #[napi(catch_unwind)]
    pub fn release_adapter(&self, handle: u32) {
        // Also where nothing comes back: memory may have come free that the loader would keep.
        loader::discard(self.inner.shared.adapters.release(handle));
    }

    #[napi(ts_return_type = "Promise<{ image: number, bytes: number } | null>", catch_unwind)]
    pub fn keep_adapter(&self, handle: u32) -> AsyncTask<KeepJob> {
        let inner = self.inner.clone();
        #[allow(clippy::cast_precision_loss)]
        Job::new(
            move || inner.keep_adapter(handle),
            |_, kept| Ok(kept.map(|(image, bytes)| KeptAdapterObject { image, bytes: bytes as f64 })),
        )
    }

    /// Not on the loader's thread: it need not wait for files that are read there.
    #[napi(ts_return_type = "Promise<{ handle: number, bytes: number }>", catch_unwind)]
    pub fn restore_adapter(&self, image: u32, pages: Int32Array) -> AsyncTask<Job<(u32, usize), RestoredAdapterObject>> {
        let (inner, pages) = (self.inner.clone(), pages.to_vec());
        #[allow(clippy::cast_precision_loss)]
        Job::new(
            move || inner.restore_adapter(image, &pages),
            |_, (handle, bytes)| Ok(RestoredAdapterObject { handle, bytes: bytes as f64 }),
        )
    }

    #[napi(catch_unwind)]
    pub fn discard_image(&self, image: u32) {
        self.inner.discard_image(image);
    }

    #[napi(catch_unwind)]
    #[allow(clippy::cast_precision_loss)]
    pub fn adapter_memory(&self) -> AdapterMemoryObject {
        let (bytes, count) = self.inner.shared.adapters.memory();
        AdapterMemoryObject { bytes: bytes as f64, count: u32::try_from(count).unwrap_or(u32::MAX) }
    }

    #[napi(ts_return_type = "Promise<number>", catch_unwind)]
    pub fn open_constraint(&self, constraint: ConstraintObject) -> AsyncTask<Job<i32, i32>> {
        let inner = self.inner.clone();
        Job::new(move || inner.open_constraint(constraint), |_, handle| Ok(handle))
    }

    #[napi(catch_unwind)]
    pub fn release_constraint(&self, handle: i32) {
        self.inner.shared.constraints.release(handle);
    }

    #[napi(catch_unwind)]
    pub fn constraint_count(&self) -> u32 {
        u32::try_from(self.inner.shared.constraints.count()).unwrap_or(u32::MAX)
    }

    #[napi(ts_return_type = "Promise<void>", catch_unwind)]
    pub fn close(&self) -> AsyncTask<Job<(), ()>> {
        let inner = self.inner.clone();
        inner.refuse_steps();
        Job::new(
            move || {
                inner.stop();
                Ok(())
            },
            |_, ()| Ok(()),
        )
    }
}
