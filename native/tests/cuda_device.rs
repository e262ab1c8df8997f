//! Device memory, pinned memory and copies: on the emulator, or on the first GPU.
#![cfg(any(feature = "cuda", feature = "cuda-emulated"))]
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use common::device::first_device;
use loramux_native::cuda::abi::{self, SIZES};
use loramux_native::cuda::device::Device;
use loramux_native::cuda::staging::Staging;
use loramux_native::error::Code;
use std::sync::Arc;

#[test]
fn both_sides_mean_the_same_structs() {
    // SAFETY: a static array that 0 ends.
    let theirs: Vec<usize> = (0..64).map(|i| unsafe { *abi::lmx_abi_sizes().add(i) }).take_while(|&size| size != 0).collect();
    assert_eq!(theirs, SIZES);
}

#[test]
fn a_device_says_what_it_is_and_one_that_is_not_there_is_refused() {
    let Some(device) = first_device() else { return };
    let facts = device.facts();
    assert!(!facts.name.is_empty() && facts.total_bytes > 0, "{facts:?}");
    assert_eq!(Device::emulated(), cfg!(feature = "cuda-emulated"));
    for index in [1000, usize::MAX] {
        let error = Device::open(index).err().unwrap();
        assert!(error.code == Code::Device && error.message.contains("expected a device below"), "{error}");
    }
}

#[test]
fn bytes_go_there_and_back() {
    let Some(device) = first_device() else { return };
    let stream = device.stream(0).unwrap();
    let memory = Arc::new(device.alloc(100).unwrap());
    stream.zero(&memory).unwrap();
    let mut out = Staging::new(&device, 60).unwrap();
    for (i, byte) in out.bytes_mut().unwrap().iter_mut().enumerate() {
        *byte = u8::try_from(i + 1).unwrap();
    }
    out.copy_in(60, &memory, 30, &stream).unwrap();
    let mut back = Staging::new(&device, 100).unwrap();
    back.copy_out(&memory, 0, 100, &stream).unwrap();
    let wanted: Vec<u8> = [vec![0; 30], (1..=60).collect(), vec![0; 10]].concat();
    assert_eq!(back.bytes().unwrap(), wanted);
    assert_eq!(out.into_buffer().unwrap().len(), 60);
}

#[test]
fn copies_that_do_not_fit_are_refused() {
    let Some(device) = first_device() else { return };
    let stream = device.stream(0).unwrap();
    let memory = Arc::new(device.alloc(10).unwrap());
    let mut staging = Staging::new(&device, 20).unwrap();
    for (at, len) in [(0, 11), (1, 10), (11, 0), (usize::MAX, 2)] {
        assert_eq!(staging.copy_in(len, &memory, at, &stream).err().unwrap().code, Code::Native, "{len} at {at}");
        assert_eq!(staging.copy_out(&memory, at, len, &stream).err().unwrap().code, Code::Native, "{len} at {at}");
    }
    let mut short = Staging::new(&device, 5).unwrap();
    assert!(short.copy_in(6, &memory, 0, &stream).is_err(), "more than is pinned");
}

#[test]
fn a_copy_keeps_its_device_memory_until_it_is_done() {
    let Some(device) = first_device() else { return };
    let stream = device.stream(0).unwrap();
    let memory = Arc::new(device.alloc(1 << 20).unwrap());
    let mut staging = Staging::new(&device, 1 << 20).unwrap();
    staging.copy_in(1 << 20, &memory, 0, &stream).unwrap();
    drop(memory);
    assert_eq!(device.allocated_bytes(), 1 << 20, "the copy holds it");
    staging.wait().unwrap();
    assert_eq!(device.allocated_bytes(), 0);
}

#[test]
fn what_is_dropped_is_freed_and_what_has_no_room_is_refused() {
    let Some(device) = first_device() else { return };
    let buffers: Vec<_> = (0..10).map(|_| device.alloc(1000).unwrap()).collect();
    assert_eq!(device.allocated_bytes(), 10_000);
    drop(buffers);
    assert_eq!(device.allocated_bytes(), 0);
    assert!(device.try_alloc(1 << 50).unwrap().is_none());
    let error = device.alloc(1 << 50).err().unwrap();
    assert!(error.code == Code::Device && error.message.contains("has no room"), "{error}");
}

#[test]
fn streams_wait_for_events_of_others() {
    let Some(device) = first_device() else { return };
    let (first, second) = (device.stream(0).unwrap(), device.stream(-1).unwrap());
    let memory = Arc::new(device.alloc(4).unwrap());
    let mut staging = Staging::new(&device, 4).unwrap();
    staging.bytes_mut().unwrap().copy_from_slice(&[1, 2, 3, 4]);
    let event = device.event().unwrap();
    assert!(event.done().unwrap(), "an event never recorded is done");
    staging.copy_in(4, &memory, 0, &first).unwrap();
    event.record(&first).unwrap();
    second.after(&event).unwrap();
    let mut back = Staging::new(&device, 4).unwrap();
    back.copy_out(&memory, 0, 4, &second).unwrap();
    assert_eq!(back.bytes().unwrap(), [1, 2, 3, 4]);
    assert!(event.done().unwrap());
    second.wait().unwrap();
}
