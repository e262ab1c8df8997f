//! The thread that reads, merges and compiles adapters: one an environment, in order of arrival, behind everything else.

use super::job::{JsError, js_error, rejection};
use crate::adapters::buffer;
use crate::error::{Code, Error, Result, guard};
use crate::{idle, pace};
use napi::bindgen_prelude::{Object, ToNapiValue};
use napi::{Env, JsDeferred};
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long memory of earlier loads is kept for the next one.
const KEEP_SPARE: Duration = Duration::from_secs(2);
/// The same for memory of a device and what its copies reach, which takes long to get and to give back.
const KEEP_SPARE_DEVICE: Duration = Duration::from_secs(30);

thread_local! {
    /// An environment lives on one thread.
    static LOADER: RefCell<Option<Arc<Loader>>> = const { RefCell::new(None) };
}

/// Told whether the environment is going: then it only has to say so.
type Work = Box<dyn FnOnce(bool) + Send>;
type Resolver<J> = Box<dyn FnOnce(Env) -> napi::Result<J> + Send>;

struct Loader {
    work: Mutex<Option<Sender<Work>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    stopping: Arc<AtomicBool>,
}

impl Loader {
    fn start() -> Result<Self> {
        let (work, inbox) = channel::<Work>();
        let stopping = Arc::new(AtomicBool::new(false));
        let told = stopping.clone();
        let thread = std::thread::Builder::new()
            .name("loramux-load".to_owned())
            .spawn(move || {
                pace::hold_back();
                while let Some(work) = next(&inbox) {
                    work(told.load(Ordering::Acquire));
                }
            })
            .map_err(|e| Error::new(Code::Native, format!("starting the thread that loads adapters: {e}")))?;
        Ok(Self { work: Mutex::new(Some(work)), thread: Mutex::new(Some(thread)), stopping })
    }

    fn submit(&self, work: Work) -> Result<()> {
        let gone = || Error::new(Code::EngineClosed, "the environment is going: nothing is loaded any more");
        self.work.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(|sender| sender.send(work).ok()).ok_or_else(gone)
    }

    /// Lets the job in flight end and fails those that wait.
    fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        drop(self.work.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

/// Waits for work; after some time without any, memory that lies spare goes back to the system.
fn next(inbox: &Receiver<Work>) -> Option<Work> {
    while buffer::spare_bytes() + idle::spare_bytes() > 0 {
        let of_host = buffer::spare_bytes() > 0;
        match inbox.recv_timeout(if of_host { KEEP_SPARE } else { KEEP_SPARE_DEVICE }) {
            Ok(work) => return Some(work),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) if of_host => buffer::trim(),
            // Adapters that come back from the host take and give memory without this thread: it may not have been idle.
            Err(RecvTimeoutError::Timeout) => idle::trim(KEEP_SPARE_DEVICE),
        }
    }
    inbox.recv().ok()
}

/// The environment's loader, started by its first job.
fn loader(env: Env) -> Result<Arc<Loader>> {
    if let Some(found) = LOADER.with_borrow(Clone::clone) {
        return Ok(found);
    }
    let started = Arc::new(Loader::start()?);
    let hook = |loader: Arc<Loader>| {
        LOADER.take();
        loader.stop();
    };
    // A worker that is terminated must not leave a thread behind that runs code of an addon which may be unloaded.
    if let Err(e) = env.add_env_cleanup_hook(started.clone(), hook) {
        started.stop();
        return Err(Error::new(Code::Native, e.reason.clone()));
    }
    LOADER.set(Some(started.clone()));
    Ok(started)
}

/// Work on the loader's thread, then `finish` on the calling one; the promise of what that gives.
///
/// # Errors
/// `ERR_NATIVE` when the thread cannot be started.
pub fn submit<'env, T: Send + 'static, J: ToNapiValue + 'static>(
    env: &'env Env,
    work: impl FnOnce() -> Result<T> + Send + 'static,
    finish: fn(T) -> J,
) -> std::result::Result<Object<'env>, JsError> {
    let loader = loader(*env).map_err(js_error)?;
    let (deferred, promise): (JsDeferred<J, Resolver<J>>, Object<'env>) =
        env.create_deferred().map_err(|e| js_error(Error::new(Code::Native, e.reason.clone())))?;
    let job = move |stopping: bool| {
        let result =
            if stopping { Err(Error::new(Code::EngineClosed, "the environment is going: the load was given up")) } else { guard(work) };
        deferred.resolve(Box::new(move |env| match result {
            Ok(value) => Ok(finish(value)),
            Err(e) => Err(rejection(env, e)),
        }));
    };
    loader.submit(Box::new(job)).map_err(js_error)?;
    Ok(promise)
}

/// Drops `value` on the loader's thread, which then looks at what memory lies spare: giving memory back takes time.
pub fn discard<T: Send + 'static>(value: T) {
    let Some(loader) = LOADER.with_borrow(Clone::clone) else { return };
    // Refused only while the environment goes; then it has been dropped already.
    let _ = loader.submit(Box::new(move |_| drop(value)));
}
