//! An adapter as operators read it: per site, packed factors at the adapter's own ranks. Immutable and shared.

use super::slab::Slab;
use crate::kernels::lora::PANEL;
use crate::kernels::simd::{Dtype, LANES};

/// A whole adapter.
pub struct Adapter {
    pub handle: u32,
    /// Every site's factors, in the order in which a step reads them.
    pub slab: Slab,
    /// Index = site id.
    pub sites: Vec<Option<SiteDelta>>,
    /// Bytes of factors, scales and gains; alignment inside the slab is not counted.
    pub bytes: usize,
    /// Some site rescales the base output (DoRA): such an adapter cannot be summed with others.
    pub has_gain: bool,
}

/// What one adapter adds at one site: the A of all its modules stacked, and behind it each module's B.
pub struct SiteDelta {
    pub dtype: Dtype,
    /// Sum of the modules' ranks; 0 where the adapter only has biases.
    pub rank: usize,
    /// Byte offset of A in the slab; layout: `kernels::lora::Shrink::a`.
    pub a: usize,
    pub a_stride: usize,
    /// f32 [rank].
    pub scale: Vec<f32>,
    pub parts: Vec<Part>,
}

/// One module's half of the expand.
pub struct Part {
    /// First row of the stacked A.
    pub rank_offset: usize,
    pub rank: usize,
    /// First output column within the site.
    pub out_offset: usize,
    pub out_features: usize,
    /// Byte offset of B in the slab; layout: `kernels::lora::Expand::b`.
    pub b: usize,
    /// f32 `[out_features]`: DoRA's g = magnitude / ‖W + s·BA‖ per output row.
    pub gain: Option<Vec<f32>>,
    /// f32 `[out_features]`: biases, scaled, added after the gain.
    pub offset: Option<Vec<f32>>,
}

impl Part {
    #[must_use]
    pub fn panels(&self) -> usize {
        self.out_features.div_ceil(PANEL)
    }
}

impl SiteDelta {
    #[must_use]
    pub fn bytes(&self) -> usize {
        let element = self.dtype.size();
        let floats = |vector: &Option<Vec<f32>>| vector.as_ref().map_or(0, |v| v.len() * 4);
        let of_part = |p: &Part| p.panels() * p.rank * PANEL * element + floats(&p.gain) + floats(&p.offset);
        self.rank * self.a_stride * element + self.scale.len() * 4 + self.parts.iter().map(of_part).sum::<usize>()
    }
}

/// Row length of packed A: `in_features` rounded up so that vector loads never leave the row.
#[must_use]
pub fn a_stride(in_features: usize) -> usize {
    in_features.next_multiple_of(LANES)
}
