//! The order of what a device does: streams and the marks in them.

use super::abi::{self, RawEvent, RawStream};
use super::device::{Device, check};
use super::memory::DeviceBuffer;
use crate::error::Result;
use std::ffi::c_void;

/// A queue of work on the device, in order.
pub struct Stream {
    raw: RawStream,
    device: Device,
}

// SAFETY: CUDA's streams may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    pub(super) fn of(raw: RawStream, device: &Device) -> Self {
        Self { raw, device: device.clone() }
    }

    /// For launches, and for ONNX Runtime; valid as long as this lives.
    #[must_use]
    pub fn raw(&self) -> RawStream {
        self.raw
    }

    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Waits until all that was queued is done.
    pub fn wait(&self) -> Result<()> {
        // SAFETY: a live stream.
        check(unsafe { abi::lmx_stream_wait(self.raw) }, "waiting for a stream")
    }

    /// What is queued from now on waits for `event`.
    pub fn after(&self, event: &Event) -> Result<()> {
        // SAFETY: both live.
        check(unsafe { abi::lmx_stream_after(self.raw, event.raw) }, "waiting for an event in a stream")
    }

    /// Fills `buffer` with zeros.
    pub fn zero(&self, buffer: &DeviceBuffer) -> Result<()> {
        // SAFETY: as many bytes; who uses them is ordered by streams.
        check(unsafe { abi::lmx_zero(buffer.ptr().cast::<c_void>(), buffer.len(), self.raw) }, "filling device memory")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: a live stream; what is queued still runs, and the buffers that it touches wait for that themselves.
        let _ = unsafe { abi::lmx_stream_destroy(self.raw) };
    }
}

/// A mark in a stream that others can wait for.
pub struct Event {
    raw: RawEvent,
    #[allow(dead_code, reason = "an event's device outlives it")]
    device: Device,
}

// SAFETY: CUDA's events may be used from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    pub(super) fn of(raw: RawEvent, device: &Device) -> Self {
        Self { raw, device: device.clone() }
    }

    /// Marks what was queued in `stream` so far, instead of what was marked before.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both live.
        check(unsafe { abi::lmx_event_record(self.raw, stream.raw) }, "recording an event")
    }

    pub fn done(&self) -> Result<bool> {
        let mut done = 0;
        // SAFETY: a live event; writes one number, which lives here.
        check(unsafe { abi::lmx_event_done(self.raw, &raw mut done) }, "asking for an event")?;
        Ok(done != 0)
    }

    /// Waits in the calling thread.
    pub fn wait(&self) -> Result<()> {
        // SAFETY: a live event.
        check(unsafe { abi::lmx_event_wait(self.raw) }, "waiting for an event")
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: a live event, destroyed once.
        let _ = unsafe { abi::lmx_event_destroy(self.raw) };
    }
}
