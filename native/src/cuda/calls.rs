//! The functions of `native/cuda/loramux_cuda.h`, which documents them.

use super::abi::{Attention, DeviceFacts, RawEvent, RawStream, Sampling, Sgmv, Step};
use std::ffi::{c_char, c_void};

/// 0, or a `cudaError_t`.
pub type Status = i32;

unsafe extern "C" {
    pub fn lmx_abi_sizes() -> *const usize;
    pub fn lmx_error_text(status: Status) -> *const c_char;
    pub fn lmx_emulated() -> i32;
    pub fn lmx_device_count(host_count: *mut i32) -> Status;
    pub fn lmx_device_use(index: i32) -> Status;
    pub fn lmx_device_facts_of(index: i32, host_facts: *mut DeviceFacts) -> Status;
    pub fn lmx_alloc(out: *mut *mut c_void, bytes: usize) -> Status;
    pub fn lmx_free(data: *mut c_void) -> Status;
    pub fn lmx_host_alloc(out: *mut *mut c_void, bytes: usize) -> Status;
    pub fn lmx_host_free(data: *mut c_void) -> Status;
    pub fn lmx_stream_create(out: *mut RawStream, priority: i32) -> Status;
    pub fn lmx_stream_destroy(stream: RawStream) -> Status;
    pub fn lmx_stream_wait(stream: RawStream) -> Status;
    pub fn lmx_copy_in(to: *mut c_void, host_from: *const c_void, bytes: usize, stream: RawStream) -> Status;
    pub fn lmx_copy_out(host_to: *mut c_void, from: *const c_void, bytes: usize, stream: RawStream) -> Status;
    pub fn lmx_copy(to: *mut c_void, from: *const c_void, bytes: usize, stream: RawStream) -> Status;
    pub fn lmx_zero(to: *mut c_void, bytes: usize, stream: RawStream) -> Status;
    pub fn lmx_event_create(out: *mut RawEvent) -> Status;
    pub fn lmx_event_destroy(event: RawEvent) -> Status;
    pub fn lmx_event_record(event: RawEvent, stream: RawStream) -> Status;
    pub fn lmx_event_done(event: RawEvent, host_done: *mut i32) -> Status;
    pub fn lmx_event_wait(event: RawEvent) -> Status;
    pub fn lmx_stream_after(stream: RawStream, event: RawEvent) -> Status;

    pub fn lmx_sgmv_workspace(rows: i32, in_features: i32, h_stride: i32) -> usize;
    pub fn lmx_sgmv_apply(host_step: *const Step, host_call: *const Sgmv, stream: RawStream) -> Status;
    pub fn lmx_segmented_embedding(host_step: *const Step, y: *mut c_void, dtype: i32, rows: i32, hidden: i32, stream: RawStream)
    -> Status;
    pub fn lmx_segmented_norm(
        host_step: *const Step,
        y: *mut c_void,
        x: *const c_void,
        norm: i32,
        epsilon: f32,
        dtype: i32,
        rows: i32,
        hidden: i32,
        stream: RawStream,
    ) -> Status;
    pub fn lmx_segmented_head(
        host_step: *const Step,
        logits: *mut c_void,
        x: *const c_void,
        dtype: i32,
        rows: i32,
        vocab: i32,
        hidden: i32,
        stream: RawStream,
    ) -> Status;
    pub fn lmx_gated_silu(y: *mut c_void, x: *const c_void, dtype: i32, rows: i32, width: i32, stream: RawStream) -> Status;

    pub fn lmx_attention_workspace(single_rows: i32, heads: i32, dim: i32, max_context: i32) -> usize;
    pub fn lmx_attend(host_step: *const Step, host_call: *const Attention, stream: RawStream) -> Status;

    pub fn lmx_feed_tokens(ids: *mut i64, tokens: *const i32, last_sampled: *const u32, rows: i32, vocab: i32, stream: RawStream)
    -> Status;
    pub fn lmx_sample(host_call: *const Sampling, stream: RawStream) -> Status;
}
