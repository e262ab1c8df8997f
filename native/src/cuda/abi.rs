//! The structs of `native/cuda/loramux_cuda.h`, which documents them. [`super::device::Device::open`] compares their sizes.

use crate::kernels::attention::PAGE;
use crate::kernels::simd::Dtype;
use std::ffi::{c_char, c_void};

pub use super::calls::*;

/// `cudaStream_t`.
pub type RawStream = *mut c_void;
/// `cudaEvent_t`.
pub type RawEvent = *mut c_void;

/// Most rows of a tile of `Step::tiles` and `Step::head_tiles`, and of one of `Step::long_tiles`.
pub const TILE_ROWS: usize = 8;
pub const LONG_TILE_ROWS: usize = 64;
pub const QUERY_TILE_ROWS: usize = 64;
/// Positions of one KV block.
pub const BLOCK: usize = 16;
const _: () = assert!(BLOCK == PAGE, "batches count in blocks of the host's size");
/// Most of the likeliest tokens that a row reports.
pub const MOST_TOP: usize = 256;
/// In `Sampling::tokens`: none.
pub const NO_TOKEN: u32 = u32::MAX;

/// `LMX_F32`, `LMX_F16` or `LMX_BF16`.
#[must_use]
pub const fn dtype(dtype: Dtype) -> i32 {
    match dtype {
        Dtype::F32 => 0,
        Dtype::F16 => 1,
        Dtype::Bf16 => 2,
    }
}

/// `LMX_I8`: factors as bytes.
pub const I8: i32 = 3;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub b: *const c_void,
    pub b_scale: *const f32,
    pub gain: *const f32,
    pub offset: *const f32,
    pub rank_offset: i32,
    pub rank: i32,
    pub out_offset: i32,
    pub out_features: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SiteDelta {
    pub a: *const c_void,
    pub scale: *const f32,
    pub parts: *const Part,
    pub rank: i32,
    pub part_count: i32,
    pub dtype: i32,
    pub reserved: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ReplacedRows {
    pub rows: *const c_void,
    pub tokens: *const u32,
    pub count: i32,
    pub dtype: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingLora {
    pub a: *const c_void,
    pub b: *const c_void,
    pub gain: *const f32,
    pub scale: f32,
    pub rank: i32,
    pub vocab: i32,
    pub dtype: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Adapter {
    pub sites: *const SiteDelta,
    pub norms: *const *const f32,
    pub embedding: EmbeddingLora,
    pub embedding_rows: ReplacedRows,
    pub head_rows: ReplacedRows,
    pub most_rank: i32,
    pub reserved: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Term {
    pub adapter: *const Adapter,
    pub weight: f32,
    pub reserved: i32,
}

// SAFETY: an address on the device, which this process never follows.
unsafe impl Send for Term {}
// SAFETY: as above.
unsafe impl Sync for Term {}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    pub first_row: i32,
    pub rows: i32,
    pub first_term: i32,
    pub terms: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryTile {
    pub first_row: i32,
    pub rows: i32,
    pub sequence: i32,
    pub reserved: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub rows: i32,
    pub logits_rows: i32,
    pub sequences: i32,
    pub tiles: i32,
    pub long_tiles: i32,
    pub head_tiles: i32,
    pub query_tiles: i32,
    pub single_rows: i32,
    pub max_blocks: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub counts: *const Counts,
    pub token_ids: *const i64,
    pub positions: *const i32,
    pub slots: *const i32,
    pub row_sequence: *const i32,
    pub block_tables: *const i32,
    pub terms: *const Term,
    pub tiles: *const Tile,
    pub long_tiles: *const Tile,
    pub head_tiles: *const Tile,
    pub query_tiles: *const QueryTile,
    pub single_rows: *const i32,
    pub row_terms: *const Tile,
    pub head_row_terms: *const Tile,
}

// SAFETY: addresses on the device, which this process never follows.
unsafe impl Send for Step {}
// SAFETY: as above.
unsafe impl Sync for Step {}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DeviceFacts {
    pub name: [c_char; 256],
    pub total_bytes: i64,
    pub free_bytes: i64,
    pub l2_bytes: i64,
    pub capability: i32,
    pub multiprocessors: i32,
    pub driver: i32,
    pub runtime: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Sgmv {
    pub x: *const c_void,
    pub y: *mut c_void,
    pub h: *mut f32,
    pub dtype: i32,
    pub rows: i32,
    pub in_features: i32,
    pub out_features: i32,
    pub site: i32,
    pub at_head: i32,
    pub h_stride: i32,
    pub has_long: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub keys: *mut c_void,
    pub values: *mut c_void,
    pub cos: *const f32,
    pub sin: *const f32,
    pub qkv: *const c_void,
    pub out: *mut c_void,
    pub workspace: *mut c_void,
    pub block_stride: i64,
    pub scale: f32,
    pub dtype: i32,
    pub rows: i32,
    pub heads: i32,
    pub kv_heads: i32,
    pub dim: i32,
    pub window: i32,
    pub max_context: i32,
    pub single_rows: i32,
    pub query_tiles: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RowSampling {
    pub seed: u64,
    pub choice: u32,
    pub position: u32,
    pub temperature: f32,
    pub top_p: f32,
    pub min_p: f32,
    pub typical_p: f32,
    pub top_k: i32,
    pub greedy: i32,
    pub kind: i32,
    pub score_token: u32,
    pub slot: i32,
    pub follows: i32,
    pub logprobs: i32,
    pub top: i32,
    pub mask: i32,
    pub first_bias: i32,
    pub biases: i32,
    pub first_banned: i32,
    pub banned: i32,
    pub first_counted: i32,
    pub counted: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CountedToken {
    pub id: u32,
    pub repetition: f32,
    pub subtract: f64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    pub logits: *const c_void,
    pub processed: *mut f32,
    pub rows_sampling: *const RowSampling,
    pub bias_ids: *const u32,
    pub bias_values: *const f32,
    pub banned_ids: *const u32,
    pub counted: *const CountedToken,
    pub masks: *const u32,
    pub last_sampled: *mut u32,
    pub tokens: *mut u32,
    pub logprobs: *mut f32,
    pub top_ids: *mut u32,
    pub top_logprobs: *mut f32,
    pub top_counts: *mut i32,
    pub dtype: i32,
    pub rows: i32,
    pub vocab: i32,
    pub token_count: i32,
}

/// Sizes in the header's order, as `lmx_abi_sizes` gives them.
pub const SIZES: [usize; 16] = [
    size_of::<Part>(),
    size_of::<SiteDelta>(),
    size_of::<ReplacedRows>(),
    size_of::<EmbeddingLora>(),
    size_of::<Adapter>(),
    size_of::<Term>(),
    size_of::<Tile>(),
    size_of::<QueryTile>(),
    size_of::<Counts>(),
    size_of::<Step>(),
    size_of::<DeviceFacts>(),
    size_of::<Sgmv>(),
    size_of::<Attention>(),
    size_of::<RowSampling>(),
    size_of::<CountedToken>(),
    size_of::<Sampling>(),
];
