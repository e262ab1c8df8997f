//! A step's tables on the device: written into pinned memory, brought there by one copy.
//!
//! Arrays lie behind each other as tightly as their lengths permit. In a step that a captured run serves, lengths are the
//! bucket's, so every such step has its arrays at the same addresses; only the block tables, which come last, vary.

use super::abi::{Counts, QueryTile, Step, Term, Tile};
use super::bucket::Buckets;
use super::device::Device;
use super::loader::DeviceAdapter;
use super::memory::DeviceBuffer;
use super::plain::put;
use super::staging::Staging;
use super::step_arrays::{StepArrays, TERMS_PER_ROW};
use super::stream::Stream;
use crate::error::{Code, Error, Result};
use crate::session::context::{StepBatch, StepContext, StepLimits};
use std::sync::Arc;

/// What every array begins at a multiple of.
const ALIGNMENT: usize = 16;

/// What a step's run looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Rows of the graph's input; the step's, or the bucket's.
    pub rows: usize,
    /// Rows that reach the head, likewise.
    pub logits_rows: usize,
    /// Bucket of a step that a captured run can serve.
    pub bucket: Option<usize>,
    /// For `abi::Sgmv`; in a bucket what all its runs are captured with.
    pub h_stride: usize,
    pub has_long: bool,
    /// For `abi::Attention`: rows that are their sequence's only one; in a bucket all of its rows.
    pub single_rows: usize,
    /// Likewise; a bucket has none.
    pub query_tiles: usize,
}

/// Entries that each array has room for.
#[derive(Debug, Clone, Copy)]
struct Room {
    rows: usize,
    logits_rows: usize,
    terms: usize,
    tiles: usize,
    long_tiles: usize,
    head_tiles: usize,
    query_tiles: usize,
    single_rows: usize,
    block_tables: usize,
}

/// Byte offsets of the arrays.
#[derive(Debug, Clone, Copy, Default)]
struct Places {
    counts: usize,
    tokens: usize,
    logits_rows: usize,
    positions: usize,
    slots: usize,
    row_sequence: usize,
    terms: usize,
    tiles: usize,
    long_tiles: usize,
    head_tiles: usize,
    query_tiles: usize,
    single_rows: usize,
    row_terms: usize,
    head_row_terms: usize,
    block_tables: usize,
    end: usize,
}

/// One engine's tables. Device memory is written by copies in the steps' own stream, so that a step's kernels have read
/// theirs before the next step's arrive; two pinned halves let the host write one while the other is still copied.
pub struct StepTables {
    limits: StepLimits,
    arrays: StepArrays,
    halves: [Staging; 2],
    current: usize,
    memory: Arc<DeviceBuffer>,
    token_ids: Arc<DeviceBuffer>,
    places: Places,
}

impl StepTables {
    /// # Errors
    /// `ERR_NATIVE` for limits whose indices leave 32 bits, `ERR_DEVICE` when there is no memory.
    pub fn new(device: &Device, limits: &StepLimits) -> Result<Self> {
        let largest = [limits.max_batch_tokens * TERMS_PER_ROW, limits.max_model_len, limits.max_sequences];
        if largest.iter().any(|&n| i32::try_from(n).is_err()) {
            return Err(Error::new(Code::Native, format!("expected limits whose indices fit 32 bits, got {limits:?}")));
        }
        let bytes = Room::most(limits).places().end;
        Ok(Self {
            limits: *limits,
            arrays: StepArrays::default(),
            halves: [Staging::new(device, bytes)?, Staging::new(device, bytes)?],
            current: 0,
            memory: Arc::new(device.alloc(bytes)?),
            token_ids: Arc::new(device.alloc(most_rows(limits) * size_of::<i64>())?),
            places: Places::default(),
        })
    }

    /// Writes the tables of a step into the pinned half that was used longer ago, once its copy is done. Without `buckets`,
    /// no step is padded.
    ///
    /// # Errors
    /// `ERR_STEP_FAILED` for more terms than there is room for, `ERR_DEVICE` when the device fails.
    pub fn fill(&mut self, context: &StepContext<DeviceAdapter>, batch: &StepBatch, buckets: Option<&Buckets>) -> Result<Shape> {
        self.arrays.fill(context, batch, &self.limits)?;
        let chosen = buckets.and_then(|buckets| buckets.choose(&self.arrays).map(|bucket| (bucket, buckets.most_h())));
        let shape = Shape {
            rows: chosen.map_or(self.arrays.tokens.len(), |(bucket, _)| bucket),
            logits_rows: chosen.map_or(self.arrays.logits_rows.len(), |(bucket, _)| bucket),
            bucket: chosen.map(|(bucket, _)| bucket),
            h_stride: chosen.map_or(self.arrays.h_stride, |(_, most_h)| most_h),
            has_long: !self.arrays.long_tiles.is_empty(),
            single_rows: chosen.map_or(self.arrays.single_rows.len(), |(bucket, _)| bucket),
            query_tiles: self.arrays.query_tiles.len(),
        };
        // What the graph itself reads has numbers in every row: token 0, row 0.
        self.arrays.tokens.resize(shape.rows, 0);
        self.arrays.logits_rows.resize(shape.logits_rows, 0);
        let room = shape.bucket.map_or_else(|| Room::of(&self.arrays), |bucket| Room::of_bucket(bucket, self.arrays.block_tables.len()));
        self.places = room.places();
        self.current ^= 1;
        self.places.write(&self.arrays, self.halves[self.current].bytes_mut()?);
        Ok(shape)
    }

    /// Queues the copy of what was filled last.
    pub fn upload(&mut self, stream: &Stream) -> Result<()> {
        self.halves[self.current].copy_in(self.places.end, &self.memory, 0, stream)
    }

    /// Where the tables filled last lie on the device once they are uploaded.
    #[must_use]
    pub fn step(&self) -> Step {
        let p = &self.places;
        Step {
            counts: self.at(p.counts),
            token_ids: self.token_ids().cast_const(),
            positions: self.at(p.positions),
            slots: self.at(p.slots),
            row_sequence: self.at(p.row_sequence),
            block_tables: self.at(p.block_tables),
            terms: self.at(p.terms),
            tiles: self.at(p.tiles),
            long_tiles: self.at(p.long_tiles),
            head_tiles: self.at(p.head_tiles),
            query_tiles: self.at(p.query_tiles),
            single_rows: self.at(p.single_rows),
            row_terms: self.at(p.row_terms),
            head_row_terms: self.at(p.head_row_terms),
        }
    }

    /// The batch's tokens, i32 [`Shape::rows`]: what `lmx_feed_tokens` reads.
    #[must_use]
    pub fn tokens(&self) -> *const i32 {
        self.at(self.places.tokens)
    }

    /// The graph's `input_ids`, i64 with room for every step and bucket: what `lmx_feed_tokens` writes. The same for all steps.
    #[must_use]
    pub fn token_ids(&self) -> *mut i64 {
        self.token_ids.ptr().cast()
    }

    /// The graph's `logits_rows`, i64 [`Shape::logits_rows`].
    #[must_use]
    pub fn logits_rows(&self) -> *const i64 {
        self.at(self.places.logits_rows)
    }

    /// Device memory of the tables.
    #[must_use]
    pub fn memory(&self) -> &Arc<DeviceBuffer> {
        &self.memory
    }

    fn at<T>(&self, offset: usize) -> *const T {
        self.memory.ptr().wrapping_add(offset).cast_const().cast()
    }
}

impl Room {
    /// Just what `arrays` hold.
    fn of(arrays: &StepArrays) -> Self {
        Self {
            rows: arrays.tokens.len(),
            logits_rows: arrays.logits_rows.len(),
            terms: arrays.terms.len(),
            tiles: arrays.tiles.len(),
            long_tiles: arrays.long_tiles.len(),
            head_tiles: arrays.head_tiles.len(),
            query_tiles: arrays.query_tiles.len(),
            single_rows: arrays.single_rows.len(),
            block_tables: arrays.block_tables.len(),
        }
    }

    /// What any step of `rows` single rows may hold; the last array has its own length.
    fn of_bucket(rows: usize, block_tables: usize) -> Self {
        let terms = rows * TERMS_PER_ROW;
        Self {
            rows,
            logits_rows: rows,
            terms,
            tiles: rows,
            long_tiles: 0,
            head_tiles: rows,
            query_tiles: 0,
            single_rows: rows,
            block_tables,
        }
    }

    /// What any step within `limits` may hold. A tile has a row at least.
    fn most(limits: &StepLimits) -> Self {
        let rows = most_rows(limits);
        let most = Self::of_bucket(rows, limits.max_sequences * limits.most_blocks());
        Self { long_tiles: rows, query_tiles: rows, ..most }
    }

    fn places(&self) -> Places {
        let mut end = 0;
        let mut next = |entries: usize, size: usize| {
            let at = end;
            end = (at + entries * size).next_multiple_of(ALIGNMENT);
            at
        };
        let mut places = Places {
            counts: next(1, size_of::<Counts>()),
            tokens: next(self.rows, size_of::<i32>()),
            logits_rows: next(self.logits_rows, size_of::<i64>()),
            positions: next(self.rows, size_of::<i32>()),
            slots: next(self.rows, size_of::<i32>()),
            row_sequence: next(self.rows, size_of::<i32>()),
            terms: next(self.terms, size_of::<Term>()),
            tiles: next(self.tiles, size_of::<Tile>()),
            long_tiles: next(self.long_tiles, size_of::<Tile>()),
            head_tiles: next(self.head_tiles, size_of::<Tile>()),
            query_tiles: next(self.query_tiles, size_of::<QueryTile>()),
            single_rows: next(self.single_rows, size_of::<i32>()),
            row_terms: next(self.rows, size_of::<Tile>()),
            head_row_terms: next(self.logits_rows, size_of::<Tile>()),
            block_tables: next(self.block_tables, size_of::<i32>()),
            end: 0,
        };
        places.end = end;
        places
    }
}

/// Of a step, and of a bucket, which may have more.
fn most_rows(limits: &StepLimits) -> usize {
    limits.max_batch_tokens.max(limits.max_sequences)
}

impl Places {
    fn write(&self, arrays: &StepArrays, memory: &mut [u8]) {
        put(memory, self.counts, &[arrays.counts]);
        put(memory, self.tokens, &arrays.tokens);
        put(memory, self.logits_rows, &arrays.logits_rows);
        put(memory, self.positions, &arrays.positions);
        put(memory, self.slots, &arrays.slots);
        put(memory, self.row_sequence, &arrays.row_sequence);
        put(memory, self.terms, &arrays.terms);
        put(memory, self.tiles, &arrays.tiles);
        put(memory, self.long_tiles, &arrays.long_tiles);
        put(memory, self.head_tiles, &arrays.head_tiles);
        put(memory, self.query_tiles, &arrays.query_tiles);
        put(memory, self.single_rows, &arrays.single_rows);
        put(memory, self.row_terms, &arrays.row_terms);
        put(memory, self.head_row_terms, &arrays.head_row_terms);
        put(memory, self.block_tables, &arrays.block_tables);
    }
}
