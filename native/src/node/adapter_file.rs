//! `openAdapterFile` and the class it gives.

use super::job::Job;
use crate::adapters::safetensors::File;
use napi::bindgen_prelude::AsyncTask;
use napi_derive::napi;
use std::path::PathBuf;
use std::sync::Arc;

/// A checked safetensors file held in memory.
#[napi]
pub struct AdapterFile {
    pub(super) file: Arc<File>,
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
    pub fn sha256(&self) -> String {
        self.file.sha256.clone()
    }

    #[napi(getter, catch_unwind)]
    #[allow(clippy::cast_precision_loss)]
    pub fn bytes(&self) -> f64 {
        self.file.size() as f64
    }

    #[napi(getter, catch_unwind)]
    #[allow(clippy::cast_precision_loss)]
    pub fn tensors(&self) -> Vec<TensorInfo> {
        let info = |t: &crate::adapters::safetensors::Tensor| TensorInfo {
            name: t.name.clone(),
            dtype: t.dtype.clone(),
            shape: t.shape.iter().map(|&n| n as f64).collect(),
        };
        self.file.tensors.iter().map(info).collect()
    }
}

#[napi(catch_unwind)]
pub fn open_adapter_file(path: String, max_bytes: f64) -> AsyncTask<Job<File, AdapterFile>> {
    // Saturating: NaN and negatives become 0, which no file fits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let limit = max_bytes as u64;
    Job::new(move || File::open(&PathBuf::from(path), limit), |_, file| Ok(AdapterFile { file: Arc::new(file) }))
}
