//! loramux's native half: operators, the step engine, the adapter store, sampling and the tokenizer.
//!
//! Only `node/` knows Node; everything else is plain Rust with coded errors.

pub mod adapters;
pub mod constraint;
#[cfg(any(feature = "cuda", feature = "cuda-emulated"))]
pub mod cuda;
pub mod error;
pub mod idle;
pub mod kernels;
pub mod kv;
pub mod manifest;
pub mod ops;
pub mod pace;
pub mod sampler;
pub mod session;
pub mod tokenizer;
pub mod weights;

mod node;

#[cfg(all(feature = "cuda", feature = "cuda-emulated"))]
compile_error!("features `cuda` and `cuda-emulated` are two builds of the same kernels: choose one");
