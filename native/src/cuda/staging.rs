//! Pinned memory together with the copy that touches it.

use super::abi;
use super::device::{Device, check};
use super::memory::{DeviceBuffer, PinnedBuffer};
use super::stream::{Event, Stream};
use crate::error::{Code, Error, Result};
use std::sync::Arc;

/// Owns both ends of a copy until the device is done with it: its bytes can be neither read, written nor freed before.
/// One copy at a time; whoever wants two in flight has two of these.
pub struct Staging {
    /// None only while this is taken apart.
    buffer: Option<PinnedBuffer>,
    done: Event,
    /// The other end of the copy in flight.
    in_flight: Option<Arc<DeviceBuffer>>,
}

impl Staging {
    pub fn new(device: &Device, bytes: usize) -> Result<Self> {
        Self::of(device.pinned(bytes)?)
    }

    pub fn of(buffer: PinnedBuffer) -> Result<Self> {
        Ok(Self { done: buffer.device().event()?, buffer: Some(buffer), in_flight: None })
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.as_ref().map_or(0, |buffer| buffer.len())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it holds, once the copy in flight is done.
    pub fn bytes(&mut self) -> Result<&[u8]> {
        self.wait()?;
        Ok(self.buffer.as_deref().unwrap_or(&[]))
    }

    /// The same to be written.
    pub fn bytes_mut(&mut self) -> Result<&mut [u8]> {
        self.wait()?;
        Ok(self.buffer.as_deref_mut().unwrap_or(&mut []))
    }

    /// Queues a copy of its first `len` bytes to byte `at` of `to`.
    ///
    /// # Errors
    /// `ERR_NATIVE` when either end is too short, `ERR_DEVICE` when the device refuses.
    pub fn copy_in(&mut self, len: usize, to: &Arc<DeviceBuffer>, at: usize, stream: &Stream) -> Result<()> {
        self.copy(len, to, at, stream, |device, host| {
            // SAFETY: both ends have `len` bytes (checked) and live until the event is done; streams order who reads them.
            unsafe { abi::lmx_copy_in(device.cast(), host.cast_const().cast(), len, stream.raw()) }
        })
    }

    /// Queues a copy of `len` bytes from byte `at` of `from` to its beginning.
    ///
    /// # Errors
    /// As [`Staging::copy_in`].
    pub fn copy_out(&mut self, from: &Arc<DeviceBuffer>, at: usize, len: usize, stream: &Stream) -> Result<()> {
        self.copy(len, from, at, stream, |device, host| {
            // SAFETY: as in `copy_in`.
            unsafe { abi::lmx_copy_out(host.cast(), device.cast_const().cast(), len, stream.raw()) }
        })
    }

    fn copy(
        &mut self,
        len: usize,
        other: &Arc<DeviceBuffer>,
        at: usize,
        stream: &Stream,
        queue: impl FnOnce(*mut u8, *mut u8) -> abi::Status,
    ) -> Result<()> {
        let fits = at.checked_add(len).is_some_and(|end| end <= other.len()) && len <= self.len();
        if !fits {
            let what = format!("a copy of {len} bytes between {} pinned and byte {at} of {}", self.len(), other.len());
            return Err(Error::new(Code::Native, what));
        }
        let host = self.bytes_mut()?.as_mut_ptr();
        self.in_flight = Some(other.clone());
        // SAFETY: `at` is within the buffer.
        let status = queue(unsafe { other.ptr().add(at) }, host);
        check(status, "copying to or from the device").and_then(|()| self.done.record(stream)).or_else(|e| {
            // The event does not speak for this copy, so the stream has to.
            stream.wait()?;
            self.in_flight = None;
            Err(e)
        })
    }

    /// Waits for the copy in flight.
    pub fn wait(&mut self) -> Result<()> {
        if self.in_flight.is_some() {
            self.done.wait()?;
            self.in_flight = None;
        }
        Ok(())
    }

    /// The memory, once the copy in flight is done.
    pub fn into_buffer(mut self) -> Result<PinnedBuffer> {
        self.wait()?;
        self.buffer.take().ok_or_else(|| Error::new(Code::Native, "pinned memory was taken twice"))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.wait().is_err() {
            // A device that cannot tell may still be writing: better lost than given to someone else.
            std::mem::forget(self.buffer.take());
            std::mem::forget(self.in_flight.take());
        }
    }
}
