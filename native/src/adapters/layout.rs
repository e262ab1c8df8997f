//! Where an adapter's parts go once they are read and checked: into packed memory for the CPU, into an image for a device.

use super::tensor::Values;
use crate::error::Result;
use crate::kernels::simd::Dtype;

/// Takes an adapter's parts in their order: sites ascending, then the embedding, the head, the norms.
pub trait Layout {
    fn site(&mut self, site: usize, delta: SiteValues<'_>) -> Result<()>;
    fn embedding_lora(&mut self, lora: EmbeddingValues<'_>) -> Result<()>;
    fn embedding_rows(&mut self, rows: RowValues<'_>) -> Result<()>;
    fn head_rows(&mut self, rows: RowValues<'_>) -> Result<()>;
    /// By index, f32 [hidden] each; None where the base's stays.
    fn norms(&mut self, norms: Vec<Option<Vec<f32>>>) -> Result<()>;
}

/// What an adapter adds at one site, by module.
pub struct SiteValues<'a> {
    pub in_features: usize,
    /// What all factors share, else float32, which holds each exactly.
    pub dtype: Dtype,
    /// Ascending by module.
    pub parts: Vec<PartValues<'a>>,
}

/// One module's factors, gain and biases; any of them.
pub struct PartValues<'a> {
    /// First output column within the site.
    pub out_offset: usize,
    pub out_features: usize,
    pub factors: Option<Factors<'a>>,
    /// DoRA's g, f32 `[out_features]`.
    pub gain: Option<Vec<f32>>,
    /// f32 `[out_features]`.
    pub offset: Option<Vec<f32>>,
}

/// A [rank, in] and B [out, rank] of one module; every value finite.
pub struct Factors<'a> {
    pub rank: usize,
    pub scale: f32,
    pub a: Values<'a>,
    pub b: Values<'a>,
}

/// LoRA on the token embedding.
pub struct EmbeddingValues<'a> {
    /// What both factors share, else float32.
    pub dtype: Dtype,
    pub rank: usize,
    pub scale: f32,
    pub vocab: usize,
    pub hidden: usize,
    /// [rank, vocab]
    pub a: Vec<f32>,
    /// [hidden, rank]
    pub b: Values<'a>,
    /// DoRA's g, f32 [hidden].
    pub gain: Option<Vec<f32>>,
}

/// Rows in the place of the base's.
pub struct RowValues<'a> {
    pub width: usize,
    pub values: Values<'a>,
    /// Of `values`, the rows that count, in the order in which they are held.
    pub order: Vec<usize>,
    /// Of each row its token, ascending; None where row t is token t's.
    pub tokens: Option<Vec<u32>>,
}

impl SiteValues<'_> {
    /// Of all modules together.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.parts.iter().map(PartValues::rank).sum()
    }

    /// The modules' factors, where they have some.
    pub fn factors(&self) -> impl Iterator<Item = &Factors<'_>> {
        self.parts.iter().filter_map(|part| part.factors.as_ref())
    }
}

impl PartValues<'_> {
    #[must_use]
    pub fn rank(&self) -> usize {
        self.factors.as_ref().map_or(0, |factors| factors.rank)
    }
}

impl RowValues<'_> {
    /// Little-endian elements of the values' dtype, row by row.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let bytes = self.width * self.values.dtype.size();
        self.order.iter().map(move |row| &self.values.bytes[row * bytes..][..bytes])
    }
}
