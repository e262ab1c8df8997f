//! The engine's inner step: one ONNX Runtime session, the step's facts, run and sample.

pub mod context;
pub mod core;
pub mod cpu;
pub mod engine;
pub mod last_sampled;
pub mod runtime;
pub mod step;
