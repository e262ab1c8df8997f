//! An adapter as operators read it: per site, packed factors at the adapter's own ranks. Immutable and shared.

use crate::kernels::lora::PANEL;
use crate::kernels::simd::{Dtype, LANES};

/// A whole adapter. Index = site id.
pub struct Adapter {
    pub handle: u32,
    pub sites: Vec<Option<SiteDelta>>,
    /// Bytes held by all buffers.
    pub bytes: usize,
    /// Some site rescales the base output (DoRA): such an adapter cannot be summed with others.
    pub has_gain: bool,
}

/// What one adapter adds at one site: the A of all its modules stacked, and each module's B.
pub struct SiteDelta {
    pub dtype: Dtype,
    /// Sum of the modules' ranks.
    pub rank: usize,
    /// `dtype` `[rank, a_stride]`.
    pub a: Vec<u8>,
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
    /// `dtype` [panels, rank, PANEL].
    pub b: Vec<u8>,
    /// f32 `[out_features]`: DoRA's g = magnitude / ‖W + s·BA‖ per output row.
    pub gain: Option<Vec<f32>>,
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
        let parts: usize = self.parts.iter().map(|p| p.b.len() + p.gain.as_ref().map_or(0, |g| g.len() * 4)).sum();
        self.a.len() + self.scale.len() * 4 + parts
    }
}

/// Row length of packed A: `in_features` rounded up so that vector loads never leave the row.
#[must_use]
pub fn a_stride(in_features: usize) -> usize {
    in_features.next_multiple_of(LANES)
}
