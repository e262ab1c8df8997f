//! A device: what it is, what it gives, what it says when it fails.

use super::abi;
use super::memory::{DeviceBuffer, PinnedBuffer};
use super::stream::{Event, Stream};
use crate::error::{Code, Error, Result};
use std::ffi::CStr;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// `cudaErrorMemoryAllocation`.
const OUT_OF_MEMORY: abi::Status = 2;

/// What a device says of itself, as it was when the device was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub name: String,
    pub total_bytes: usize,
    pub free_bytes: usize,
    pub l2_bytes: usize,
    /// 90 for compute capability 9.0.
    pub capability: i32,
    pub multiprocessors: i32,
    /// 13000 for CUDA 13.0.
    pub driver: i32,
    pub runtime: i32,
}

/// One device, opened; a copy is the same one.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    index: i32,
    facts: Facts,
    allocated: AtomicUsize,
}

impl Device {
    /// # Errors
    /// `ERR_NATIVE_LOAD` when the kernels were built from another header, `ERR_DEVICE` when there is no such device.
    pub fn open(index: usize) -> Result<Self> {
        check_sizes()?;
        let count = Self::count()?;
        let known = i32::try_from(index).ok().filter(|_| index < count);
        let index = known.ok_or_else(|| Error::new(Code::Device, format!("expected a device below {count}, got {index}")))?;
        let mut facts = std::mem::MaybeUninit::<abi::DeviceFacts>::zeroed();
        // SAFETY: all-zero bytes are valid facts; the call writes one struct, which lives here.
        let facts = unsafe {
            check(abi::lmx_device_use(index), "choosing the device")?;
            check(abi::lmx_device_facts_of(index, facts.as_mut_ptr()), "asking the device for its facts")?;
            facts.assume_init()
        };
        Ok(Self(Arc::new(Inner { index, facts: facts_of(&facts), allocated: AtomicUsize::new(0) })))
    }

    /// How many there are.
    ///
    /// # Errors
    /// `ERR_DEVICE` where there is no driver, in CUDA's words alone: what to do depends on what else the machine has.
    pub fn count() -> Result<usize> {
        let mut count = 0;
        // SAFETY: writes one number, which lives here.
        let status = unsafe { abi::lmx_device_count(&raw mut count) };
        if status != 0 {
            return Err(Error::new(Code::Device, failure(status, "counting devices")));
        }
        Ok(usize::try_from(count).unwrap_or(0))
    }

    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.0.facts
    }

    /// Kernels run on the CPU: device pointers are plain addresses.
    #[must_use]
    pub fn emulated() -> bool {
        // SAFETY: takes and touches nothing.
        unsafe { abi::lmx_emulated() != 0 }
    }

    /// Makes this the calling thread's device: what is launched, allocated and recorded goes there.
    pub fn make_current(&self) -> Result<()> {
        // SAFETY: takes a number.
        check(unsafe { abi::lmx_device_use(self.0.index) }, "choosing the device")
    }

    /// Counts `bytes` of device memory as given back.
    pub(super) fn forget(&self, bytes: usize) {
        self.0.allocated.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Bytes of device memory that live buffers hold.
    #[must_use]
    pub fn allocated_bytes(&self) -> usize {
        self.0.allocated.load(Ordering::Relaxed)
    }

    /// `bytes` of device memory, of any content.
    ///
    /// # Errors
    /// `ERR_DEVICE`, also when the device has no room.
    pub fn alloc(&self, bytes: usize) -> Result<DeviceBuffer> {
        let full = || Error::new(Code::Device, format!("{} has no room for {bytes} bytes more: leave more of it free", self.facts().name));
        self.try_alloc(bytes)?.ok_or_else(full)
    }

    /// As [`Device::alloc`]; None when the device has no room.
    pub fn try_alloc(&self, bytes: usize) -> Result<Option<DeviceBuffer>> {
        self.make_current()?;
        let mut data = std::ptr::null_mut();
        // SAFETY: writes one pointer, which lives here.
        let status = unsafe { abi::lmx_alloc(&raw mut data, bytes.max(1)) };
        if status == OUT_OF_MEMORY {
            return Ok(None);
        }
        check(status, "allocating device memory")?;
        let data = NonNull::new(data).ok_or_else(|| Error::new(Code::Device, "the device gave no memory and no reason"))?;
        self.0.allocated.fetch_add(bytes, Ordering::Relaxed);
        Ok(Some(DeviceBuffer::of(data.cast(), bytes, self)))
    }

    /// `bytes` of host memory that copies reach directly, all zero. Slow: keep it for the next use.
    pub fn pinned(&self, bytes: usize) -> Result<PinnedBuffer> {
        self.make_current()?;
        let mut data = std::ptr::null_mut();
        // SAFETY: writes one pointer, which lives here.
        check(unsafe { abi::lmx_host_alloc(&raw mut data, bytes.max(1)) }, "allocating pinned memory")?;
        let data = NonNull::new(data.cast::<u8>()).ok_or_else(|| Error::new(Code::Device, "no pinned memory and no reason"))?;
        // SAFETY: as many bytes were just allocated; nobody else knows them.
        unsafe { data.write_bytes(0, bytes) };
        Ok(PinnedBuffer::of(data, bytes, self))
    }

    /// A queue of work; one of a `priority` below 0 goes before others.
    pub fn stream(&self, priority: i32) -> Result<Stream> {
        self.make_current()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes one handle, which lives here.
        check(unsafe { abi::lmx_stream_create(&raw mut raw, priority) }, "creating a stream")?;
        Ok(Stream::of(raw, self))
    }

    /// A mark in a stream; one never recorded is done.
    pub fn event(&self) -> Result<Event> {
        self.make_current()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: writes one handle, which lives here.
        check(unsafe { abi::lmx_event_create(&raw mut raw) }, "creating an event")?;
        Ok(Event::of(raw, self))
    }
}

/// `ERR_DEVICE` for what is not 0; `what` was going on.
pub fn check(status: abi::Status, what: &str) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    Err(Error::new(Code::Device, format!("{}. See docs/gpu.md; if it comes again, restart", failure(status, what))))
}

fn failure(status: abi::Status, what: &str) -> String {
    // SAFETY: the text is static, or null.
    let text = unsafe {
        let text = abi::lmx_error_text(status);
        if text.is_null() { "unknown error".into() } else { CStr::from_ptr(text).to_string_lossy() }
    };
    format!("{what}: CUDA error {status}, {text}")
}

/// That both sides mean the same structs.
fn check_sizes() -> Result<()> {
    // SAFETY: a static array that 0 ends; no further than one past ours is read, and not past the first difference.
    let same = unsafe {
        let theirs = abi::lmx_abi_sizes();
        abi::SIZES.iter().chain(&[0]).enumerate().all(|(i, &size)| *theirs.add(i) == size)
    };
    let built = || Error::new(Code::NativeLoad, "the CUDA kernels were built from another header than the addon: build it again");
    if same { Ok(()) } else { Err(built()) }
}

fn facts_of(facts: &abi::DeviceFacts) -> Facts {
    let bytes = |n: i64| usize::try_from(n).unwrap_or(0);
    let name: Vec<u8> = facts.name.iter().map(|&c| c.to_ne_bytes()[0]).take_while(|&byte| byte != 0).collect();
    Facts {
        name: String::from_utf8_lossy(&name).into_owned(),
        total_bytes: bytes(facts.total_bytes),
        free_bytes: bytes(facts.free_bytes),
        l2_bytes: bytes(facts.l2_bytes),
        capability: facts.capability,
        multiprocessors: facts.multiprocessors,
        driver: facts.driver,
        runtime: facts.runtime,
    }
}
