//! Pinned memory that is used again: to pin fresh memory takes long and may stop the device.

use super::device::Device;
use super::memory::PinnedBuffer;
use crate::adapters::slab::Source;
use crate::error::Result;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Sizes are rounded up to this, so that adapters of nearly one size share a buffer.
const GRAIN: usize = 1 << 20;

/// Buffers that nobody uses, oldest first, at most so many bytes of them. A copy is the same pool.
#[derive(Clone)]
pub struct PinnedPool {
    device: Device,
    max_spare: usize,
    spare: Arc<Mutex<Vec<PinnedBuffer>>>,
}

/// A buffer of a pool, which lies spare once dropped. No copy may be in flight on it then.
pub struct Pooled {
    buffer: Option<PinnedBuffer>,
    pool: PinnedPool,
}

impl PinnedPool {
    #[must_use]
    pub fn new(device: &Device, max_spare: usize) -> Self {
        Self { device: device.clone(), max_spare, spare: Arc::default() }
    }

    /// At least `len` bytes of any content: the smallest spare buffer that has them, or a fresh one.
    pub fn take(&self, len: usize) -> Result<Pooled> {
        let mut spare = self.lock();
        let fits = spare.iter().enumerate().filter(|(_, buffer)| buffer.len() >= len);
        let best = fits.min_by_key(|(_, buffer)| buffer.len()).map(|(at, _)| at);
        let found = best.map(|at| spare.remove(at));
        drop(spare);
        let buffer = match found {
            Some(buffer) => buffer,
            None => self.device.pinned(len.max(1).next_multiple_of(GRAIN))?,
        };
        Ok(Pooled { buffer: Some(buffer), pool: self.clone() })
    }

    /// Keeps `buffer` for the next one who asks; the oldest ones go where there are too many bytes.
    pub fn give(&self, buffer: PinnedBuffer) {
        let mut leaving = Vec::new();
        let mut spare = self.lock();
        spare.push(buffer);
        while spare.iter().map(|buffer| buffer.len()).sum::<usize>() > self.max_spare {
            leaving.push(spare.remove(0));
        }
        // Unpinned without the lock.
        drop(spare);
    }

    /// Bytes that lie spare.
    #[must_use]
    pub fn spare_bytes(&self) -> usize {
        self.lock().iter().map(|buffer| buffer.len()).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PinnedBuffer>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for PinnedPool {
    type Memory = Pooled;

    fn take(&self, len: usize) -> Result<Pooled> {
        self.take(len)
    }
}

impl Pooled {
    /// The buffer itself; to be given back by hand.
    #[must_use]
    pub fn into_buffer(mut self) -> Option<PinnedBuffer> {
        self.buffer.take()
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
