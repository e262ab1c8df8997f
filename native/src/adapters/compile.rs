//! An adapter packed for the CPU's kernels.

use super::embedding::pack_columns;
use super::layout::{EmbeddingValues, Layout, RowValues, SiteValues};
use super::nibbles;
use super::pack::{pack_panels, pack_rows};
use super::plan::AdapterPlan;
use super::quantise;
use super::read::{MAX_RANK, read_adapter};
use super::resident::{Adapter, EmbeddingDelta, EmbeddingLora, PackedRows, Part, ReplacedRows, SiteDelta};
use super::safetensors::File;
use super::slab::{Pages, SlabBuilder};
use crate::error::Result;
use crate::kernels::lora::{PANEL, Stored};
use crate::kernels::simd::Dtype;
use crate::manifest::Manifest;
use crate::weights::Weights;

/// Alignment and padding that a packed tensor may take on top of its bytes, as a guess.
const PIECE_OVERHEAD: usize = 64;

/// How an engine keeps the factors of linear modules; all else that an adapter brings keeps the file's dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactorStorage {
    /// As the file has them.
    File,
    /// Signed bytes with scales, see [`quantise`].
    Int8,
    /// Signed numbers of 4 bits with scales, see [`nibbles`].
    Int4,
}

impl FactorStorage {
    /// How factors of a file's `dtype` are kept.
    const fn of(self, dtype: Dtype) -> Stored {
        match self {
            Self::File => Stored::Float(dtype),
            Self::Int8 => Stored::Int8,
            Self::Int4 => Stored::Int4,
        }
    }
}

/// Builds the resident form of `file` for the model of `manifest`.
///
/// # Errors
/// As [`read_adapter`]; `ERR_NATIVE` when the system has no memory left.
pub fn compile(
    handle: u32,
    file: &File,
    plan: &AdapterPlan,
    storage: FactorStorage,
    manifest: &Manifest,
    weights: &Weights,
) -> Result<Adapter> {
    let mut sites = Vec::new();
    sites.resize_with(manifest.sites.len(), || None);
    let slab = SlabBuilder::new(Pages, packed_size(file, plan, storage, manifest) + file.tensors.len() * PIECE_OVERHEAD)?;
    let mut packed = Packed { storage, slab, sites, embedding: None, head: None, norms: Vec::new() };
    read_adapter(file, plan, manifest, weights, &mut packed)?;
    let Packed { slab, sites, embedding, head, norms, .. } = packed;
    let bytes = sites.iter().flatten().map(|site| site.bytes).sum::<usize>()
        + embedding.as_ref().map_or(0, EmbeddingDelta::bytes)
        + head.as_ref().map_or(0, ReplacedRows::bytes)
        + norms.iter().flatten().map(|weight| weight.len() * 4).sum::<usize>();
    Ok(Adapter { handle, slab: slab.finish(), sites, embedding, norms, head, bytes, stands_alone: plan.stands_alone() })
}

/// About what `plan` takes once packed, alignment aside: what a slab has on top may be pages of an earlier load, which
/// nobody counts.
fn packed_size(file: &File, plan: &AdapterPlan, storage: FactorStorage, manifest: &Manifest) -> usize {
    let size_in_file = |name: &str| file.find(name).map_or(0, |tensor| file.data(tensor).len());
    let mut size = file.size();
    // Nearly always the bytes of the file.
    if storage == FactorStorage::File {
        return size;
    }
    for module in &plan.modules {
        let Some(site) = manifest.sites.get(module.site) else { continue };
        let outputs = site.modules.get(module.module).map_or(0, |module| module.out_features);
        let stored = storage.of(Dtype::F32);
        size = size.saturating_sub(size_in_file(&module.a) + size_in_file(&module.b));
        let rank = module.rank.min(MAX_RANK);
        size += stored.a_size(rank, site.in_features) + stored.b_size(outputs, rank);
    }
    size
}

/// An adapter on its way to its resident form.
struct Packed {
    storage: FactorStorage,
    slab: SlabBuilder,
    sites: Vec<Option<SiteDelta>>,
    embedding: Option<EmbeddingDelta>,
    head: Option<ReplacedRows>,
    norms: Vec<Option<Vec<f32>>>,
}

impl Layout for Packed {
    fn site(&mut self, site: usize, delta: SiteValues<'_>) -> Result<()> {
        let stored = self.storage.of(delta.dtype);
        let (rank, width) = (delta.rank(), delta.in_features);
        let (a, packed) = self.slab.reserve(stored.a_size(rank, width))?;
        let steps = pack_stacked_a(stored, &delta, packed);
        let mut scale = Vec::with_capacity(rank);
        let mut parts = Vec::with_capacity(delta.parts.len());
        for part in delta.parts {
            let (b, packed) = self.slab.reserve(stored.b_size(part.out_features, part.rank()))?;
            let rank_offset = scale.len();
            if let Some(f) = &part.factors {
                let sizes = match stored {
                    Stored::Float(dtype) => {
                        pack_panels(dtype, &f.b.in_dtype(dtype), f.rank, packed);
                        None
                    }
                    Stored::Int8 => {
                        quantise::pack_b(&f.b.widen(), f.rank, packed);
                        steps.as_ref().map(|steps| steps[rank_offset..rank_offset + f.rank].to_vec())
                    }
                    Stored::Int4 => Some(nibbles::pack_b(&f.b.widen(), f.rank, packed)),
                };
                scale.extend((0..f.rank).map(|j| sizes.as_ref().map_or(f.scale, |sizes| f.scale * sizes[j])));
            }
            parts.push(Part {
                rank_offset,
                rank: part.rank(),
                out_offset: part.out_offset,
                out_features: part.out_features,
                b,
                gain: part.gain,
                offset: part.offset,
            });
        }
        self.sites[site] = Some(SiteDelta::new(stored, width, a, scale, parts));
        Ok(())
    }

    fn embedding_lora(&mut self, lora: EmbeddingValues<'_>) -> Result<()> {
        let EmbeddingValues { dtype, rank, scale, vocab, hidden, .. } = lora;
        let (a, packed) = self.slab.reserve(vocab * rank * dtype.size())?;
        pack_columns(&lora, packed);
        let (b, packed) = self.slab.reserve(hidden.div_ceil(PANEL) * rank * PANEL * dtype.size())?;
        pack_panels(dtype, &lora.b.in_dtype(dtype), rank, packed);
        self.embedding = Some(EmbeddingDelta::Lora(EmbeddingLora { dtype, rank, vocab, a, scale, hidden, b, gain: lora.gain }));
        Ok(())
    }

    fn embedding_rows(&mut self, rows: RowValues<'_>) -> Result<()> {
        self.embedding = Some(EmbeddingDelta::Replaced(self.pack_rows(rows)?));
        Ok(())
    }

    fn head_rows(&mut self, rows: RowValues<'_>) -> Result<()> {
        self.head = Some(self.pack_rows(rows)?);
        Ok(())
    }

    fn norms(&mut self, norms: Vec<Option<Vec<f32>>>) -> Result<()> {
        self.norms = norms;
        Ok(())
    }
}

impl Packed {
    fn pack_rows(&mut self, rows: RowValues<'_>) -> Result<ReplacedRows> {
        let (dtype, width) = (rows.values.dtype, rows.width);
        let pieces: Vec<&[u8]> = rows.rows().collect();
        let count = pieces.len();
        let (offset, packed) = self.slab.reserve(Stored::Float(dtype).a_size(count, width))?;
        pack_rows(dtype, &pieces, width, packed);
        Ok(ReplacedRows { rows: PackedRows { dtype, count, width, offset }, tokens: rows.tokens })
    }
}

/// Packs the A of all modules, one below the other; returns what each row was divided by, if it was.
fn pack_stacked_a(stored: Stored, delta: &SiteValues<'_>, packed: &mut [u8]) -> Option<Vec<f32>> {
    let width = delta.in_features;
    let widened = || delta.factors().flat_map(|f| f.a.widen()).collect::<Vec<f32>>();
    match stored {
        Stored::Float(dtype) => {
            let stacked: Vec<_> = delta.factors().map(|f| f.a.in_dtype(dtype)).collect();
            let rows: Vec<&[u8]> = stacked.iter().flat_map(|a| a.chunks_exact(width * dtype.size())).collect();
            pack_rows(dtype, &rows, width, packed);
            None
        }
        Stored::Int8 => Some(quantise::pack_a(&widened(), width, packed)),
        Stored::Int4 => {
            nibbles::pack_a(&widened(), width, packed);
            None
        }
    }
}
