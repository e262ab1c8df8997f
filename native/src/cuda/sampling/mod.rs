//! Sampling on the device: rows' wishes are folded into tables, the kernels choose, and what they chose comes back.

mod penalties;
mod plan;
mod tables;

pub use plan::{Plan, RowPlan};

use super::abi;
use super::device::{Device, check};
use super::env::int;
use super::memory::DeviceBuffer;
use super::spaces::grow;
use super::staging::Staging;
use super::stream::Stream;
use crate::error::Result;
use crate::kernels::simd::Dtype;
use crate::sampler::Sampled;
use crate::session::step::StepRequest;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};
use tables::Tables;

/// One engine's sampling. Its device memory is written and read in the order of the steps' stream, so that one set serves all
/// steps; pinned memory is read and written by the host at any time, so that each step in flight has its own ([`Copies`]).
pub struct DeviceSampler {
    device: Device,
    dtype: Dtype,
    vocab: usize,
    token_count: usize,
    /// What each sequence slot sampled last, u32 [slots].
    last_sampled: Arc<DeviceBuffer>,
    tables: Option<Arc<DeviceBuffer>>,
    processed: Option<Arc<DeviceBuffer>>,
    results: Option<Arc<DeviceBuffer>>,
    pool: CopiesPool,
}

/// The pinned ends of one step's copies.
pub struct Copies {
    dtype: Dtype,
    vocab: usize,
    tables_in: Option<Staging>,
    results_out: Option<Staging>,
    logits_out: Option<Staging>,
}

/// Those of steps that are over, to be used again; as many are made as steps are in flight at a time.
#[derive(Clone, Default)]
pub struct CopiesPool(Arc<Mutex<Vec<Copies>>>);

impl CopiesPool {
    /// Of a step that is over.
    pub fn give(&self, copies: Copies) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(copies);
    }

    fn take(&self) -> Option<Copies> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

/// Words of 4 bytes that come back of each row: token, log-probability and the length of its list, which lie in front
/// because every step reads them; then the list.
const ROW_WORDS: usize = 3;
const LIST_WORDS: usize = 2 * abi::MOST_TOP;

/// What came back of one row: its token, and the likeliest with their log-probabilities.
pub struct Chosen {
    pub token: Sampled,
    pub likeliest: Vec<(u32, f32)>,
}

impl DeviceSampler {
    pub fn new(device: &Device, stream: &Stream, dtype: Dtype, vocab: usize, token_count: usize, slots: usize) -> Result<Self> {
        let last_sampled = Arc::new(device.alloc(slots * 4)?);
        stream.zero(&last_sampled)?;
        Ok(Self {
            device: device.clone(),
            dtype,
            vocab,
            token_count,
            last_sampled,
            tables: None,
            processed: None,
            results: None,
            pool: CopiesPool::default(),
        })
    }

    /// For a step that is about to be queued, and where they go when it is over.
    #[must_use]
    pub fn copies(&self) -> (Copies, CopiesPool) {
        let fresh = || Copies { dtype: self.dtype, vocab: self.vocab, tables_in: None, results_out: None, logits_out: None };
        (self.pool.take().unwrap_or_else(fresh), self.pool.clone())
    }

    #[must_use]
    pub fn last_sampled(&self) -> *mut u32 {
        self.last_sampled.ptr().cast()
    }

    /// Queues the sampling of `logits` [rows of the request, vocab], and into `copies` what comes of it.
    ///
    /// # Errors
    /// `ERR_STEP_FAILED` for lists longer than the kernels report, `ERR_DEVICE`.
    pub fn queue(
        &mut self,
        request: &StepRequest,
        plan: &Plan<'_>,
        logits: *mut c_void,
        copies: &mut Copies,
        stream: &Stream,
    ) -> Result<()> {
        let rows = request.scores.len();
        let tables = Tables::fold(request, plan, self.vocab)?;
        let device_tables = grow(&self.device, &mut self.tables, tables.bytes().max(1), stream)?;
        let staging = staging_of(&self.device, &mut copies.tables_in, tables.bytes())?;
        tables.write(staging.bytes_mut()?);
        staging.copy_in(tables.bytes(), &device_tables, 0, stream)?;
        let processed = grow(&self.device, &mut self.processed, rows * self.vocab * 4, stream)?;
        let found = grow(&self.device, &mut self.results, rows * (ROW_WORDS + LIST_WORDS) * 4, stream)?;
        let base = device_tables.ptr();
        let call = abi::Sampling {
            logits: logits.cast_const(),
            processed: processed.ptr().cast(),
            rows_sampling: tables.rows.on(base),
            bias_ids: tables.bias_ids.on(base),
            bias_values: tables.bias_values.on(base),
            banned_ids: tables.banned_ids.on(base),
            counted: tables.counted.on(base),
            masks: tables.masks.on(base),
            last_sampled: self.last_sampled(),
            tokens: word(found.ptr(), 0),
            logprobs: word(found.ptr(), rows),
            top_counts: word(found.ptr(), 2 * rows),
            top_ids: word(found.ptr(), ROW_WORDS * rows),
            top_logprobs: word(found.ptr(), (ROW_WORDS + abi::MOST_TOP) * rows),
            dtype: abi::dtype(self.dtype),
            rows: int(rows)?,
            vocab: int(self.vocab)?,
            token_count: int(self.token_count)?,
        };
        // SAFETY: every array is as large as the call says: logits by the caller's word, tables by `fold`, the others were just
        // made so; all of them live until the stream has come past.
        check(unsafe { abi::lmx_sample(&raw const call, stream.raw()) }, "sampling")?;
        let wanted = rows * (ROW_WORDS + if tables.lists() { LIST_WORDS } else { 0 }) * 4;
        staging_of(&self.device, &mut copies.results_out, wanted)?.copy_out(&found, 0, wanted, stream)?;
        self.queue_logits(&request.return_logits, logits, &processed, copies, stream)
    }

    /// Gathers the rows whose logits come back; what was processed is of no more use then.
    fn queue_logits(
        &self,
        wanted: &[usize],
        logits: *mut c_void,
        scratch: &Arc<DeviceBuffer>,
        copies: &mut Copies,
        stream: &Stream,
    ) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let row_bytes = self.vocab * self.dtype.size();
        for (i, &row) in wanted.iter().enumerate() {
            // SAFETY: rows are below those of the logits (checked with the request); scratch holds as many float32 rows.
            let status = unsafe {
                let (from, to) = (logits.cast::<u8>().add(row * row_bytes), scratch.ptr().add(i * row_bytes));
                abi::lmx_copy(to.cast(), from.cast_const().cast(), row_bytes, stream.raw())
            };
            check(status, "gathering logits")?;
        }
        let bytes = wanted.len() * row_bytes;
        staging_of(&self.device, &mut copies.logits_out, bytes)?.copy_out(scratch, 0, bytes, stream)
    }
}

impl Copies {
    /// What was chosen for each of `rows` rows of the step, once its copies are done.
    pub fn chosen(&mut self, rows: usize) -> Result<Vec<Chosen>> {
        let Some(staging) = self.results_out.as_mut().filter(|_| rows > 0) else { return Ok(Vec::new()) };
        let words = staging.bytes()?.as_chunks::<4>().0;
        let at = |at: usize| words.get(at).map_or(0, |&word| u32::from_ne_bytes(word));
        let row = |i: usize| {
            // Rows that asked for none have none, and then the lists may not have been copied.
            let count = (at(2 * rows + i) as usize).min(abi::MOST_TOP);
            let (ids, logprobs) = (ROW_WORDS * rows + i * abi::MOST_TOP, (ROW_WORDS + abi::MOST_TOP) * rows + i * abi::MOST_TOP);
            Chosen {
                token: Sampled { token: at(i), logprob: f32::from_bits(at(rows + i)) },
                likeliest: (0..count).map(|j| (at(ids + j), f32::from_bits(at(logprobs + j)))).collect(),
            }
        };
        Ok((0..rows).map(row).collect())
    }

    /// The logits that were asked for, `rows` rows, once its copies are done.
    pub fn logits(&mut self, rows: usize) -> Result<Option<Vec<f32>>> {
        let Some(staging) = self.logits_out.as_mut().filter(|_| rows > 0) else { return Ok(None) };
        let mut values = vec![0.0f32; rows * self.vocab];
        crate::adapters::pack::unpack(self.dtype, staging.bytes()?, &mut values);
        Ok(Some(values))
    }
}

/// Word `at` of the buffer at `base`, which holds as many.
fn word<T>(base: *mut u8, at: usize) -> *mut T {
    base.wrapping_add(at * 4).cast()
}

/// `staging` with room for `bytes`.
fn staging_of<'a>(device: &Device, staging: &'a mut Option<Staging>, bytes: usize) -> Result<&'a mut Staging> {
    if staging.as_ref().is_none_or(|found| found.len() < bytes) {
        *staging = None;
    }
    match staging {
        Some(found) => Ok(found),
        None => Ok(staging.insert(Staging::new(device, bytes.next_power_of_two())?)),
    }
}
