//! Memory of a device, and memory of the host that its copies reach: freed when dropped.

use super::abi;
use super::device::Device;
use std::ptr::NonNull;

/// Device memory, freed when dropped. What kernels do with it is theirs to order.
pub struct DeviceBuffer {
    data: NonNull<u8>,
    len: usize,
    device: Device,
}

// SAFETY: an address that this process never looks behind; calls that take it may come from any thread.
unsafe impl Send for DeviceBuffer {}
// SAFETY: as above.
unsafe impl Sync for DeviceBuffer {}

impl DeviceBuffer {
    /// Owns `len` bytes that `lmx_alloc` gave.
    pub(super) fn of(data: NonNull<u8>, len: usize, device: &Device) -> Self {
        Self { data, len, device: device.clone() }
    }

    /// The device address; aligned to 256 bytes on a GPU, to 16 in the emulator.
    #[must_use]
    pub fn ptr(&self) -> *mut u8 {
        self.data.as_ptr()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        self.device.forget(self.len);
        // A device that refuses has failed as a whole: there is nothing left to free.
        let _ = self.device.make_current();
        // SAFETY: allocated by `lmx_alloc`, freed once. The device waits for kernels in flight before it frees.
        let _ = unsafe { abi::lmx_free(self.data.as_ptr().cast()) };
    }
}

/// Page-locked host memory, freed when dropped. [`super::staging::Staging`] owns those that copies touch.
pub struct PinnedBuffer {
    data: NonNull<u8>,
    len: usize,
    device: Device,
}

// SAFETY: owned memory without ties to a thread.
unsafe impl Send for PinnedBuffer {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for PinnedBuffer {}

impl PinnedBuffer {
    /// Owns `len` bytes that `lmx_host_alloc` gave and that were written since.
    pub(super) fn of(data: NonNull<u8>, len: usize, device: &Device) -> Self {
        Self { data, len, device: device.clone() }
    }

    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Where it begins, for those who give parts of it to owners of their own.
    pub(super) fn ptr(&self) -> NonNull<u8> {
        self.data
    }
}

impl std::ops::Deref for PinnedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes that were zeroed when allocated.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

impl std::ops::DerefMut for PinnedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has them.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        let _ = self.device.make_current();
        // SAFETY: allocated by `lmx_host_alloc`, freed once; no copy is in flight (Staging waits).
        let _ = unsafe { abi::lmx_host_free(self.data.as_ptr().cast()) };
    }
}
