//! Pinned memory together with the copy that touches it.

use super::abi;
use super::device::{Device, check};
use super::memory::{DeviceBuffer, PinnedBuffer};
use super::stream::{Event, Stream};
use crate::error::{Code, Error, Result};
use std::sync::Arc;

/// Bytes of one copy to the device: from which byte of the host's memory to which address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub from: usize,
    pub to: usize,
    pub len: usize,
}

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
        self.copy(&[Piece { host: 0, device: at, len }], to, stream, copy_in)
    }

    /// Queues the copies of all `runs`, whose addresses lie in `to`.
    ///
    /// # Errors
    /// As [`Staging::copy_in`].
    pub fn copy_in_runs(&mut self, runs: &[Run], to: &Arc<DeviceBuffer>, stream: &Stream) -> Result<()> {
        let base = to.ptr().addr();
        // An address below the buffer is a place far beyond it.
        let pieces: Vec<_> = runs.iter().map(|run| Piece { host: run.from, device: run.to.wrapping_sub(base), len: run.len }).collect();
        self.copy(&pieces, to, stream, copy_in)
    }

    /// Queues a copy of `len` bytes from byte `at` of `from` to its beginning.
    ///
    /// # Errors
    /// As [`Staging::copy_in`].
    pub fn copy_out(&mut self, from: &Arc<DeviceBuffer>, at: usize, len: usize, stream: &Stream) -> Result<()> {
        self.copy(&[Piece { host: 0, device: at, len }], from, stream, copy_out)
    }

    fn copy(&mut self, pieces: &[Piece], other: &Arc<DeviceBuffer>, stream: &Stream, queue: Queue) -> Result<()> {
        let within = |at: usize, len: usize, bytes: usize| at.checked_add(len).is_some_and(|end| end <= bytes);
        if let Some(piece) = pieces.iter().find(|p| !within(p.device, p.len, other.len()) || !within(p.host, p.len, self.len())) {
            let what = format!("a copy of {piece:?} between {} pinned bytes and {} of the device", self.len(), other.len());
            return Err(Error::new(Code::Native, what));
        }
        let host = self.bytes_mut()?.as_mut_ptr();
        self.in_flight = Some(other.clone());
        let queued = pieces.iter().try_for_each(|piece| {
            // SAFETY: both places are within their buffers, with `len` bytes behind them (checked), which live until the event
            // is done; streams order who reads them.
            let status = unsafe { queue(other.ptr().add(piece.device), host.add(piece.host), piece.len, stream.raw()) };
            check(status, "copying to or from the device")
        });
        queued.and_then(|()| self.done.record(stream)).or_else(|e| {
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

/// Bytes of one copy, as places in the two buffers.
#[derive(Debug)]
struct Piece {
    host: usize,
    device: usize,
    len: usize,
}

/// Queues a copy between an address of the device, one of the host, of so many bytes.
pub(super) type Queue = unsafe fn(*mut u8, *mut u8, usize, abi::RawStream) -> abi::Status;

pub(super) unsafe fn copy_in(device: *mut u8, host: *mut u8, len: usize, stream: abi::RawStream) -> abi::Status {
    // SAFETY: as the caller promises.
    unsafe { abi::lmx_copy_in(device.cast(), host.cast_const().cast(), len, stream) }
}

pub(super) unsafe fn copy_out(device: *mut u8, host: *mut u8, len: usize, stream: abi::RawStream) -> abi::Status {
    // SAFETY: as the caller promises.
    unsafe { abi::lmx_copy_out(host.cast(), device.cast_const().cast(), len, stream) }
}
