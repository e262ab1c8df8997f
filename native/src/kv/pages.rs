//! The paged KV cache of one engine, all layers.
//!
//! Keys `[layer, page, kv_head, dim, slot]` (transposed, see kernels/attention.rs), values
//! `[layer, page, kv_head, slot, padded_dim]`, both of one element type. Memory is reserved at once and mapped by the system when
//! first written.

use crate::error::{Code, Error, Result};
use crate::kernels::attention::PAGE;
use crate::kernels::simd::{Dtype, LANES};
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::RefCell;

/// Where a cache line, and thus a vector that is read, begins.
const ALIGNMENT: usize = 64;

thread_local! {
    /// One key and its value in 16 bits.
    static NARROWED: RefCell<Vec<u16>> = const { RefCell::new(Vec::new()) };
}

pub struct KvPages {
    pub pages: usize,
    pub kv_heads: usize,
    pub dim: usize,
    pub padded_dim: usize,
    pub dtype: Dtype,
    keys: RawBytes,
    values: RawBytes,
}

/// Bytes that several threads write at distinct places.
struct RawBytes {
    allocated: *mut u8,
    layout: Layout,
}

// SAFETY: the pointer is owned and never moved; who writes where is settled by the step context, which admits each KV
// slot at most once a step, and by operators, which write all rows before any row reads.
unsafe impl Send for RawBytes {}
// SAFETY: as above.
unsafe impl Sync for RawBytes {}

impl RawBytes {
    /// None when the system refuses that much (a plain Vec would abort the process) or `len` is 0.
    fn zeroed(len: usize) -> Option<Self> {
        // NOTE: aligned by hand: memory that is allocated aligned is zeroed by writing, and all of it would be mapped at once.
        let layout = Layout::array::<u8>(len.checked_add(ALIGNMENT)?).ok().filter(|_| len > 0)?;
        // SAFETY: the layout has a size above zero.
        let allocated = unsafe { alloc_zeroed(layout) };
        (!allocated.is_null()).then_some(Self { allocated, layout })
    }

    fn len(&self) -> usize {
        self.layout.size() - ALIGNMENT
    }

    fn data(&self) -> *mut u8 {
        let ahead = self.allocated.align_offset(ALIGNMENT).min(ALIGNMENT);
        // SAFETY: ALIGNMENT bytes more than `len` were allocated.
        unsafe { self.allocated.add(ahead) }
    }
}

impl Drop for RawBytes {
    fn drop(&mut self) {
        // SAFETY: `allocated` came from `alloc_zeroed` with this layout in `zeroed`.
        unsafe { dealloc(self.allocated, self.layout) };
    }
}

impl KvPages {
    /// # Errors
    /// `ERR_NATIVE` when a size is zero, overflows, or is more than the system gives.
    pub fn new(layers: usize, pages: usize, kv_heads: usize, dim: usize, dtype: Dtype) -> Result<Self> {
        let padded_dim = dim.next_multiple_of(LANES);
        let zeroed = |width: usize| {
            let bytes = [layers, pages, kv_heads, PAGE, width, dtype.size()].into_iter().try_fold(1, usize::checked_mul);
            bytes.and_then(RawBytes::zeroed).ok_or_else(|| {
                Error::new(
                    Code::Native,
                    format!("cannot reserve a KV cache of {pages} pages for {layers} layers of {kv_heads} × {dim}: change --kv-memory"),
                )
            })
        };
        Ok(Self { pages, kv_heads, dim, padded_dim, dtype, keys: zeroed(dim)?, values: zeroed(padded_dim)? })
    }

    /// Elements from one page's keys of a head to the next page's.
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
    pub fn keys(&self, layer: usize, head: usize) -> *mut u8 {
        let offset = (layer * self.pages * self.kv_heads + head) * self.dim * PAGE * self.dtype.size();
        debug_assert!(offset < self.keys.len());
        // SAFETY: layer and head are within the shape that the operator checked when it was created.
        unsafe { self.keys.data().add(offset) }
    }

    /// Values of page 0 of `layer` and `head`.
    #[must_use]
    pub fn values(&self, layer: usize, head: usize) -> *mut u8 {
        let offset = (layer * self.pages * self.kv_heads + head) * self.padded_dim * PAGE * self.dtype.size();
        debug_assert!(offset < self.values.len());
        // SAFETY: as for keys.
        unsafe { self.values.data().add(offset) }
    }

    /// Writes one row's key and value of one head [dim] into KV slot `slot` (page · PAGE + offset) of `layer`, rounded to the
    /// nearest number of the element type, ties to even.
    ///
    /// # Safety
    /// Key and value hold `dim` floats, `slot / PAGE < pages`, and nobody else touches this slot now.
    pub unsafe fn write(&self, layer: usize, head: usize, slot: usize, key: &[f32], value: &[f32]) {
        if self.dtype == Dtype::F32 {
            // SAFETY: passed on.
            return unsafe { self.put(layer, head, slot, key, value) };
        }
        NARROWED.with_borrow_mut(|bits| {
            bits.resize(2 * self.dim, 0);
            let (narrow_key, narrow_value) = bits.split_at_mut(self.dim);
            for (bits, floats) in [(&mut *narrow_key, key), (&mut *narrow_value, value)] {
                match self.dtype {
                    Dtype::Bf16 => bits.reinterpret_cast_mut::<bf16>().convert_from_f32_slice(floats),
                    _ => bits.reinterpret_cast_mut::<f16>().convert_from_f32_slice(floats),
                }
            }
            // SAFETY: passed on.
            unsafe { self.put(layer, head, slot, narrow_key, narrow_value) };
        });
    }

    /// # Safety
    /// As for `write`; `T` is as large as an element.
    unsafe fn put<T: Copy>(&self, layer: usize, head: usize, slot: usize, key: &[T], value: &[T]) {
        debug_assert_eq!((size_of::<T>(), key.len(), value.len()), (self.dtype.size(), self.dim, self.dim));
        let (page, offset) = (slot / PAGE, slot % PAGE);
        // SAFETY: page, head and layer are in range, so both places lie inside the pools, which are aligned for T.
        unsafe {
            let keys = self.keys(layer, head).cast::<T>().add(page * self.key_stride() + offset);
            for (d, &element) in key.iter().enumerate() {
                keys.add(d * PAGE).write(element);
            }
            let values = self.values(layer, head).cast::<T>().add(page * self.value_stride() + offset * self.padded_dim);
            std::ptr::copy_nonoverlapping(value.as_ptr(), values, value.len());
        }
    }
}
