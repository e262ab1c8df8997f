//! An adapter as operators read it: per site, packed factors at the adapter's own ranks. Immutable and shared.

use super::pack::unpack;
use super::slab::Slab;
use super::store::Resident;
use crate::kernels::lora::{GROUP, PANEL, Stored};
use crate::kernels::simd::{Dtype, LANES};

/// A whole adapter.
pub struct Adapter {
    pub handle: u32,
    /// Every site's factors, in the order in which a step reads them.
    pub slab: Slab,
    /// Index = site id.
    pub sites: Vec<Option<SiteDelta>>,
    pub embedding: Option<EmbeddingDelta>,
    /// Index = norm id; f32 [hidden] in the place of the base's weight.
    pub norms: Vec<Option<Vec<f32>>>,
    pub head: Option<ReplacedRows>,
    /// Bytes of all of these; alignment inside the slab is not counted.
    pub bytes: usize,
    /// Rescales (DoRA) or replaces something of the base: such an adapter cannot be summed with others.
    pub stands_alone: bool,
}

impl Resident for Adapter {
    fn handle(&self) -> u32 {
        self.handle
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn stands_alone(&self) -> bool {
        self.stands_alone
    }
}

/// What one adapter adds at one site: the A of all its modules stacked, and behind it each module's B.
pub struct SiteDelta {
    pub stored: Stored,
    /// Sum of the modules' ranks; 0 where the adapter only has biases.
    pub rank: usize,
    /// Input features.
    pub width: usize,
    /// Byte offset of A in the slab; layout: `kernels::lora::Shrink::a`.
    pub a: usize,
    /// Where the last B ends in the slab.
    pub end: usize,
    /// Bytes of all factors, scales, gains and biases.
    pub bytes: usize,
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

/// What one adapter does to rows of the token embedding: replaces some, or adds to all.
pub enum EmbeddingDelta {
    Lora(EmbeddingLora),
    Replaced(ReplacedRows),
}

/// `g ⊙ (E[id] + s · B · A[:, id])`.
pub struct EmbeddingLora {
    pub dtype: Dtype,
    pub rank: usize,
    pub vocab: usize,
    /// Byte offset of Aᵀ [vocab, rank] in the slab, row-major.
    pub a: usize,
    pub scale: f32,
    pub hidden: usize,
    /// Byte offset of B in the slab; layout: `kernels::lora::Expand::b`.
    pub b: usize,
    /// f32 `[hidden]`: DoRA's g = magnitude / ‖Eᵀ + s·BA‖ per output column.
    pub gain: Option<Vec<f32>>,
}

/// Rows of the embedding or the head in the place of the base's.
pub struct ReplacedRows {
    pub rows: PackedRows,
    /// The row's token, ascending; None where every token has its row.
    pub tokens: Option<Vec<u32>>,
}

/// Rows [count, width] in the slab; layout: `kernels::lora::Shrink::a`.
pub struct PackedRows {
    pub dtype: Dtype,
    pub count: usize,
    pub width: usize,
    pub offset: usize,
}

impl EmbeddingDelta {
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Lora(lora) => lora.bytes(),
            Self::Replaced(rows) => rows.bytes(),
        }
    }
}

impl EmbeddingLora {
    fn bytes(&self) -> usize {
        let elements = (self.vocab + self.hidden.div_ceil(PANEL) * PANEL) * self.rank;
        elements * self.dtype.size() + self.gain.as_ref().map_or(0, |g| g.len() * 4)
    }
}

impl ReplacedRows {
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.rows.bytes() + self.tokens.as_ref().map_or(0, |tokens| tokens.len() * 4)
    }

    /// Where the row of `token` lies, if it is replaced.
    #[must_use]
    pub fn row_of(&self, token: usize) -> Option<usize> {
        match &self.tokens {
            None => (token < self.rows.count).then_some(token),
            Some(tokens) => u32::try_from(token).ok().and_then(|token| tokens.binary_search(&token).ok()),
        }
    }
}

impl PackedRows {
    fn bytes(&self) -> usize {
        Stored::Float(self.dtype).a_size(self.count, self.width)
    }

    /// Row `row` of the slab's rows as float32, into `out` [width].
    pub fn unpack(&self, slab: &[u8], row: usize, out: &mut [f32]) {
        let (first, size) = (row / GROUP * GROUP, self.dtype.size());
        let group = GROUP.min(self.count - first);
        for (c, lanes) in out[..self.width].chunks_mut(LANES).enumerate() {
            let place = Stored::Float(self.dtype).a_size(first, self.width) + (c * group + row - first) * LANES * size;
            unpack(self.dtype, &slab[self.offset + place..], lanes);
        }
    }
}

impl Part {
    #[must_use]
    pub fn panels(&self) -> usize {
        self.out_features.div_ceil(PANEL)
    }
}

impl SiteDelta {
    /// A [rank, width] at byte `a` of the slab, and behind it the B of `parts`; the rank is that of `scale`.
    #[must_use]
    pub fn new(stored: Stored, width: usize, a: usize, scale: Vec<f32>, parts: Vec<Part>) -> Self {
        let rank = scale.len();
        let floats = |vector: &Option<Vec<f32>>| vector.as_ref().map_or(0, |v| v.len() * 4);
        let of_part = |p: &Part| stored.b_size(p.out_features, p.rank) + floats(&p.gain) + floats(&p.offset);
        let bytes = stored.a_size(rank, width) + rank * 4 + parts.iter().map(of_part).sum::<usize>();
        let end = parts.last().map_or(a, |part| a.max(part.b + stored.b_size(part.out_features, part.rank)));
        Self { stored, rank, width, a, end, bytes, scale, parts }
    }
}
