//! CPU kernels: one generic source, instantiated per instruction set. They know neither ONNX Runtime nor Node.

pub mod activation;
pub mod attention;
pub mod dispatch;
pub mod lora;
pub mod simd;
#[cfg(target_arch = "x86_64")]
pub mod x86;
