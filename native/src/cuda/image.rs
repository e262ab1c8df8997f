//! An adapter as kernels read it: tables at the beginning, then the arrays that they point to, in one pinned piece.
//!
//! While it is built, a table's pointers hold offsets into the image (0 = NULL: there the first table lies);
//! [`Image::finish`] turns them into addresses once the adapter's place on the device is known.

use super::abi;
use super::plain::put;
use super::pool::{PinnedPool, Pooled};
use crate::adapters::embedding::pack_columns;
use crate::adapters::layout::{EmbeddingValues, Layout, RowValues, SiteValues};
use crate::adapters::plan::AdapterPlan;
use crate::adapters::slab::SlabBuilder;
use crate::error::{Code, Error, Result};
use crate::kernels::simd::Dtype;
use crate::manifest::Manifest;
use crate::pace;
use std::ptr::{null, without_provenance};

/// What alignment may add to an array, as a guess.
const PIECE_OVERHEAD: usize = 64;
/// Copied between two looks at the pace.
const CHUNK: usize = 64 << 10;

/// An image on its way.
pub struct Image {
    slab: SlabBuilder<PinnedPool>,
    places: Places,
    adapter: abi::Adapter,
    sites: Vec<abi::SiteDelta>,
    /// Each with its offset.
    parts: Vec<(usize, abi::Part)>,
    norms: Vec<*const f32>,
}

/// Offsets of the tables behind the first one, which is the adapter's.
struct Places {
    sites: usize,
    norms: usize,
}

impl Image {
    /// Begins the image of a file of `file_bytes` and `tensors`.
    ///
    /// # Errors
    /// When there is no pinned memory.
    pub fn begin(pool: &PinnedPool, plan: &AdapterPlan, manifest: &Manifest, file_bytes: usize, tensors: usize) -> Result<Self> {
        // A module's bias may have a part of its own.
        let most_parts = plan.modules.len() + plan.biases.len();
        let tables = size_of::<abi::Adapter>()
            + manifest.sites.len() * size_of::<abi::SiteDelta>()
            + most_parts * size_of::<abi::Part>()
            + manifest.norms.len() * size_of::<*const f32>();
        // Beside the file's bytes: scales, and gains and offsets, which may be wider than what they come from.
        let outputs =
            |site: usize, module: usize| manifest.sites.get(site).and_then(|s| s.modules.get(module)).map_or(0, |m| m.out_features);
        let derived: usize = plan.modules.iter().map(|m| (m.rank + 2 * outputs(m.site, m.module)) * size_of::<f32>()).sum();
        let capacity = file_bytes + tables + derived + (tensors + 3 * most_parts + 4) * PIECE_OVERHEAD;
        let mut slab = SlabBuilder::new(pool.clone(), capacity)?;
        slab.reserve(size_of::<abi::Adapter>())?;
        let places = Places {
            sites: slab.reserve(manifest.sites.len() * size_of::<abi::SiteDelta>())?.0,
            norms: slab.reserve(manifest.norms.len() * size_of::<*const f32>())?.0,
        };
        Ok(Self {
            adapter: abi::Adapter {
                sites: without_provenance(places.sites),
                norms: without_provenance(places.norms),
                embedding: NO_EMBEDDING,
                embedding_rows: NO_ROWS,
                head_rows: NO_ROWS,
                most_rank: 0,
                reserved: 0,
            },
            sites: vec![NO_DELTA; manifest.sites.len()],
            parts: Vec::with_capacity(most_parts),
            norms: vec![null(); manifest.norms.len()],
            places,
            slab,
        })
    }

    /// Highest rank of a site, all modules together.
    #[must_use]
    pub fn most_rank(&self) -> usize {
        usize::try_from(self.adapter.most_rank).unwrap_or(0)
    }

    /// Bytes that the image takes.
    #[must_use]
    pub fn used(&self) -> usize {
        self.slab.used()
    }

    /// The image for the device address `base`, and its bytes.
    #[must_use]
    pub fn finish(self, base: usize) -> (Pooled, usize) {
        let Self { slab, places, mut adapter, mut sites, mut parts, mut norms } = self;
        relocate_adapter(&mut adapter, base);
        for site in &mut sites {
            relocate(&mut site.a, base);
            relocate(&mut site.scale, base);
            relocate(&mut site.parts, base);
        }
        for (_, part) in &mut parts {
            relocate(&mut part.b, base);
            relocate(&mut part.gain, base);
            relocate(&mut part.offset, base);
        }
        for norm in &mut norms {
            relocate(norm, base);
        }
        let (mut memory, used) = slab.into_memory();
        put(&mut memory, 0, &[adapter]);
        put(&mut memory, places.sites, &sites);
        for (at, part) in parts {
            put(&mut memory, at, &[part]);
        }
        put(&mut memory, places.norms, &norms);
        (memory, used)
    }

    fn bytes<T>(&mut self, bytes: &[u8]) -> Result<*const T> {
        let (offset, place) = self.slab.reserve(bytes.len())?;
        copy(bytes, place);
        Ok(without_provenance(offset))
    }

    fn floats(&mut self, values: &[f32]) -> Result<*const f32> {
        let (offset, place) = self.slab.reserve(size_of_val(values))?;
        for (place, value) in place.as_chunks_mut::<4>().0.iter_mut().zip(values) {
            *place = value.to_ne_bytes();
        }
        Ok(without_provenance(offset))
    }

    fn floats_or_null(&mut self, values: Option<&Vec<f32>>) -> Result<*const f32> {
        values.map_or(Ok(null()), |values| self.floats(values))
    }

    fn rows(&mut self, rows: &RowValues<'_>) -> Result<abi::ReplacedRows> {
        let dtype = rows.values.dtype;
        let pieces = rows.rows();
        let count = pieces.len();
        let row_bytes = rows.width * dtype.size();
        let (offset, place) = self.slab.reserve(count * row_bytes)?;
        for (piece, place) in pieces.zip(place.chunks_exact_mut(row_bytes)) {
            copy(piece, place);
        }
        let tokens = match &rows.tokens {
            None => null(),
            Some(tokens) => self.bytes(&tokens.iter().flat_map(|token| token.to_ne_bytes()).collect::<Vec<u8>>())?,
        };
        Ok(abi::ReplacedRows { rows: without_provenance(offset), tokens, count: int(count)?, dtype: abi::dtype(dtype) })
    }
}

impl Layout for Image {
    fn site(&mut self, site: usize, delta: SiteValues<'_>) -> Result<()> {
        let (dtype, rank) = (delta.dtype, delta.rank());
        let (parts_at, _) = self.slab.reserve(delta.parts.len() * size_of::<abi::Part>())?;
        let mut table = abi::SiteDelta {
            parts: without_provenance(parts_at),
            rank: int(rank)?,
            part_count: int(delta.parts.len())?,
            dtype: abi::dtype(dtype),
            ..NO_DELTA
        };
        if rank > 0 {
            let (a, mut place) = self.slab.reserve(rank * delta.in_features * dtype.size())?;
            for factors in delta.factors() {
                let rows = factors.a.in_dtype(dtype);
                let (own, rest) = place.split_at_mut(rows.len());
                copy(&rows, own);
                place = rest;
            }
            table.a = without_provenance(a);
            let scale: Vec<f32> = delta.factors().flat_map(|f| std::iter::repeat_n(f.scale, f.rank)).collect();
            table.scale = self.floats(&scale)?;
        }
        let mut rank_offset = 0;
        for (i, part) in delta.parts.iter().enumerate() {
            let b = part.factors.as_ref().map_or(Ok(null()), |f| self.bytes(&f.b.in_dtype(dtype)))?;
            let (gain, offset) = (self.floats_or_null(part.gain.as_ref())?, self.floats_or_null(part.offset.as_ref())?);
            let table = abi::Part {
                b,
                gain,
                offset,
                rank_offset: int(rank_offset)?,
                rank: int(part.rank())?,
                out_offset: int(part.out_offset)?,
                out_features: int(part.out_features)?,
            };
            self.parts.push((parts_at + i * size_of::<abi::Part>(), table));
            rank_offset += part.rank();
        }
        self.adapter.most_rank = self.adapter.most_rank.max(table.rank);
        self.sites[site] = table;
        Ok(())
    }

    fn embedding_lora(&mut self, lora: EmbeddingValues<'_>) -> Result<()> {
        let EmbeddingValues { dtype, rank, scale, vocab, .. } = lora;
        let (a, place) = self.slab.reserve(vocab * rank * dtype.size())?;
        pack_columns(&lora, place);
        let b = self.bytes(&lora.b.in_dtype(dtype))?;
        let gain = self.floats_or_null(lora.gain.as_ref())?;
        let (rank, vocab, dtype) = (int(rank)?, int(vocab)?, abi::dtype(dtype));
        self.adapter.embedding = abi::EmbeddingLora { a: without_provenance(a), b, gain, scale, rank, vocab, dtype };
        Ok(())
    }

    fn embedding_rows(&mut self, rows: RowValues<'_>) -> Result<()> {
        self.adapter.embedding_rows = self.rows(&rows)?;
        Ok(())
    }

    fn head_rows(&mut self, rows: RowValues<'_>) -> Result<()> {
        self.adapter.head_rows = self.rows(&rows)?;
        Ok(())
    }

    fn norms(&mut self, norms: Vec<Option<Vec<f32>>>) -> Result<()> {
        for (norm, weight) in norms.iter().enumerate() {
            self.norms[norm] = self.floats_or_null(weight.as_ref())?;
        }
        Ok(())
    }
}

const NO_DELTA: abi::SiteDelta =
    abi::SiteDelta { a: null(), scale: null(), parts: null(), rank: 0, part_count: 0, dtype: abi::dtype(Dtype::F32), reserved: 0 };
const NO_ROWS: abi::ReplacedRows = abi::ReplacedRows { rows: null(), tokens: null(), count: 0, dtype: abi::dtype(Dtype::F32) };
const NO_EMBEDDING: abi::EmbeddingLora =
    abi::EmbeddingLora { a: null(), b: null(), gain: null(), scale: 0.0, rank: 0, vocab: 0, dtype: abi::dtype(Dtype::F32) };

fn relocate_adapter(adapter: &mut abi::Adapter, base: usize) {
    relocate(&mut adapter.sites, base);
    relocate(&mut adapter.norms, base);
    relocate(&mut adapter.embedding.a, base);
    relocate(&mut adapter.embedding.b, base);
    relocate(&mut adapter.embedding.gain, base);
    for rows in [&mut adapter.embedding_rows, &mut adapter.head_rows] {
        relocate(&mut rows.rows, base);
        relocate(&mut rows.tokens, base);
    }
}

/// From an offset in the image to a device address; NULL stays.
fn relocate<T>(pointer: &mut *const T, base: usize) {
    if !pointer.is_null() {
        *pointer = without_provenance(base + pointer.addr());
    }
}

fn copy(from: &[u8], to: &mut [u8]) {
    for (from, to) in from.chunks(CHUNK).zip(to.chunks_mut(CHUNK)) {
        pace::worked(from.len());
        to.copy_from_slice(from);
    }
}

/// A count as the tables hold it.
fn int(n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error::new(Code::Native, format!("{n} is more than a device's table holds")))
}
