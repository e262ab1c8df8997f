//! Adapters kept on the host: their images in pinned memory, from which they come back to the device by copies alone, without
//! files, checks or arithmetic. Whose they are and how long they stay is the caller's to know.

use super::device::Device;
use super::image::{ImageMap, Placement};
use super::loader::DeviceAdapter;
use super::memory::DeviceBuffer;
use super::slab::{Pages, Slab};
use super::stream::Stream;
use crate::error::{Code, Error, Result};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The least there is: steps' streams have one below 0.
const COPY_PRIORITY: i32 = 0;

/// Images by number.
pub struct HostTier {
    slab: Arc<Slab>,
    /// Of copies off the device, which go beside those to it.
    stream: Stream,
    next: AtomicU32,
    images: Mutex<HashMap<u32, Arc<HostImage>>>,
}

/// An adapter's image in pages of the host.
pub struct HostImage {
    map: Arc<ImageMap>,
    /// Rewritten for each placement, so one load at a time.
    pages: Mutex<Pages>,
}

impl HostTier {
    /// Images in pages of `slab`, of adapters on `device`.
    pub fn new(device: &Device, slab: Arc<Slab>) -> Result<Self> {
        Ok(Self { slab, stream: device.stream(COPY_PRIORITY)?, next: AtomicU32::default(), images: Mutex::default() })
    }

    /// Copies `adapter` off the device: a number never used before and the bytes that it takes; None when there is no room.
    /// Returns when it is here: the calling thread waits, no stream of a step does.
    ///
    /// # Errors
    /// `ERR_DEVICE` when the device fails.
    pub fn keep(&self, adapter: &DeviceAdapter) -> Result<Option<(u32, usize)>> {
        let map = adapter.map().clone();
        let Some(mut pages) = self.slab.take(map.bytes()) else { return Ok(None) };
        pages.copy_out(&map.runs(adapter.placement())?, adapter.memory(), &self.stream)?;
        let bytes = pages.bytes();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.images).insert(number, Arc::new(HostImage { map, pages: Mutex::new(pages) }));
        Ok(Some((number, bytes)))
    }

    /// # Errors
    /// `ERR_NATIVE` for a number that was discarded.
    pub fn get(&self, number: u32) -> Result<Arc<HostImage>> {
        let gone = || Error::new(Code::Native, format!("image {number} is not kept on the host: it was discarded"));
        lock(&self.images).get(&number).cloned().ok_or_else(gone)
    }

    /// Frees an image, once no load reads it; harmless when it is not there.
    pub fn discard(&self, number: u32) {
        let image = lock(&self.images).remove(&number);
        drop(image);
    }

    /// Frees all.
    pub fn clear(&self) {
        let images = std::mem::take(&mut *lock(&self.images));
        drop(images);
    }

    /// Bytes of the pages in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.slab.used()
    }
}

impl HostImage {
    #[must_use]
    pub fn map(&self) -> &Arc<ImageMap> {
        &self.map
    }

    /// Brings it to `placement`, all of which is memory of `to`. Returns when it is there.
    ///
    /// # Errors
    /// As [`super::image::Image::upload`].
    pub fn upload(&self, placement: &Placement, to: &Arc<DeviceBuffer>, stream: &Stream) -> Result<()> {
        let mut pages = lock(&self.pages);
        for (at, address) in self.map.addresses(placement)? {
            pages.put(at, address)?;
        }
        pages.copy_in(&self.map.runs(placement)?, to, stream)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
