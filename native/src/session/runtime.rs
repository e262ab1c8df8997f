//! ONNX Runtime itself: opened once from the library that `onnxruntime-node` ships, for the life of the process.

use crate::error::{Code, Error, Result};
use ort::environment::Environment;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// A process has one environment, ever: a second build fails even after the first was dropped.
static RUNTIME: OnceLock<(PathBuf, Environment)> = OnceLock::new();
static OPENING: Mutex<()> = Mutex::new(());

/// Opens the library. Again with the same path: nothing happens.
///
/// # Errors
/// `ERR_NATIVE_LOAD` when the library cannot be opened or another one is open already.
pub fn open(library: &Path) -> Result<()> {
    let _one = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((opened, _)) = RUNTIME.get() {
        return if opened == library {
            Ok(())
        } else {
            Err(Error::new(
                Code::NativeLoad,
                format!("ONNX Runtime is open from {}, cannot open {}: one library a process", opened.display(), library.display()),
            ))
        };
    }
    let fail = |reason: String| {
        Error::new(Code::NativeLoad, format!("{}: {reason}: expected the library of the pinned onnxruntime-node", library.display()))
    };
    let environment = ort::init_from(library)
        .map_err(|e| fail(e.to_string()))?
        .with_name("loramux")
        .with_telemetry(false)
        .build()
        .map_err(|e| fail(e.to_string()))?;
    let _ = RUNTIME.set((library.to_owned(), environment));
    Ok(())
}

/// # Errors
/// `ERR_NATIVE_LOAD` before [`open`].
pub fn environment() -> Result<&'static Environment> {
    RUNTIME
        .get()
        .map(|(_, environment)| environment)
        .ok_or_else(|| Error::new(Code::NativeLoad, "ONNX Runtime is not open: call initRuntime first"))
}

/// Held while a session opens, of whatever device: each briefly needs its weights twice, and the runtime refuses the second of
/// two that enter the domain of our operators at the same time ("the domain is already exist").
pub fn one_session_opens() -> MutexGuard<'static, ()> {
    static SESSION: Mutex<()> = Mutex::new(());
    SESSION.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `open` makes of the model file `graph`.
///
/// # Errors
/// `ERR_MODEL_INVALID` naming the file.
pub fn graph_opened<T>(graph: &Path, open: impl FnOnce(&Path) -> std::result::Result<T, String>) -> Result<T> {
    open(graph).map_err(|e| Error::new(Code::ModelInvalid, format!("{}: {e}. Delete the cache entry to have it rebuilt", graph.display())))
}

/// What the CUDA provider needs and the system's loader may not find, in the order in which they need each other.
#[cfg(feature = "cuda")]
const CUDA_LIBRARIES: [&str; 4] = ["libcudart.so.13", "libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10"];

/// Opens those of the CUDA provider's libraries that lie beside the runtime's, for the life of the process. What is missing
/// the provider names itself.
#[cfg(feature = "cuda")]
pub fn open_cuda_libraries() {
    let Some(folder) = RUNTIME.get().and_then(|(library, _)| library.parent()) else { return };
    for path in CUDA_LIBRARIES.map(|name| folder.join(name)).iter().filter(|path| path.exists()) {
        let _ = ort::util::preload_dylib(path);
    }
}
