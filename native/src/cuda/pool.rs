//! Pinned memory that is used again.

use super::device::Device;
use super::memory::PinnedBuffer;
use super::spare::Spare;
use crate::adapters::slab::Source;
use crate::error::Result;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Sizes are rounded up to this, so that adapters of nearly one size share a buffer.
const GRAIN: usize = 1 << 20;

/// Pinned buffers of one device. A copy is the same pool.
#[derive(Clone)]
pub struct PinnedPool {
    device: Device,
    spare: Arc<Spare<PinnedBuffer>>,
}

/// A buffer of a pool, which lies spare once dropped. No copy may be in flight on it then.
pub struct Pooled {
    buffer: Option<PinnedBuffer>,
    pool: PinnedPool,
}

impl PinnedPool {
    #[must_use]
    pub fn new(device: &Device, max_spare: usize) -> Self {
        Self { device: device.clone(), spare: Spare::new(max_spare) }
    }

    /// At least `len` bytes of any content: the smallest spare buffer that has them, or a fresh one.
    pub fn take(&self, len: usize) -> Result<Pooled> {
        let buffer = match self.spare.take(len..=usize::MAX) {
            Some(buffer) => buffer,
            None => self.device.pinned(len.max(1).next_multiple_of(GRAIN))?,
        };
        Ok(Pooled { buffer: Some(buffer), pool: self.clone() })
    }

    /// Keeps `buffer` for the next one who asks.
    pub fn give(&self, buffer: PinnedBuffer) {
        self.spare.give(buffer.len(), buffer);
    }

    /// What lies spare.
    #[must_use]
    pub fn spare(&self) -> &Spare<PinnedBuffer> {
        &self.spare
    }
}

impl Source for PinnedPool {
    type Memory = Pooled;

    fn take(&self, len: usize) -> Result<Pooled> {
        self.take(len)
    }
}

impl Pooled {
    /// The buffer itself, and the pool that it is to be given back to by hand.
    #[must_use]
    pub fn into_parts(mut self) -> Option<(PinnedBuffer, PinnedPool)> {
        Some((self.buffer.take()?, self.pool.clone()))
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            self.pool.give(buffer);
        }
    }
}

impl Deref for Pooled {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buffer.as_deref().unwrap_or(&[])
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.buffer.as_deref_mut().unwrap_or(&mut [])
    }
}
