//! What operators know of the step: immutable while the session runs, checked in full before.

use crate::adapters::resident::Adapter;
use crate::adapters::store::{AdapterStore, Resident};
use crate::error::{Code, Error, Result};
use crate::kernels::attention::PAGE;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// The step ABI as it came over the border; shapes are in `src/core/step.ts`.
#[derive(Debug, Default)]
pub struct StepBatch {
    pub tokens: Vec<i32>,
    pub cu_seqlens: Vec<i32>,
    pub context_lens: Vec<i32>,
    pub block_tables: Vec<i32>,
    pub max_blocks: usize,
    pub slot_mapping: Vec<i32>,
    pub segment_indptr: Vec<i32>,
    pub segment_adapters: Vec<i32>,
    /// (handle, weight) lists.
    pub adapter_table: Vec<Vec<(u32, f32)>>,
    pub logits_rows: Vec<i32>,
}

/// Bounds that a batch is checked against.
#[derive(Debug, Clone, Copy)]
pub struct StepLimits {
    pub max_batch_tokens: usize,
    pub max_sequences: usize,
    pub max_model_len: usize,
    pub kv_pages: usize,
}

impl StepLimits {
    /// Blocks of the longest context.
    #[must_use]
    pub fn most_blocks(&self) -> usize {
        self.max_model_len.div_ceil(PAGE)
    }
}

/// Rows of one adapter combination, and which of the rows that reach the head are among them.
pub struct Segment<A = Adapter> {
    pub rows: Range<usize>,
    pub logits_rows: Range<usize>,
    pub terms: Vec<(Arc<A>, f32)>,
}

/// One row: its absolute position and where its sequence's pages are listed.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub position: usize,
    /// First entry of the sequence's block table.
    pub table: usize,
    /// KV slot to write, or None.
    pub slot: Option<usize>,
}

/// Facts of one step. Rows of the graph beyond `rows` are padding that operators leave zero.
pub struct StepContext<A = Adapter> {
    pub rows: Vec<Row>,
    /// Each sequence's rows, of which it has at least one.
    pub sequences: Vec<Range<usize>>,
    /// `[sequences, max_blocks]`
    pub block_tables: Vec<i32>,
    pub max_blocks: usize,
    /// Segments that some adapter touches; base rows are in none.
    pub segments: Vec<Segment<A>>,
    /// Rows that reach the head.
    pub logits_rows: usize,
}

impl<A: Resident> StepContext<A> {
    /// Bounds that every segment's rows keep: those that reach the head, or all.
    #[must_use]
    pub fn row_count(&self, at_head: bool) -> usize {
        if at_head { self.logits_rows } else { self.rows.len() }
    }

    /// Checks every number of `batch` and resolves its adapters.
    ///
    /// # Errors
    /// `ERR_STEP_FAILED` naming the array and what was expected.
    pub fn build(batch: &StepBatch, limits: &StepLimits, store: &AdapterStore<A>) -> Result<Self> {
        let total = batch.tokens.len();
        let sequences = batch.context_lens.len();
        if total == 0 || total > limits.max_batch_tokens {
            return Err(bad("tokens", format!("expected 1 to {} rows, got {total}", limits.max_batch_tokens)));
        }
        if sequences == 0 || sequences > limits.max_sequences {
            return Err(bad("contextLens", format!("expected 1 to {} sequences, got {sequences}", limits.max_sequences)));
        }
        if batch.slot_mapping.len() != total {
            return Err(bad("slotMapping", format!("expected {total} entries, got {}", batch.slot_mapping.len())));
        }
        if batch.block_tables.len() != sequences.saturating_mul(batch.max_blocks) {
            return Err(bad(
                "blockTables",
                format!("expected {sequences} × {} entries, got {}", batch.max_blocks, batch.block_tables.len()),
            ));
        }
        let bounds = ascending("cuSeqlens", &batch.cu_seqlens, sequences, total)?;
        let rows = rows_of(batch, limits, &bounds)?;
        for (i, &row) in batch.logits_rows.iter().enumerate() {
            let after = i == 0 || batch.logits_rows[i - 1] < row;
            if !after || usize::try_from(row).map_or(true, |row| row >= total) {
                return Err(bad("logitsRows", format!("expected ascending rows below {total}, got {row}")));
            }
        }
        let segments = segments_of(batch, store, total)?;
        let sequences = bounds.windows(2).map(|pair| pair[0]..pair[1]).collect();
        Ok(Self {
            rows,
            sequences,
            block_tables: batch.block_tables.clone(),
            max_blocks: batch.max_blocks,
            segments,
            logits_rows: batch.logits_rows.len(),
        })
    }
}

fn rows_of(batch: &StepBatch, limits: &StepLimits, bounds: &[usize]) -> Result<Vec<Row>> {
    let mut rows = Vec::with_capacity(batch.tokens.len());
    for (n, &context) in batch.context_lens.iter().enumerate() {
        let count = bounds[n + 1] - bounds[n];
        let context = usize::try_from(context).ok().filter(|&c| c >= count && c <= limits.max_model_len);
        let Some(context) = context.filter(|_| count > 0) else {
            return Err(bad(
                "contextLens",
                format!("sequence {n}: expected {count} to {} positions, got {}", limits.max_model_len, batch.context_lens[n]),
            ));
        };
        let table = n * batch.max_blocks;
        let pages = context.div_ceil(PAGE);
        if pages > batch.max_blocks {
            return Err(bad(
                "blockTables",
                format!("sequence {n}: {context} positions need {pages} blocks, its table has {}", batch.max_blocks),
            ));
        }
        for &page in &batch.block_tables[table..table + pages] {
            if usize::try_from(page).map_or(true, |page| page >= limits.kv_pages) {
                return Err(bad("blockTables", format!("sequence {n}: expected blocks below {}, got {page}", limits.kv_pages)));
            }
        }
        for i in 0..count {
            let slot = batch.slot_mapping[bounds[n] + i];
            let slot = match slot {
                -1 => None,
                slot => Some(usize::try_from(slot).ok().filter(|&slot| slot / PAGE < limits.kv_pages).ok_or_else(|| {
                    bad("slotMapping", format!("row {}: expected −1 or a slot below {}, got {slot}", bounds[n] + i, limits.kv_pages * PAGE))
                })?),
            };
            rows.push(Row { position: context - count + i, table, slot });
        }
    }
    let mut slots: Vec<usize> = rows.iter().filter_map(|row| row.slot).collect();
    slots.sort_unstable();
    // Two rows writing one slot would race.
    if let Some(&[slot, _]) = slots.windows(2).find_map(|pair| pair.first_chunk::<2>().filter(|[a, b]| a == b)) {
        return Err(bad("slotMapping", format!("slot {slot} is written by two rows")));
    }
    Ok(rows)
}

fn segments_of<A: Resident>(batch: &StepBatch, store: &AdapterStore<A>, total: usize) -> Result<Vec<Segment<A>>> {
    let bounds = ascending("segmentIndptr", &batch.segment_indptr, batch.segment_adapters.len(), total)?;
    let mut segments = Vec::new();
    for (s, &entry) in batch.segment_adapters.iter().enumerate() {
        if entry == -1 {
            continue;
        }
        let list = usize::try_from(entry).ok().and_then(|entry| batch.adapter_table.get(entry)).ok_or_else(|| {
            bad("segmentAdapters", format!("segment {s}: expected −1 or an entry below {}, got {entry}", batch.adapter_table.len()))
        })?;
        let mut terms = Vec::with_capacity(list.len());
        for &(handle, weight) in list {
            if !weight.is_finite() {
                return Err(bad("adapterTable", format!("entry {entry}: expected a finite weight, got {weight}")));
            }
            terms.push((store.get(handle)?, weight));
        }
        #[allow(clippy::float_cmp)]
        if terms.iter().any(|(adapter, weight)| adapter.stands_alone() && (list.len() > 1 || *weight != 1.0)) {
            let what = format!("entry {entry}: an adapter with DoRA or replaced weights stands alone with weight 1");
            return Err(bad("adapterTable", what));
        }
        let rows = bounds[s]..bounds[s + 1];
        segments.push(Segment { logits_rows: at_head(&batch.logits_rows, &rows), rows, terms });
    }
    Ok(segments)
}

impl<A> Segment<A> {
    /// The segment's rows as a matrix has them: of those that reach the head, or of all.
    #[must_use]
    pub fn rows_of(&self, at_head: bool) -> Range<usize> {
        if at_head { self.logits_rows.clone() } else { self.rows.clone() }
    }
}

/// Which of the ascending `logits_rows` lie in `rows`.
fn at_head(logits_rows: &[i32], rows: &Range<usize>) -> Range<usize> {
    let before = |bound: usize| logits_rows.partition_point(|&row| usize::try_from(row).is_ok_and(|row| row < bound));
    before(rows.start)..before(rows.end)
}

/// Prefix sums from 0 to `total`, never falling, one more than `parts`.
fn ascending(name: &str, values: &[i32], parts: usize, total: usize) -> Result<Vec<usize>> {
    let bounds: Option<Vec<usize>> = values.iter().map(|&v| usize::try_from(v).ok()).collect();
    bounds
        .filter(|b| b.len() == parts + 1 && b.first() == Some(&0) && b.last() == Some(&total) && b.is_sorted())
        .ok_or_else(|| bad(name, format!("expected {} ascending bounds from 0 to {total}, got {values:?}", parts + 1)))
}

fn bad(array: &str, what: String) -> Error {
    Error::new(Code::StepFailed, format!("step batch, {array}: {what}"))
}

/// Where the session leaves the step's facts for its operators.
pub struct ContextSlot<A = Adapter>(Mutex<Option<Arc<StepContext<A>>>>);

impl<A> Default for ContextSlot<A> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<A> ContextSlot<A> {
    pub fn set(&self, context: Option<Arc<StepContext<A>>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = context;
    }

    /// # Errors
    /// `ERR_NATIVE` outside a step.
    pub fn get(&self) -> Result<Arc<StepContext<A>>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(|| Error::new(Code::Native, "an operator ran outside a step"))
    }
}
