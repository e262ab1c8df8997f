//! The border to Node: argument checks, plain structs, promises, teardown. Types beside `src/engine/binding.ts`.
//!
//! Every export catches panics (`catch_unwind`); work of any size runs on libuv's pool, the loader's
//! thread or the step thread.

mod adapter_file;
mod constraint;
#[cfg(any(feature = "cuda", feature = "cuda-emulated"))]
mod cuda;
mod engine;
mod job;
mod loader;
mod merge;
mod row_sampling;
mod step;
mod tokenizer;

use crate::adapters::patterns;
use crate::error::{Code, Error};
use crate::kernels::dispatch;
use crate::session::runtime;
use job::{Job, JsError, js_error};
use napi::bindgen_prelude::{AsyncTask, Int32Array};
use napi_derive::napi;
use std::io::Read;
use std::path::{Path, PathBuf};

#[napi(catch_unwind)]
pub fn init_runtime(library_path: String) -> Result<(), JsError> {
    runtime::open(Path::new(&library_path)).map_err(js_error)
}

#[napi(catch_unwind)]
pub fn instruction_set() -> Result<&'static str, JsError> {
    dispatch::choose().map(|kernels| kernels.name).map_err(|e| js_error(Error::new(Code::NativeLoad, e)))
}

#[napi(catch_unwind)]
pub fn first_matches(patterns: Vec<String>, names: Vec<String>) -> AsyncTask<Job<Vec<i32>, Int32Array>> {
    Job::new(move || patterns::first_matches(&patterns, &names), |_, matches| Ok(matches.into()))
}

#[napi(js_name = "crc32File", catch_unwind)]
pub fn crc32_file(path: String) -> AsyncTask<Job<String, String>> {
    Job::new(move || crc32(&PathBuf::from(path)), |_, text| Ok(text))
}

fn crc32(path: &Path) -> crate::error::Result<String> {
    let fail = |e: std::io::Error| Error::new(Code::ModelInvalid, format!("{}: {e}", path.display()));
    let mut file = std::fs::File::open(path).map_err(fail)?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(fail)? {
            0 => return Ok(format!("{:08x}", hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}
