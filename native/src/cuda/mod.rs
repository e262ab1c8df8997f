//! The device side: what adapters, steps and the engine are where the kernels of `native/cuda` run.
//!
//! With feature `cuda` that is a GPU; with `cuda-emulated` the same kernels run on the CPU over `native/cuda/emulator`, for
//! tests.

pub mod abi;
pub mod bucket;
mod calls;
pub mod device;
pub mod engine;
mod env;
pub mod fit;
mod graphs;
pub mod host_tier;
pub mod image;
pub mod image_builder;
pub mod loader;
pub mod memory;
mod ops;
pub mod pages;
mod plain;
pub mod pool;
mod running;
mod sampling;
mod session;
pub mod slab;
mod spaces;
pub mod spare;
pub mod staging;
pub mod step_arrays;
pub mod stream;
pub mod tables;
