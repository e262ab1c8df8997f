//! One adapter's factors in one piece of memory: few TLB entries, one stream for the prefetchers, one copy to a device.

use super::buffer::Buffer;
use crate::error::{Code, Error, Result};
use std::ops::DerefMut;

/// What vector loads and cache lines want.
pub const ALIGNMENT: usize = 64;

/// Memory that pieces are collected in.
pub trait Source {
    type Memory: DerefMut<Target = [u8]>;

    /// `len` bytes of any content, aligned to [`ALIGNMENT`].
    fn take(&self, len: usize) -> Result<Self::Memory>;
}

/// Plain memory of this process.
pub struct Pages;

impl Source for Pages {
    type Memory = Buffer;

    fn take(&self, len: usize) -> Result<Buffer> {
        Buffer::take(len).map_err(|e| Error::new(Code::Native, format!("{len} bytes for an adapter: {e}")))
    }
}

/// Collects pieces; each begins at a cache line.
pub struct SlabBuilder<S: Source = Pages> {
    source: S,
    memory: S::Memory,
    used: usize,
}

impl<S: Source> SlabBuilder<S> {
    /// `capacity` is a guess at the bytes of all pieces: a wrong one costs time or address space.
    ///
    /// # Errors
    /// When `source` has no memory left.
    pub fn new(source: S, capacity: usize) -> Result<Self> {
        Ok(Self { memory: source.take(capacity)?, source, used: 0 })
    }

    /// Appends `len` bytes and returns their offset and themselves. They hold anything: the caller writes them all.
    ///
    /// # Errors
    /// When the source has no memory left.
    pub fn reserve(&mut self, len: usize) -> Result<(usize, &mut [u8])> {
        let offset = self.used.next_multiple_of(ALIGNMENT);
        let end = offset + len;
        if end > self.memory.len() {
            let mut larger = self.source.take(end.max(2 * self.memory.len()))?;
            larger[..self.used].copy_from_slice(&self.memory[..self.used]);
            self.memory = larger;
        }
        self.used = end;
        Ok((offset, &mut self.memory[offset..end]))
    }

    /// Bytes that the pieces take so far, alignment included.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used
    }

    /// The memory, and how much of it the pieces take.
    #[must_use]
    pub fn into_memory(self) -> (S::Memory, usize) {
        (self.memory, self.used)
    }
}

impl SlabBuilder {
    #[must_use]
    pub fn finish(self) -> Slab {
        Slab(self.memory)
    }
}

/// Immutable bytes, page-aligned.
pub struct Slab(Buffer);

impl Slab {
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}
