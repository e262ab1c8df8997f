//! A step's facts as the arrays of `lmx_step`, on the host.

use super::abi::{Counts, LONG_TILE_ROWS, QUERY_TILE_ROWS, QueryTile, TILE_ROWS, Term, Tile};
use super::loader::DeviceAdapter;
use crate::error::{Code, Error, Result};
use crate::session::context::{Segment, StepBatch, StepContext, StepLimits};
use std::ops::Range;

/// As many terms as a request may combine, for each row.
pub const TERMS_PER_ROW: usize = 8;
/// Segments of fewer rows are cut into short tiles.
const LONG_FROM: usize = LONG_TILE_ROWS / 2;

/// The arrays of one step; memory is used again by the next. Numbers were checked with the context.
#[derive(Default)]
pub struct StepArrays {
    pub counts: Counts,
    /// As the batch has them. [rows]
    pub tokens: Vec<i32>,
    pub logits_rows: Vec<i64>,
    pub positions: Vec<i32>,
    pub slots: Vec<i32>,
    pub row_sequence: Vec<i32>,
    /// `[sequences, counts.max_blocks]`
    pub block_tables: Vec<i32>,
    pub terms: Vec<Term>,
    pub tiles: Vec<Tile>,
    pub long_tiles: Vec<Tile>,
    pub head_tiles: Vec<Tile>,
    pub query_tiles: Vec<QueryTile>,
    pub single_rows: Vec<i32>,
    pub row_terms: Vec<Tile>,
    pub head_row_terms: Vec<Tile>,
    /// Floats of h that one row needs: highest rank times terms, of the segment that needs most.
    pub h_stride: usize,
}

impl StepArrays {
    #[must_use]
    pub fn rows(&self) -> usize {
        self.positions.len()
    }

    /// Writes the facts of `context`, which was built from `batch` within `limits`.
    ///
    /// # Errors
    /// `ERR_STEP_FAILED` when segments have more terms than tables have room for.
    pub fn fill(&mut self, context: &StepContext<DeviceAdapter>, batch: &StepBatch, limits: &StepLimits) -> Result<()> {
        self.tokens.clone_from(&batch.tokens);
        self.slots.clone_from(&batch.slot_mapping);
        refill(&mut self.logits_rows, batch.logits_rows.iter().map(|&row| i64::from(row)));
        refill(&mut self.positions, context.rows.iter().map(|row| int(row.position)));
        self.fill_sequences(&context.sequences);
        let columns = self.fill_block_tables(context, limits);
        self.fill_segments(context, limits)?;
        self.counts = Counts {
            rows: int(context.rows.len()),
            logits_rows: int(context.logits_rows),
            sequences: int(context.sequences.len()),
            tiles: int(self.tiles.len()),
            long_tiles: int(self.long_tiles.len()),
            head_tiles: int(self.head_tiles.len()),
            query_tiles: int(self.query_tiles.len()),
            single_rows: int(self.single_rows.len()),
            max_blocks: int(columns),
        };
        Ok(())
    }

    fn fill_sequences(&mut self, sequences: &[Range<usize>]) {
        self.row_sequence.clear();
        self.query_tiles.clear();
        self.single_rows.clear();
        for (sequence, rows) in sequences.iter().enumerate() {
            let sequence = int(sequence);
            self.row_sequence.extend(std::iter::repeat_n(sequence, rows.len()));
            if rows.len() == 1 {
                self.single_rows.push(int(rows.start));
                continue;
            }
            let tile = |(first_row, rows)| QueryTile { first_row, rows, sequence, reserved: 0 };
            self.query_tiles.extend(pieces(rows, QUERY_TILE_ROWS).map(tile));
        }
    }

    /// As many columns as the longest context may need, whatever the batch brought.
    fn fill_block_tables(&mut self, context: &StepContext<DeviceAdapter>, limits: &StepLimits) -> usize {
        let columns = context.max_blocks.min(limits.most_blocks());
        let rows = context.block_tables.chunks_exact(context.max_blocks.max(1));
        refill(&mut self.block_tables, rows.flat_map(|row| row[..columns].iter().copied()));
        columns
    }

    fn fill_segments(&mut self, context: &StepContext<DeviceAdapter>, limits: &StepLimits) -> Result<()> {
        let base = |row: usize| Tile { first_row: int(row), rows: 1, first_term: 0, terms: 0 };
        refill(&mut self.row_terms, (0..context.rows.len()).map(base));
        refill(&mut self.head_row_terms, (0..context.logits_rows).map(base));
        self.terms.clear();
        self.tiles.clear();
        self.long_tiles.clear();
        self.head_tiles.clear();
        self.h_stride = 0;
        // Captured runs know short tiles only, and what they serve is steps of single rows.
        let may_be_long = !self.query_tiles.is_empty();
        for segment in context.segments.iter().filter(|segment| !segment.terms.is_empty() && !segment.rows.is_empty()) {
            let (first_term, terms) = self.add_terms(segment, limits.max_batch_tokens * TERMS_PER_ROW)?;
            let tile = |(first_row, rows)| Tile { first_row, rows, first_term, terms };
            if may_be_long && segment.rows.len() >= LONG_FROM {
                self.long_tiles.extend(pieces(&segment.rows, LONG_TILE_ROWS).map(tile));
            } else {
                self.tiles.extend(pieces(&segment.rows, TILE_ROWS).map(tile));
            }
            self.head_tiles.extend(pieces(&segment.logits_rows, TILE_ROWS).map(tile));
            let at_rows = self.row_terms[segment.rows.clone()].iter_mut();
            for row in at_rows.chain(&mut self.head_row_terms[segment.logits_rows.clone()]) {
                (row.first_term, row.terms) = (first_term, terms);
            }
        }
        Ok(())
    }

    /// First and number of the segment's terms.
    fn add_terms(&mut self, segment: &Segment<DeviceAdapter>, most: usize) -> Result<(i32, i32)> {
        let first = self.terms.len();
        let term =
            |(adapter, weight): &(std::sync::Arc<DeviceAdapter>, f32)| Term { adapter: adapter.address(), weight: *weight, reserved: 0 };
        self.terms.extend(segment.terms.iter().map(term));
        if self.terms.len() > most {
            let what = format!("step batch, adapterTable: expected at most {most} adapters in all segments together, got more");
            return Err(Error::new(Code::StepFailed, what));
        }
        let most_rank = segment.terms.iter().map(|(adapter, _)| adapter.most_rank()).max().unwrap_or(0);
        self.h_stride = self.h_stride.max(most_rank * segment.terms.len());
        Ok((int(first), int(segment.terms.len())))
    }
}

/// `rows` cut into pieces of at most `most`: first row and number of rows.
fn pieces(rows: &Range<usize>, most: usize) -> impl Iterator<Item = (i32, i32)> {
    let end = rows.end;
    rows.clone().step_by(most).map(move |first| (int(first), int(most.min(end - first))))
}

fn refill<T>(array: &mut Vec<T>, values: impl Iterator<Item = T>) {
    array.clear();
    array.extend(values);
}

/// A count or index of a checked batch.
#[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "below limits that fit (StepTables::new)")]
fn int(n: usize) -> i32 {
    n as i32
}
