//! The step ABI's JavaScript objects and their plain forms.

use crate::error::{Code, Error, Result};
use crate::sampler::RowSampling;
use crate::session::context::StepBatch;
use crate::session::engine::{StepRequest, StepResult};
use napi::bindgen_prelude::{BigInt, Float32Array, Int32Array, Uint32Array};
use napi_derive::napi;

#[napi(object, object_to_js = false)]
pub struct AdapterTermObject {
    pub adapter: u32,
    pub weight: f64,
}

#[napi(object, object_to_js = false)]
pub struct RowSamplingObject {
    pub greedy: bool,
    pub temperature: f64,
    pub top_k: u32,
    pub top_p: f64,
    pub repetition_penalty: f64,
    pub seed: BigInt,
    pub choice: u32,
    pub position: u32,
    pub logprob: bool,
    pub slot: i32,
    pub history: Uint32Array,
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
    pub return_logits: bool,
}

#[napi(object, object_from_js = false, use_nullable = true)]
pub struct StepOutputObject {
    pub tokens: Uint32Array,
    pub logprobs: Float32Array,
    pub logits: Option<Float32Array>,
    pub run_seconds: f64,
    pub sample_seconds: f64,
}

impl StepBatchObject {
    /// A copy that no longer depends on the caller's arrays.
    #[allow(clippy::cast_possible_truncation)]
    pub fn into_request(self) -> Result<StepRequest> {
        let mut slots = Vec::with_capacity(self.sampling.len());
        let mut sampling = Vec::with_capacity(self.sampling.len());
        for row in self.sampling {
            let positive = |name: &str, value: f64| {
                // Judged as float32: what underflows to 0 would divide by it.
                let narrowed = value as f32;
                if narrowed.is_finite() && narrowed > 0.0 {
                    Ok(narrowed)
                } else {
                    Err(Error::new(Code::StepFailed, format!("sampling.{name}: expected a finite float32 above 0, got {value}")))
                }
            };
            slots.push(row.slot);
            sampling.push(RowSampling {
                greedy: row.greedy,
                temperature: positive("temperature", row.temperature)?,
                top_k: row.top_k as usize,
                top_p: positive("topP", row.top_p)?,
                repetition_penalty: positive("repetitionPenalty", row.repetition_penalty)?,
                seed: row.seed.get_u64().1,
                choice: row.choice,
                position: row.position,
                logprob: row.logprob,
                history: row.history.to_vec(),
            });
        }
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
            return_logits: self.return_logits,
        })
    }
}

impl From<StepResult> for StepOutputObject {
    fn from(result: StepResult) -> Self {
        Self {
            tokens: result.sampled.iter().map(|s| s.token).collect::<Vec<_>>().into(),
            logprobs: result.sampled.iter().map(|s| s.logprob).collect::<Vec<_>>().into(),
            logits: result.logits.map(Into::into),
            run_seconds: result.run_seconds,
            sample_seconds: result.sample_seconds,
        }
    }
}
