//! The engine's inner step: one ONNX Runtime session, the step's facts, run and sample.

pub mod context;
pub mod engine;
pub mod runtime;
pub mod step;
