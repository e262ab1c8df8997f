//! The step ABI's JavaScript objects and their plain forms.

use super::row_sampling::RowSamplingObject;
use crate::error::{Code, Error, Result};
use crate::session::context::StepBatch;
use crate::session::step::{Score, StepRequest, StepResult};
use napi::bindgen_prelude::{Float32Array, Int32Array, Uint32Array};
use napi_derive::napi;

#[napi(object, object_to_js = false)]
pub struct AdapterTermObject {
    pub adapter: u32,
    pub weight: f64,
}

#[napi(object, object_to_js = false)]
pub struct StepBatchObject {
    pub tokens: Int32Array,
    pub cu_seqlens: Int32Array,
    pub context_lens: Int32Array,
    pub block_tables: Int32Array,
    pub max_blocks: u32,
    pub slot_mapping: Int32Array,
    pub segment_indptr: Int32Array,
    pub segment_adapters: Int32Array,
    pub adapter_table: Vec<Vec<AdapterTermObject>>,
    pub logits_rows: Int32Array,
    pub sampling: Vec<RowSamplingObject>,
    pub scored_tokens: Int32Array,
    pub scored_tops: Int32Array,
    pub return_logits: Int32Array,
}

/// The likeliest tokens of each row, one row after the other.
#[napi(object, object_from_js = false)]
pub struct TopListsObject {
    pub indptr: Int32Array,
    pub ids: Uint32Array,
    pub logprobs: Float32Array,
}

/// A row whose constraint allowed no token.
#[napi(object, object_from_js = false)]
pub struct RowFailureObject {
    pub row: u32,
    pub message: String,
}

#[napi(object, object_from_js = false, use_nullable = true)]
pub struct StepOutputObject {
    pub tokens: Uint32Array,
    pub logprobs: Float32Array,
    pub top: TopListsObject,
    pub logits: Option<Float32Array>,
    pub failures: Vec<RowFailureObject>,
    pub run_seconds: f64,
    pub sample_seconds: f64,
    pub mask_seconds: f64,
}

impl StepBatchObject {
    /// A copy that no longer depends on the caller's arrays.
    #[allow(clippy::cast_possible_truncation)]
    pub fn into_request(self) -> Result<StepRequest> {
        let scores = scores(&self.scored_tokens, &self.scored_tops)?;
        let mut slots = Vec::with_capacity(self.sampling.len());
        let mut constraints = Vec::with_capacity(self.sampling.len());
        let mut follows = Vec::with_capacity(self.sampling.len());
        let mut sampling = Vec::with_capacity(self.sampling.len());
        for row in self.sampling {
            slots.push(row.slot);
            constraints.push(row.constraint);
            follows.push(row.follows);
            sampling.push(row.into_sampling()?);
        }
        let return_logits = self.return_logits.iter().map(|&row| usize::try_from(row).unwrap_or(usize::MAX)).collect();
        let terms = |list: Vec<AdapterTermObject>| list.into_iter().map(|term| (term.adapter, term.weight as f32)).collect();
        Ok(StepRequest {
            batch: StepBatch {
                tokens: self.tokens.to_vec(),
                cu_seqlens: self.cu_seqlens.to_vec(),
                context_lens: self.context_lens.to_vec(),
                block_tables: self.block_tables.to_vec(),
                max_blocks: self.max_blocks as usize,
                slot_mapping: self.slot_mapping.to_vec(),
                segment_indptr: self.segment_indptr.to_vec(),
                segment_adapters: self.segment_adapters.to_vec(),
                adapter_table: self.adapter_table.into_iter().map(terms).collect(),
                logits_rows: self.logits_rows.to_vec(),
            },
            sampling,
            slots,
            constraints,
            follows,
            scores,
            return_logits,
        })
    }
}

/// What is scored on each logits row; nothing on those that are sampled.
fn scores(tokens: &[i32], tops: &[i32]) -> Result<Vec<Option<Score>>> {
    if tokens.len() != tops.len() {
        let (tokens, tops) = (tokens.len(), tops.len());
        return Err(Error::new(Code::StepFailed, format!("scoredTops: expected {tokens} entries as scoredTokens has, got {tops}")));
    }
    let score = |(&token, &top): (&i32, &i32)| match (u32::try_from(token), usize::try_from(top)) {
        (Ok(token), Ok(top)) => Ok(Some(Score { token, top })),
        (Err(_), Ok(0)) if token == -1 => Ok(None),
        _ => Err(Error::new(
            Code::StepFailed,
            format!("scoredTokens: expected a token and 0 or more alternatives, or −1 and 0, got {token} and {top}"),
        )),
    };
    tokens.iter().zip(tops).map(score).collect()
}

impl From<StepResult> for StepOutputObject {
    fn from(result: StepResult) -> Self {
        let failure = |(row, message): (usize, String)| RowFailureObject { row: u32::try_from(row).unwrap_or(u32::MAX), message };
        Self {
            tokens: result.tokens.into(),
            logprobs: result.logprobs.into(),
            top: TopListsObject { indptr: result.top.indptr.into(), ids: result.top.ids.into(), logprobs: result.top.logprobs.into() },
            logits: result.logits.map(Into::into),
            failures: result.failures.into_iter().map(failure).collect(),
            run_seconds: result.run_seconds,
            sample_seconds: result.sample_seconds,
            mask_seconds: result.mask_seconds,
        }
    }
}
