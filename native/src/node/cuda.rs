//! What the CUDA addon says of the machine's devices.

use super::job::{JsError, js_error};
use crate::cuda::device::Device;
use napi_derive::napi;

#[napi(object, object_from_js = false)]
pub struct CudaDeviceObject {
    pub name: String,
    pub total_bytes: f64,
    pub free_bytes: f64,
    pub capability: i32,
    pub driver: i32,
    pub runtime: i32,
    pub emulated: bool,
}

/// Their place in the list is what engines are opened with.
#[napi(catch_unwind)]
#[allow(clippy::cast_precision_loss)]
pub fn cuda_devices() -> Result<Vec<CudaDeviceObject>, JsError> {
    let describe = |index: usize| {
        let device = Device::open(index)?;
        let facts = device.facts();
        Ok(CudaDeviceObject {
            name: facts.name.clone(),
            total_bytes: facts.total_bytes as f64,
            free_bytes: facts.free_bytes as f64,
            capability: facts.capability,
            driver: facts.driver,
            runtime: facts.runtime,
            emulated: Device::emulated(),
        })
    };
    Device::count().and_then(|count| (0..count).map(describe).collect()).map_err(js_error)
}
