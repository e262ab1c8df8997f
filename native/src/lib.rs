//! loramux's native half: operators, the step engine, the adapter store, sampling and the tokenizer.
//!
//! Only `node/` knows Node; everything else is plain Rust with coded errors.

pub mod adapters;
pub mod constraint;
pub mod error;
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
