//! One adapter's factors in one piece of memory: few TLB entries, one stream for the prefetchers, one copy to a device.

use super::buffer::Buffer;
use crate::error::{Code, Error, Result};

/// What vector loads and cache lines want.
const ALIGNMENT: usize = 64;

/// Collects pieces; each begins at a cache line.
pub struct SlabBuilder {
    buffer: Buffer,
    used: usize,
}

impl SlabBuilder {
    /// `capacity` is a guess at the bytes of all pieces: a wrong one costs time or address space.
    ///
    /// # Errors
    /// `ERR_NATIVE` when the system has no memory left.
    pub fn new(capacity: usize) -> Result<Self> {
        Ok(Self { buffer: take(capacity)?, used: 0 })
    }

    /// Appends `len` bytes and returns their offset and themselves. They hold anything: the caller writes them all.
    ///
    /// # Errors
    /// `ERR_NATIVE` when the system has no memory left.
    pub fn reserve(&mut self, len: usize) -> Result<(usize, &mut [u8])> {
        let offset = self.used.next_multiple_of(ALIGNMENT);
        let end = offset + len;
        if end > self.buffer.len() {
            let mut larger = take(end.max(2 * self.buffer.len()))?;
            larger[..self.used].copy_from_slice(&self.buffer[..self.used]);
            self.buffer = larger;
        }
        self.used = end;
        Ok((offset, &mut self.buffer[offset..end]))
    }

    #[must_use]
    pub fn finish(self) -> Slab {
        Slab(self.buffer)
    }
}

fn take(len: usize) -> Result<Buffer> {
    Buffer::take(len).map_err(|e| Error::new(Code::Native, format!("{len} bytes for an adapter: {e}")))
}

/// Immutable bytes, page-aligned.
pub struct Slab(Buffer);

impl Slab {
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}
