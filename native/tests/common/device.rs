//! The device of tests that need no more than its memory: the emulator, or the first GPU.

use super::skipped;
use loramux_native::cuda::device::Device;

/// None on a machine without a GPU, after saying so; the emulator is always there.
pub fn first_device() -> Option<Device> {
    match Device::open(0) {
        Err(e) if cfg!(feature = "cuda") => {
            skipped(&e.to_string());
            None
        }
        opened => Some(opened.unwrap()),
    }
}
