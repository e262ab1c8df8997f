//! Adapters on their way to the device.
//!
//! An adapter is resident when its numbers are in device memory. One that was evicted comes from its image on the host, if it
//! was kept there ([`super::host_tier`]), or from its file again.

use super::abi;
use super::device::Device;
use super::host_tier::HostImage;
use super::image::{ImageMap, Placement};
use super::image_builder::ImageBuilder;
use super::memory::DeviceBuffer;
use super::pool::PinnedPool;
use super::spare::Spare;
use super::stream::Stream;
use crate::adapters::compile::FactorStorage;
use crate::adapters::plan::AdapterPlan;
use crate::adapters::read::read_adapter;
use crate::adapters::safetensors::File;
use crate::adapters::store::Resident;
use crate::error::{Code, Error, Result};
use crate::manifest::Manifest;
use crate::weights::Weights;
use std::mem::ManuallyDrop;
use std::ptr::without_provenance;
use std::sync::Arc;

/// Most bytes, pinned and on the device, that wait for the next load.
pub const MAX_SPARE_PINNED: usize = 256 << 20;
pub const MAX_SPARE_DEVICE: usize = 256 << 20;
/// The least there is: steps' streams have one below 0, so that their small copies come first.
const UPLOAD_PRIORITY: i32 = 0;

/// An adapter in device memory. The next one may take its place once its last holder is gone: whoever queues kernels that
/// read it holds it until they are done.
pub struct DeviceAdapter {
    handle: u32,
    /// Taken only when this is dropped.
    memory: ManuallyDrop<Arc<DeviceBuffer>>,
    /// Where the memory goes then.
    spare: Arc<Spare<DeviceBuffer>>,
    map: Arc<ImageMap>,
    placement: Placement,
}

impl DeviceAdapter {
    /// Its first table, for [`abi::Term`].
    #[must_use]
    pub fn address(&self) -> *const abi::Adapter {
        without_provenance(self.placement.table())
    }

    /// All of it, tables first; perhaps a little more than [`Resident::bytes`], which behind them holds anything.
    #[must_use]
    pub fn memory(&self) -> &Arc<DeviceBuffer> {
        &self.memory
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
        self.map.bytes()
    }

    fn stands_alone(&self) -> bool {
        self.map.stands_alone()
    }
}

impl Drop for DeviceAdapter {
    fn drop(&mut self) {
        // SAFETY: taken once, and nothing looks at a value that is dropped.
        let memory = unsafe { ManuallyDrop::take(&mut self.memory) };
        if let Some(buffer) = Arc::into_inner(memory) {
            self.spare.give(buffer.len(), buffer);
        }
    }
}

/// Reads adapters into pinned memory and uploads them on a stream of its own, so that no step waits for a load.
pub struct Loader {
    device: Device,
    stream: Stream,
    pool: PinnedPool,
    spare: Arc<Spare<DeviceBuffer>>,
    factors: FactorStorage,
}

impl Loader {
    pub fn new(device: &Device, factors: FactorStorage) -> Result<Self> {
        let pool = PinnedPool::new(device, MAX_SPARE_PINNED);
        let spare = Spare::new(MAX_SPARE_DEVICE);
        Ok(Self { device: device.clone(), stream: device.stream(UPLOAD_PRIORITY)?, pool, spare, factors })
    }

    /// Makes `file` resident. Returns when it is: the calling thread waits, no stream of a step does.
    ///
    /// # Errors
    /// As [`read_adapter`]; `ERR_ADAPTER_NO_SPACE` when the device has no room, `ERR_DEVICE` when it fails.
    pub fn load(&self, handle: u32, file: &File, plan: &AdapterPlan, manifest: &Manifest, weights: &Weights) -> Result<DeviceAdapter> {
        let mut image = ImageBuilder::begin(&self.pool, plan, self.factors, manifest, file.size(), file.tensors.len())?;
        read_adapter(file, plan, manifest, weights, &mut image)?;
        let image = image.finish()?;
        let (memory, placement) = self.place(image.map(), &file.label)?;
        let map = image.map().clone();
        image.upload(&placement, &memory, &self.stream)?;
        Ok(self.adapter(handle, memory, map, placement))
    }

    /// Makes an adapter resident that the host kept, by copies alone; otherwise as [`Loader::load`].
    ///
    /// # Errors
    /// `ERR_ADAPTER_NO_SPACE` when the device has no room, `ERR_DEVICE` when it fails.
    pub fn restore(&self, handle: u32, image: &HostImage) -> Result<DeviceAdapter> {
        let (memory, placement) = self.place(image.map(), "an adapter that the host kept")?;
        image.upload(&placement, &memory, &self.stream)?;
        Ok(self.adapter(handle, memory, image.map().clone(), placement))
    }

    /// Memory for an image, and where in it its arrays go.
    fn place(&self, map: &ImageMap, label: &str) -> Result<(Arc<DeviceBuffer>, Placement)> {
        let bytes = map.bytes();
        let full = || {
            let what = format!("{label}: the device has no room for its {bytes} bytes: lower --adapter-memory or --kv-memory");
            Error::new(Code::AdapterNoSpace, what)
        };
        let memory = Arc::new(self.memory(bytes)?.ok_or_else(full)?);
        let placement = Placement::contiguous(map, memory.ptr().addr());
        Ok((memory, placement))
    }

    fn adapter(&self, handle: u32, memory: Arc<DeviceBuffer>, map: Arc<ImageMap>, placement: Placement) -> DeviceAdapter {
        DeviceAdapter { handle, memory: ManuallyDrop::new(memory), spare: self.spare.clone(), map, placement }
    }

    /// What an adapter that left had, if it fits without much waste, or fresh memory; None when the device has no room even
    /// without what lies spare.
    fn memory(&self, bytes: usize) -> Result<Option<DeviceBuffer>> {
        if let Some(buffer) = self.spare.take(bytes..=bytes + bytes / 8) {
            return Ok(Some(buffer));
        }
        if let Some(buffer) = self.device.try_alloc(bytes)? {
            return Ok(Some(buffer));
        }
        self.spare.clear();
        self.device.try_alloc(bytes)
    }

    /// Pinned memory between loads.
    #[must_use]
    pub fn pool(&self) -> &PinnedPool {
        &self.pool
    }

    /// Device memory between loads.
    #[must_use]
    pub fn spare(&self) -> &Spare<DeviceBuffer> {
        &self.spare
    }
}
