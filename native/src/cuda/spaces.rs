//! Device memory that lives as long as the engine: keys and values, rotary tables, workspaces.

use super::abi;
use super::device::Device;
use super::memory::DeviceBuffer;
use super::pages::PagePool;
use super::staging::Staging;
use super::stream::Stream;
use crate::error::{Code, Error, Result};
use crate::kernels::simd::Dtype;
use crate::kv::rope::Rope;
use crate::manifest::DecoderConfig;
use std::ffi::c_void;
use std::sync::Arc;

/// Keys and values, `dtype` `[blocks, layers, 2, kv_heads, BLOCK, dim]`: a block is one piece, of all layers.
pub struct KvBlocks {
    pages: Arc<PagePool>,
    /// Of one layer's keys, or values, of a block.
    part_bytes: usize,
    block_stride: i64,
}

impl KvBlocks {
    /// In as many pages as there are blocks; others may have some of those.
    ///
    /// # Errors
    /// `ERR_DEVICE` when the device has no room.
    pub fn new(device: &Device, stream: &Stream, config: &DecoderConfig, blocks: usize, dtype: Dtype) -> Result<Self> {
        let product = |factors: &[usize]| factors.iter().try_fold(1usize, |all, &factor| all.checked_mul(factor));
        let sizes = || {
            let part = product(&[config.kv_heads, abi::BLOCK, config.head_dim])?;
            let block = product(&[part, 2, config.layers])?;
            Some((part.checked_mul(dtype.size())?, i64::try_from(block).ok()?, block.checked_mul(dtype.size())?))
        };
        let (part_bytes, block_stride, page_bytes) =
            sizes().ok_or_else(|| Error::new(Code::Native, "a KV block of this model has no size"))?;
        Ok(Self { pages: PagePool::new(device, stream, blocks, page_bytes)?, part_bytes, block_stride })
    }

    /// Keys and values of a layer that the model has, of block 0.
    #[must_use]
    pub fn layer(&self, layer: usize) -> (*mut c_void, *mut c_void) {
        let keys = 2 * layer * self.part_bytes;
        debug_assert!(keys + 2 * self.part_bytes <= self.pages.page_bytes());
        let memory = self.pages.memory().ptr();
        // SAFETY: the operator checked the layer when it was created, so both lie inside block 0.
        unsafe { (memory.add(keys).cast(), memory.add(keys + self.part_bytes).cast()) }
    }

    #[must_use]
    pub fn pages(&self) -> &Arc<PagePool> {
        &self.pages
    }

    /// Elements between blocks.
    #[must_use]
    pub fn block_stride(&self) -> i64 {
        self.block_stride
    }
}

/// cos and sin f32 [positions, dim / 2] in one piece of memory.
pub struct RopeTables {
    buffer: Arc<DeviceBuffer>,
    table_bytes: usize,
}

impl RopeTables {
    pub fn upload(device: &Device, stream: &Stream, rope: &Rope) -> Result<Self> {
        let (cos, sin) = rope.tables();
        let bytes: Vec<u8> = cos.iter().chain(sin).flat_map(|value| value.to_ne_bytes()).collect();
        let buffer = Arc::new(device.alloc(bytes.len())?);
        let mut staging = Staging::new(device, bytes.len())?;
        staging.bytes_mut()?.copy_from_slice(&bytes);
        staging.copy_in(bytes.len(), &buffer, 0, stream)?;
        staging.wait()?;
        Ok(Self { buffer, table_bytes: bytes.len() / 2 })
    }

    #[must_use]
    pub fn cos(&self) -> *const f32 {
        self.buffer.ptr().cast_const().cast()
    }

    #[must_use]
    pub fn sin(&self) -> *const f32 {
        // SAFETY: the second half of the buffer.
        unsafe { self.buffer.ptr().add(self.table_bytes).cast_const().cast() }
    }
}

/// Scratch memory: one piece for runs that are captured, whose address never changes, and one that grows for others.
pub struct Workspace {
    device: Device,
    fixed: DeviceBuffer,
    grown: Option<Arc<DeviceBuffer>>,
}

impl Workspace {
    /// `fixed` bytes suffice for every captured run.
    pub fn new(device: &Device, fixed: usize) -> Result<Self> {
        Ok(Self { device: device.clone(), fixed: device.alloc(fixed)?, grown: None })
    }

    /// At least `bytes`, the same address every time for what a captured run needs. All users are ordered on `stream`.
    pub fn of(&mut self, bytes: usize, stream: &Stream) -> Result<*mut c_void> {
        if bytes <= self.fixed.len() {
            return Ok(self.fixed.ptr().cast());
        }
        Ok(grow(&self.device, &mut self.grown, bytes, stream)?.ptr().cast())
    }
}

/// `buffer` with room for `bytes`, made anew where it is too small: that waits for `stream`, on which all its users are ordered.
pub fn grow(device: &Device, buffer: &mut Option<Arc<DeviceBuffer>>, bytes: usize, stream: &Stream) -> Result<Arc<DeviceBuffer>> {
    match buffer {
        Some(found) if found.len() >= bytes => Ok(found.clone()),
        _ => {
            if buffer.is_some() {
                stream.wait()?;
            }
            // The old one goes first: both may not fit.
            *buffer = None;
            let larger = Arc::new(device.alloc(bytes.next_power_of_two())?);
            *buffer = Some(larger.clone());
            Ok(larger)
        }
    }
}
