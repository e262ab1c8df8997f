//! Adapters on their way to the device.
//!
//! An adapter is resident when its numbers are in device memory. One that was evicted comes from its image on the host, if it
//! was kept there ([`super::host_tier`]), or from its file again.

use super::abi;
use super::device::Device;
use super::fit::Fit;
use super::host_tier::HostImage;
use super::image::{Image, ImageMap, Placement};
use super::image_builder::ImageBuilder;
use super::memory::DeviceBuffer;
use super::pages::{AdapterPages, PagePool};
use super::pool::PinnedPool;
use super::stream::Stream;
use crate::adapters::compile::FactorStorage;
use crate::adapters::plan::AdapterPlan;
use crate::adapters::read::read_adapter;
use crate::adapters::safetensors::File;
use crate::adapters::store::Resident;
use crate::error::Result;
use crate::manifest::Manifest;
use crate::weights::Weights;
use std::ptr::without_provenance;
use std::sync::Arc;

/// Most pinned bytes that wait for the next load.
pub const MAX_SPARE_PINNED: usize = 256 << 20;
/// The least there is: steps' streams have one below 0, so that their small copies come first.
const UPLOAD_PRIORITY: i32 = 0;

/// An adapter in pages of device memory, which are others' once its last holder is gone: whoever queues kernels that read it
/// holds it until they are done.
pub struct DeviceAdapter {
    handle: u32,
    pages: AdapterPages,
    map: Arc<ImageMap>,
    placement: Placement,
}

impl DeviceAdapter {
    /// Its first table, for [`abi::Term`].
    #[must_use]
    pub fn address(&self) -> *const abi::Adapter {
        without_provenance(self.placement.table())
    }

    /// The memory in which it has its pages.
    #[must_use]
    pub fn memory(&self) -> &Arc<DeviceBuffer> {
        self.pages.memory()
    }

    /// What it is made of.
    #[must_use]
    pub fn map(&self) -> &Arc<ImageMap> {
        &self.map
    }

    /// Where its arrays lie.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Highest rank of a site, all modules together.
    #[must_use]
    pub fn most_rank(&self) -> usize {
        self.map.most_rank()
    }
}

impl Resident for DeviceAdapter {
    fn handle(&self) -> u32 {
        self.handle
    }

    fn bytes(&self) -> usize {
        self.pages.bytes()
    }

    fn stands_alone(&self) -> bool {
        self.map.stands_alone()
    }
}

/// Reads adapters into pinned memory and uploads them on a stream of its own, so that no step waits for a load.
pub struct Loader {
    stream: Stream,
    pinned: PinnedPool,
    pages: Arc<PagePool>,
    factors: FactorStorage,
}

impl Loader {
    /// For adapters in `pages` of `device`, whose factors are kept as `factors` says.
    pub fn new(device: &Device, pages: &Arc<PagePool>, factors: FactorStorage) -> Result<Self> {
        let pinned = PinnedPool::new(device, MAX_SPARE_PINNED);
        Ok(Self { stream: device.stream(UPLOAD_PRIORITY)?, pinned, pages: pages.clone(), factors })
    }

    /// Reads `file` into pinned memory.
    ///
    /// # Errors
    /// As [`read_adapter`]; `ERR_DEVICE` when there is no pinned memory.
    pub fn read(&self, file: &File, plan: &AdapterPlan, manifest: &Manifest, weights: &Weights) -> Result<Image> {
        let mut image = ImageBuilder::begin(&self.pinned, plan, self.factors, manifest, file.size(), file.tensors.len())?;
        read_adapter(file, plan, manifest, weights, &mut image)?;
        image.finish()
    }

    /// The pages that an image needs.
    #[must_use]
    pub fn fit(&self, map: &ImageMap) -> Fit {
        Fit::of(map, self.pages.page_bytes())
    }

    /// Makes an image resident in `pages`, those of its [`Fit`]'s runs. Returns when it is: the calling thread waits, no stream
    /// of a step does.
    ///
    /// # Errors
    /// As [`PagePool::claim`]; `ERR_DEVICE` when the device fails.
    pub fn place(&self, handle: u32, image: Image, pages: &[i32]) -> Result<DeviceAdapter> {
        let map = image.map().clone();
        let (pages, placement) = self.claim(&map, pages)?;
        image.upload(&placement, pages.memory(), &self.stream)?;
        Ok(DeviceAdapter { handle, pages, map, placement })
    }

    /// The same of an image that the host kept.
    ///
    /// # Errors
    /// As [`Loader::place`].
    pub fn restore(&self, handle: u32, image: &HostImage, pages: &[i32]) -> Result<DeviceAdapter> {
        let (pages, placement) = self.claim(image.map(), pages)?;
        image.upload(&placement, pages.memory(), &self.stream)?;
        Ok(DeviceAdapter { handle, pages, map: image.map().clone(), placement })
    }

    fn claim(&self, map: &ImageMap, pages: &[i32]) -> Result<(AdapterPages, Placement)> {
        let fit = self.fit(map);
        let pages = self.pages.claim(pages, fit.runs())?;
        let placement = fit.place(&pages.addresses().collect::<Vec<_>>())?;
        Ok((pages, placement))
    }

    /// Pinned memory between loads.
    #[must_use]
    pub fn pool(&self) -> &PinnedPool {
        &self.pinned
    }
}
