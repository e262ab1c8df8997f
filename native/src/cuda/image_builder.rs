//! An adapter's [`Image`] from what its file holds: tables at the beginning, then the arrays that they point to.
//!
//! While it is built, a pointer of a table holds its array's number (NULL is NULL: nothing points to array 0, the first
//! table); [`ImageBuilder::finish`] makes the image's fix-ups of them.

use super::abi;
use super::image::{FixUp, Image, ImageMap};
use super::plain::{Plain, put};
use super::pool::PinnedPool;
use crate::adapters::compile::FactorStorage;
use crate::adapters::embedding::pack_columns;
use crate::adapters::layout::{EmbeddingValues, Factors, Layout, RowValues, SiteValues};
use crate::adapters::plan::AdapterPlan;
use crate::adapters::quantise::quantise_rows;
use crate::adapters::slab::SlabBuilder;
use crate::error::{Code, Error, Result};
use crate::kernels::simd::Dtype;
use crate::manifest::Manifest;
use crate::pace;
use std::ffi::c_void;
use std::mem::offset_of;
use std::ops::Range;
use std::ptr::{null, without_provenance};

/// What alignment may add to an array, as a guess.
const PIECE_OVERHEAD: usize = 64;
/// Copied between two looks at the pace.
const CHUNK: usize = 64 << 10;

/// An image on its way.
pub struct ImageBuilder {
    slab: SlabBuilder<PinnedPool>,
    arrays: Vec<Range<usize>>,
    adapter: abi::Adapter,
    /// The arrays of these two tables.
    sites_array: usize,
    norms_array: usize,
    sites: Vec<abi::SiteDelta>,
    /// Each with its offset.
    parts: Vec<(usize, abi::Part)>,
    norms: Vec<*const f32>,
    stands_alone: bool,
    /// Factors of linear modules become bytes.
    as_bytes: bool,
}

impl ImageBuilder {
    /// Begins the image of a file of `file_bytes` and `tensors`.
    ///
    /// # Errors
    /// When there is no pinned memory.
    pub fn begin(
        pool: &PinnedPool,
        plan: &AdapterPlan,
        factors: FactorStorage,
        manifest: &Manifest,
        file_bytes: usize,
        tensors: usize,
    ) -> Result<Self> {
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
        let mut image = Self {
            slab: SlabBuilder::new(pool.clone(), capacity)?,
            arrays: Vec::with_capacity(tensors + 3 * most_parts + 4),
            adapter: NO_ADAPTER,
            sites_array: 0,
            norms_array: 0,
            sites: vec![NO_DELTA; manifest.sites.len()],
            parts: Vec::with_capacity(most_parts),
            norms: vec![null(); manifest.norms.len()],
            stands_alone: plan.stands_alone(),
            as_bytes: factors == FactorStorage::Int8,
        };
        image.array(size_of::<abi::Adapter>())?;
        image.sites_array = image.array(manifest.sites.len() * size_of::<abi::SiteDelta>())?.0;
        image.norms_array = image.array(manifest.norms.len() * size_of::<*const f32>())?.0;
        image.adapter.sites = without_provenance(image.sites_array);
        image.adapter.norms = without_provenance(image.norms_array);
        Ok(image)
    }

    /// The image, its pointers to be filled in.
    ///
    /// # Errors
    /// `ERR_NATIVE` when its parts do not fit together.
    pub fn finish(self) -> Result<Image> {
        let Self { slab, arrays, adapter, sites_array, norms_array, sites, parts, norms, stands_alone, .. } = self;
        let (mut memory, _) = slab.into_memory();
        let mut tables = Tables { memory: &mut memory, fix_ups: Vec::new() };
        tables.put(0, &[adapter], &ADAPTER_POINTERS);
        tables.put(arrays[sites_array].start, &sites, &SITE_POINTERS);
        tables.put(arrays[norms_array].start, &norms, &[0]);
        for (at, part) in parts {
            tables.put(at, &[part], &PART_POINTERS);
        }
        let (fix_ups, most_rank) = (tables.fix_ups, usize::try_from(adapter.most_rank).unwrap_or(0));
        Image::of(memory, ImageMap::new(arrays, fix_ups, most_rank, stands_alone)?)
    }

    /// One more array of `len` bytes: its number and its bytes, which hold anything.
    fn array(&mut self, len: usize) -> Result<(usize, &mut [u8])> {
        let (offset, place) = self.slab.reserve(len)?;
        self.arrays.push(offset..offset + len);
        Ok((self.arrays.len() - 1, place))
    }

    fn bytes<T>(&mut self, bytes: &[u8]) -> Result<*const T> {
        let (array, place) = self.array(bytes.len())?;
        copy(bytes, place);
        Ok(without_provenance(array))
    }

    fn floats(&mut self, values: &[f32]) -> Result<*const f32> {
        let (array, place) = self.array(size_of_val(values))?;
        for (place, value) in place.as_chunks_mut::<4>().0.iter_mut().zip(values) {
            *place = value.to_ne_bytes();
        }
        Ok(without_provenance(array))
    }

    fn floats_or_null(&mut self, values: Option<&Vec<f32>>) -> Result<*const f32> {
        values.map_or(Ok(null()), |values| self.floats(values))
    }

    /// The stacked A of a site in `dtype`, or as bytes, and what h is multiplied by.
    fn stacked_a(&mut self, delta: &SiteValues<'_>) -> Result<(*const c_void, *const f32)> {
        let (as_bytes, dtype) = (self.as_bytes, delta.dtype);
        let size = if as_bytes { 1 } else { dtype.size() };
        let (a, mut place) = self.array(delta.rank() * delta.in_features * size)?;
        let mut scale = Vec::with_capacity(delta.rank());
        for factors in delta.factors() {
            let (own, rest) = place.split_at_mut(factors.rank * delta.in_features * size);
            if as_bytes {
                let steps = quantise_rows(&factors.a.widen(), delta.in_features, own);
                scale.extend(steps.iter().map(|step| factors.scale * step));
            } else {
                copy(&factors.a.in_dtype(dtype), own);
                scale.extend(std::iter::repeat_n(factors.scale, factors.rank));
            }
            place = rest;
        }
        Ok((without_provenance(a), self.floats(&scale)?))
    }

    /// B in `dtype`, or as bytes with a scale for each of its rows.
    fn expand(&mut self, factors: &Factors<'_>, dtype: Dtype) -> Result<(*const c_void, *const f32)> {
        if !self.as_bytes {
            return Ok((self.bytes(&factors.b.in_dtype(dtype))?, null()));
        }
        let values = factors.b.widen();
        let (b, place) = self.array(values.len())?;
        let scales = quantise_rows(&values, factors.rank, place);
        Ok((without_provenance(b), self.floats(&scales)?))
    }

    fn rows(&mut self, rows: &RowValues<'_>) -> Result<abi::ReplacedRows> {
        let dtype = rows.values.dtype;
        let pieces = rows.rows();
        let count = pieces.len();
        let row_bytes = rows.width * dtype.size();
        let (array, place) = self.array(count * row_bytes)?;
        for (piece, place) in pieces.zip(place.chunks_exact_mut(row_bytes)) {
            copy(piece, place);
        }
        let tokens = match &rows.tokens {
            None => null(),
            Some(tokens) => self.bytes(&tokens.iter().flat_map(|token| token.to_ne_bytes()).collect::<Vec<u8>>())?,
        };
        Ok(abi::ReplacedRows { rows: without_provenance(array), tokens, count: int(count)?, dtype: abi::dtype(dtype) })
    }
}

impl Layout for ImageBuilder {
    fn site(&mut self, site: usize, delta: SiteValues<'_>) -> Result<()> {
        let (dtype, rank) = (delta.dtype, delta.rank());
        let (parts, _) = self.array(delta.parts.len() * size_of::<abi::Part>())?;
        let parts_at = self.arrays[parts].start;
        let mut table = abi::SiteDelta {
            parts: without_provenance(parts),
            rank: int(rank)?,
            part_count: int(delta.parts.len())?,
            dtype: if self.as_bytes { abi::I8 } else { abi::dtype(dtype) },
            ..NO_DELTA
        };
        if rank > 0 {
            (table.a, table.scale) = self.stacked_a(&delta)?;
        }
        let mut rank_offset = 0;
        for (i, part) in delta.parts.iter().enumerate() {
            let (b, b_scale) = part.factors.as_ref().map_or(Ok((null(), null())), |f| self.expand(f, dtype))?;
            let (gain, offset) = (self.floats_or_null(part.gain.as_ref())?, self.floats_or_null(part.offset.as_ref())?);
            let table = abi::Part {
                b,
                b_scale,
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
        let (a, place) = self.array(vocab * rank * dtype.size())?;
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

const NO_ADAPTER: abi::Adapter = abi::Adapter {
    sites: null(),
    norms: null(),
    embedding: NO_EMBEDDING,
    embedding_rows: NO_ROWS,
    head_rows: NO_ROWS,
    most_rank: 0,
    reserved: 0,
};

/// Where in each table its pointers stand.
const SITE_POINTERS: [usize; 3] = [offset_of!(abi::SiteDelta, a), offset_of!(abi::SiteDelta, scale), offset_of!(abi::SiteDelta, parts)];
const PART_POINTERS: [usize; 4] =
    [offset_of!(abi::Part, b), offset_of!(abi::Part, b_scale), offset_of!(abi::Part, gain), offset_of!(abi::Part, offset)];
const ADAPTER_POINTERS: [usize; 9] = [
    offset_of!(abi::Adapter, sites),
    offset_of!(abi::Adapter, norms),
    offset_of!(abi::Adapter, embedding.a),
    offset_of!(abi::Adapter, embedding.b),
    offset_of!(abi::Adapter, embedding.gain),
    offset_of!(abi::Adapter, embedding_rows.rows),
    offset_of!(abi::Adapter, embedding_rows.tokens),
    offset_of!(abi::Adapter, head_rows.rows),
    offset_of!(abi::Adapter, head_rows.tokens),
];

/// Writes tables and finds the pointers in them.
struct Tables<'a> {
    memory: &'a mut [u8],
    fix_ups: Vec<FixUp>,
}

impl Tables<'_> {
    /// `tables` at byte `offset`; each has `pointers` that hold numbers of arrays, 0 = NULL.
    fn put<T: Plain>(&mut self, offset: usize, tables: &[T], pointers: &[usize]) {
        put(self.memory, offset, tables);
        for table in 0..tables.len() {
            for pointer in pointers {
                let at = offset + table * size_of::<T>() + pointer;
                let bytes = self.memory[at..].first_chunk().copied().unwrap_or_default();
                let array = usize::from_ne_bytes(bytes);
                if array != 0 {
                    self.fix_ups.push(FixUp { at, array });
                }
            }
        }
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
