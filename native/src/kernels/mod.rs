//! CPU kernels: one generic source, instantiated per instruction set. They know neither ONNX Runtime nor Node.

pub mod activation;
pub mod ahead;
pub mod attention;
pub mod byte_dot;
pub mod dense;
pub mod dispatch;
pub mod lora;
pub mod nibbles;
pub mod norm;
pub mod quantised;
pub mod simd;
#[cfg(target_arch = "x86_64")]
pub mod x86;
#[cfg(target_arch = "x86_64")]
pub mod x86_dot;
