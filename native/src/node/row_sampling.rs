//! How a row is sampled, as JavaScript says it, and its checked plain form.

use crate::error::{Code, Error, Result};
use crate::sampler::{Logprobs, Penalties, RowSampling, Scope};
use napi::bindgen_prelude::{BigInt, Either, Float32Array, Null, Uint32Array};
use napi_derive::napi;

#[napi(object, object_to_js = false)]
pub struct RowSamplingObject {
    pub greedy: bool,
    pub temperature: f64,
    pub top_k: u32,
    pub top_p: f64,
    pub min_p: f64,
    pub typical_p: f64,
    pub penalties: Either<RowPenaltiesObject, Null>,
    pub bias: Either<RowBiasObject, Null>,
    pub banned: Either<Uint32Array, Null>,
    pub seed: BigInt,
    pub choice: u32,
    pub position: u32,
    pub logprobs: Either<LogprobOptionsObject, Null>,
    pub slot: i32,
    pub constraint: i32,
    pub follows: i32,
}

#[napi(object, object_to_js = false)]
pub struct RowPenaltiesObject {
    pub repetition: f64,
    pub presence: f64,
    pub frequency: f64,
    pub scope: String,
    pub history: Uint32Array,
    pub prompt_length: u32,
}

#[napi(object, object_to_js = false)]
pub struct RowBiasObject {
    pub ids: Uint32Array,
    pub values: Float32Array,
}

#[napi(object, object_to_js = false)]
pub struct LogprobOptionsObject {
    pub of: String,
    pub top: u32,
}

impl RowSamplingObject {
    /// A copy that no longer depends on the caller's arrays; `slot`, `constraint` and `follows` are left behind.
    pub fn into_sampling(self) -> Result<RowSampling> {
        Ok(RowSampling {
            greedy: self.greedy,
            temperature: positive("temperature", self.temperature)?,
            top_k: self.top_k as usize,
            top_p: share("topP", self.top_p, false)?,
            min_p: share("minP", self.min_p, true)?,
            typical_p: share("typicalP", self.typical_p, false)?,
            penalties: given(self.penalties).map(RowPenaltiesObject::into_penalties).transpose()?,
            bias: given(self.bias).map_or(Ok(Vec::new()), RowBiasObject::into_pairs)?,
            banned: given(self.banned).map_or(Vec::new(), |ids| ids.to_vec()),
            seed: self.seed.get_u64().1,
            choice: self.choice,
            position: self.position,
            logprobs: given(self.logprobs).map(LogprobOptionsObject::into_logprobs).transpose()?,
        })
    }
}

impl RowPenaltiesObject {
    fn into_penalties(self) -> Result<Penalties> {
        let (history, prompt_length) = (self.history.to_vec(), self.prompt_length as usize);
        if prompt_length > history.len() {
            let most = history.len();
            return Err(refused("penalties.promptLength", &format!("at most the {most} ids of the history"), prompt_length));
        }
        Ok(Penalties {
            repetition: positive("penalties.repetition", self.repetition)?,
            presence: finite("penalties.presence", self.presence)?,
            frequency: finite("penalties.frequency", self.frequency)?,
            scope: match self.scope.as_str() {
                "output" => Scope::Output,
                "sequence" => Scope::Sequence,
                other => return Err(refused("penalties.scope", "output or sequence", other)),
            },
            history,
            prompt_length,
        })
    }
}

impl RowBiasObject {
    fn into_pairs(self) -> Result<Vec<(u32, f32)>> {
        if self.ids.len() != self.values.len() {
            return Err(refused("bias.values", &format!("{} values as there are ids", self.ids.len()), self.values.len()));
        }
        if let Some(value) = self.values.iter().find(|value| !value.is_finite()) {
            return Err(refused("bias.values", "finite values", value));
        }
        Ok(self.ids.iter().copied().zip(self.values.iter().copied()).collect())
    }
}

impl LogprobOptionsObject {
    fn into_logprobs(self) -> Result<Logprobs> {
        let raw = match self.of.as_str() {
            "raw" => true,
            "processed" => false,
            other => return Err(refused("logprobs.of", "raw or processed", other)),
        };
        Ok(Logprobs { raw, top: self.top as usize })
    }
}

fn given<T>(value: Either<T, Null>) -> Option<T> {
    match value {
        Either::A(value) => Some(value),
        Either::B(_) => None,
    }
}

fn refused(field: &str, expected: &str, got: impl std::fmt::Display) -> Error {
    Error::new(Code::StepFailed, format!("sampling.{field}: expected {expected}, got {got}"))
}

fn finite(field: &str, value: f64) -> Result<f64> {
    if value.is_finite() { Ok(value) } else { Err(refused(field, "a finite number", value)) }
}

/// Judged as float32: what underflows to 0 would divide by it.
#[allow(clippy::cast_possible_truncation)]
fn positive(field: &str, value: f64) -> Result<f32> {
    let narrowed = value as f32;
    if narrowed.is_finite() && narrowed > 0.0 { Ok(narrowed) } else { Err(refused(field, "a finite float32 above 0", value)) }
}

#[allow(clippy::cast_possible_truncation)]
fn share(field: &str, value: f64, or_zero: bool) -> Result<f32> {
    let narrowed = value as f32;
    let above = narrowed > 0.0 || or_zero && narrowed >= 0.0;
    let expected = if or_zero { "a float32 from 0 to 1" } else { "a float32 above 0 and at most 1" };
    if above && narrowed <= 1.0 { Ok(narrowed) } else { Err(refused(field, expected, value)) }
}
