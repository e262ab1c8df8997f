//! `openAdapterFile` and the class it gives.

use super::job::{JsError, js_error};
use super::loader;
use crate::adapters::safetensors::File;
use crate::error::{Code, Error};
use napi::Env;
use napi::bindgen_prelude::Object;
use napi_derive::napi;
use std::path::PathBuf;
use std::sync::Arc;

/// A checked safetensors file, held in memory until it is closed.
#[napi]
pub struct AdapterFile {
    file: Option<Arc<File>>,
}

impl AdapterFile {
    pub fn of(file: File) -> Self {
        Self { file: Some(Arc::new(file)) }
    }

    /// # Errors
    /// `ERR_NATIVE` once it is closed.
    pub fn held(&self) -> std::result::Result<&Arc<File>, JsError> {
        let closed = || js_error(Error::new(Code::Native, "the adapter file is closed: open it again"));
        self.file.as_ref().ok_or_else(closed)
    }
}

#[napi(object)]
pub struct TensorInfo {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<f64>,
}

#[napi]
impl AdapterFile {
    #[napi(getter, catch_unwind)]
    pub fn sha256(&self) -> std::result::Result<String, JsError> {
        Ok(self.held()?.sha256.clone())
    }

    #[napi(getter, catch_unwind)]
    #[allow(clippy::cast_precision_loss)]
    pub fn bytes(&self) -> std::result::Result<f64, JsError> {
        Ok(self.held()?.size() as f64)
    }

    #[napi(getter, catch_unwind)]
    #[allow(clippy::cast_precision_loss)]
    pub fn tensors(&self) -> std::result::Result<Vec<TensorInfo>, JsError> {
        let info = |t: &crate::adapters::safetensors::Tensor| TensorInfo {
            name: t.name.clone(),
            dtype: t.dtype.clone(),
            shape: t.shape.iter().map(|&n| n as f64).collect(),
        };
        Ok(self.held()?.tensors.iter().map(info).collect())
    }

    /// Frees its memory once no job uses it any more.
    #[napi(catch_unwind)]
    pub fn close(&mut self) {
        loader::discard(self.file.take());
    }
}

#[napi(ts_return_type = "Promise<AdapterFile>", catch_unwind)]
pub fn open_adapter_file(env: &Env, path: String, max_bytes: f64) -> std::result::Result<Object<'_>, JsError> {
    // Saturating: NaN and negatives become 0, which no file fits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let limit = max_bytes as u64;
    loader::submit(env, move || File::open(&PathBuf::from(path), limit), AdapterFile::of)
}
