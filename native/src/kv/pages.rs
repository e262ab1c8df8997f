//! The paged KV cache of one engine, all layers.
//!
//! Keys f32 `[layer, page, kv_head, dim, slot]` (transposed, see kernels/attention.rs), values
//! f32 `[layer, page, kv_head, slot, padded_dim]`. Memory is reserved at once and mapped by the system when first written.

use crate::error::{Code, Error, Result};
use crate::kernels::attention::PAGE;
use crate::kernels::simd::LANES;
use std::alloc::{Layout, alloc_zeroed, dealloc};

pub struct KvPages {
    pub pages: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub padded_dim: usize,
    keys: RawFloats,
    values: RawFloats,
}

/// Floats that several threads write at distinct places.
struct RawFloats {
    data: *mut f32,
    layout: Layout,
}

// SAFETY: the pointer is owned and never moved; who writes where is settled by the step context, which admits each KV
// slot at most once a step, and by operators, which write all rows before any row reads.
unsafe impl Send for RawFloats {}
// SAFETY: as above.
unsafe impl Sync for RawFloats {}

impl RawFloats {
    /// None when the system refuses that much (a plain Vec would abort the process) or `len` is 0.
    fn zeroed(len: usize) -> Option<Self> {
        let layout = Layout::array::<f32>(len).ok().filter(|layout| layout.size() > 0)?;
        // SAFETY: the layout has a size above zero.
        let data: *mut f32 = unsafe { alloc_zeroed(layout) }.cast();
        (!data.is_null()).then_some(Self { data, layout })
    }

    fn len(&self) -> usize {
        self.layout.size() / size_of::<f32>()
    }
}

impl Drop for RawFloats {
    fn drop(&mut self) {
        // SAFETY: `data` came from `alloc_zeroed` with this layout in `zeroed`.
        unsafe { dealloc(self.data.cast(), self.layout) };
    }
}

impl KvPages {
    /// # Errors
    /// `ERR_NATIVE` when a size is zero, overflows, or is more than the system gives.
    pub fn new(layers: usize, pages: usize, kv_heads: usize, dim: usize) -> Result<Self> {
        let padded_dim = dim.next_multiple_of(LANES);
        let zeroed = |width: usize| {
            let floats = [layers, pages, kv_heads, PAGE, width].into_iter().try_fold(1, usize::checked_mul);
            floats.and_then(RawFloats::zeroed).ok_or_else(|| {
                Error::new(
                    Code::Native,
                    format!("cannot reserve a KV cache of {pages} pages for {layers} layers of {kv_heads} × {dim}: change --kv-memory"),
                )
            })
        };
        Ok(Self { pages, kv_heads, dim, padded_dim, keys: zeroed(dim)?, values: zeroed(padded_dim)? })
    }

    /// Floats from one page's keys of a head to the next page's.
    #[must_use]
    pub fn key_stride(&self) -> usize {
        self.kv_heads * self.dim * PAGE
    }

    #[must_use]
    pub fn value_stride(&self) -> usize {
        self.kv_heads * self.padded_dim * PAGE
    }

    /// Keys of page 0 of `layer` and `head`.
    #[must_use]
    pub fn keys(&self, layer: usize, head: usize) -> *mut f32 {
        let offset = (layer * self.pages * self.kv_heads + head) * self.dim * PAGE;
        debug_assert!(offset < self.keys.len());
        // SAFETY: layer and head are within the shape that the operator checked when it was created.
        unsafe { self.keys.data.add(offset) }
    }

    /// Values of page 0 of `layer` and `head`.
    #[must_use]
    pub fn values(&self, layer: usize, head: usize) -> *mut f32 {
        let offset = (layer * self.pages * self.kv_heads + head) * self.padded_dim * PAGE;
        debug_assert!(offset < self.values.len());
        // SAFETY: as for keys.
        unsafe { self.values.data.add(offset) }
    }

    /// Writes one row's key and value of one head into KV slot `slot` (page · PAGE + offset) of `layer`.
    ///
    /// # Safety
    /// `key` and `value` are readable for `dim` floats, `slot / PAGE < pages`, and nobody else touches this slot now.
    pub unsafe fn write(&self, layer: usize, head: usize, slot: usize, key: *const f32, value: *const f32) {
        let (page, offset) = (slot / PAGE, slot % PAGE);
        // SAFETY: page, head and layer are in range, so both places lie inside the pools.
        unsafe {
            let keys = self.keys(layer, head).add(page * self.key_stride() + offset);
            for d in 0..self.dim {
                *keys.add(d * PAGE) = *key.add(d);
            }
            let values = self.values(layer, head).add(page * self.value_stride() + offset * self.padded_dim);
            std::ptr::copy_nonoverlapping(value, values, self.dim);
        }
    }
}
