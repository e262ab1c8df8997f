//! Adapters: the file as it came, checked; and the resident form that operators read.

pub mod buffer;
pub mod compile;
pub mod embedding;
pub mod layout;
pub mod merge;
pub mod nibbles;
pub mod pack;
pub mod patterns;
pub mod plan;
pub mod quantise;
pub mod read;
pub mod replace;
pub mod resident;
pub mod safetensors;
pub mod slab;
pub mod store;
pub mod tensor;
