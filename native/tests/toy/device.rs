//! Engines on a CUDA device for tests: a GPU with the feature `cuda`, else the emulator.

use super::steps::ALL_PAGES;
use super::{LIMITS, Toy, runtime_ready};
use crate::common::skipped;
use loramux_native::cuda::device::Device;
use loramux_native::session::context::StepLimits;
use loramux_native::session::engine::{CudaOptions, Engine, EngineOptions};
use loramux_native::session::runtime;
use std::path::Path;

/// Whether there is a device and the runtime for it; says why not.
pub fn device_ready() -> bool {
    match Device::open(0) {
        Ok(_) if Device::emulated() => runtime_ready(),
        Ok(_) => provider_ready(),
        Err(e) => skipped(&e.to_string()),
    }
}

/// The same, for what the emulator does not show.
pub fn gpu_ready() -> bool {
    if Device::emulated() {
        return skipped("this needs a GPU, and the kernels were built for the emulator");
    }
    device_ready()
}

/// The runtime with CUDA's provider beside it, opened.
fn provider_ready() -> bool {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cuda/runtime/libonnxruntime.so.1");
    if !library.exists() {
        return skipped(&format!("{} is not there, run `npm run cuda:runtime` first", library.display()));
    }
    runtime::open(&library).unwrap();
    true
}

/// Of the host tier; taken only as adapters are kept.
const HOST_BYTES: usize = 32 << 20;

pub fn device_options(toy: &Toy) -> EngineOptions {
    let limits = StepLimits { kv_pages: ALL_PAGES, ..LIMITS };
    EngineOptions { limits, cuda: Some(CudaOptions { device: 0, graphs: false, host_bytes: HOST_BYTES }), ..toy.options(1) }
}

pub fn device_engine(toy: &Toy) -> Engine {
    Engine::open(toy.own_manifest(), &device_options(toy)).unwrap()
}

/// A tokenizer whose ids 0 to 25 are letters, 26 to 48 other characters, and whose last ends a text.
pub fn tokenizer_json() -> String {
    let others = "0123456789 ,.-_:;!?+*#/";
    let texts = ('a'..='z').chain(others.chars()).map(|c| c.to_string()).chain(["<end>".to_owned()]);
    let vocabulary: serde_json::Map<String, serde_json::Value> =
        texts.enumerate().map(|(id, text)| (text.replace(' ', "▁"), serde_json::json!(id))).collect();
    serde_json::json!({
        "version": "1.0",
        "added_tokens": [],
        "decoder": { "type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": false },
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "a" },
    })
    .to_string()
}
