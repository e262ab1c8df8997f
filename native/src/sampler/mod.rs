//! From a row of logits to a token. Order: penalties, bias, what is forbidden, temperature, top-k, top-p, min-p,
//! typical-p, draw.
//!
//! Probabilities are summed in double precision, so that the TypeScript reference in tests/reference/ draws the same
//! tokens. A NaN logit counts as −∞; infinite ones share everything.

mod candidates;
mod forbid;
mod logprobs;
mod penalties;
pub mod rng;

use candidates::Candidates;
use logprobs::LogSoftmax;
pub use penalties::{Penalties, Scope};

/// How one row is sampled; mirrors `RowSampling` of `src/core/step.ts`.
#[derive(Debug, Clone)]
pub struct RowSampling {
    pub greedy: bool,
    pub temperature: f32,
    pub top_k: usize,
    pub top_p: f32,
    pub min_p: f32,
    pub typical_p: f32,
    pub penalties: Option<Penalties>,
    /// Added to the logits of these ids.
    pub bias: Vec<(u32, f32)>,
    /// Ids that must not be chosen.
    pub banned: Vec<u32>,
    pub seed: u64,
    pub choice: u32,
    pub position: u32,
    pub logprobs: Option<Logprobs>,
}

impl Default for RowSampling {
    /// Greedy, with everything else off.
    fn default() -> Self {
        Self {
            greedy: true,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            penalties: None,
            bias: Vec::new(),
            banned: Vec::new(),
            seed: 0,
            choice: 0,
            position: 0,
            logprobs: None,
        }
    }
}

impl RowSampling {
    /// Whether logits are changed before temperature, apart from a mask.
    fn adjusts(&self) -> bool {
        self.penalties.is_some() || !self.bias.is_empty() || !self.banned.is_empty()
    }
}

/// Which log-probabilities of a row are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logprobs {
    /// The model's own, before any processing; else those after all of it.
    pub raw: bool,
    /// How many of the likeliest tokens are reported beside the chosen one.
    pub top: usize,
}

/// Stands for a token where no logit was above −∞, as after an adapter that overflowed.
pub const NO_TOKEN: u32 = u32::MAX;

/// A chosen token; `logprob` is NaN where it was not asked for, and beside [`NO_TOKEN`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampled {
    pub token: u32,
    pub logprob: f32,
}

impl Sampled {
    const NONE: Self = Self { token: NO_TOKEN, logprob: f32::NAN };
}

/// Buffers reused between rows.
#[derive(Default)]
pub struct Sampler {
    processed: Vec<f32>,
    candidates: Candidates,
    ids: Vec<u32>,
    likeliest: Vec<(u32, f32)>,
}

impl Sampler {
    /// Chooses a token from `logits` [V]; ids at or above `token_count` ≥ 1 are never chosen, nor those whose bit of
    /// `mask` (bit `id % 32` of word `id / 32`) is 0. Where no logit is above −∞ it is [`NO_TOKEN`]: one row's trouble
    /// must not fail the step of the others.
    #[must_use]
    pub fn sample(&mut self, logits: &[f32], token_count: usize, row: &RowSampling, mask: Option<&[u32]>) -> Sampled {
        self.likeliest.clear();
        let own = &logits[..token_count.min(logits.len())];
        if row.greedy && !row.adjusts() && mask.is_none() {
            return self.pick(own, own, row);
        }
        let mut processed = std::mem::take(&mut self.processed);
        processed.clear();
        processed.extend(own.iter().map(|&logit| if logit.is_nan() { f32::NEG_INFINITY } else { logit }));
        self.adjust(&mut processed, row, mask);
        let sampled = if row.greedy { self.pick(own, &processed, row) } else { self.draw(own, &mut processed, row) };
        self.processed = processed;
        sampled
    }

    /// The model's own log-probability of `token` given `logits` [V], among ids below `token_count`. Where no logit is
    /// above −∞ the token is [`NO_TOKEN`].
    #[must_use]
    pub fn score(&mut self, logits: &[f32], token_count: usize, token: u32, top: usize) -> Sampled {
        self.likeliest.clear();
        let own = &logits[..token_count.min(logits.len())];
        if logprobs::highest(own) == f32::NEG_INFINITY {
            return Sampled::NONE;
        }
        Sampled { token, logprob: self.report(own, token, top) }
    }

    /// The likeliest tokens of the row handled last and their log-probabilities, likeliest first, the lowest id first
    /// among equals: as many as were asked for, or as many as there were above −∞.
    #[must_use]
    pub fn likeliest(&self) -> &[(u32, f32)] {
        &self.likeliest
    }

    /// Penalties, bias, what is forbidden.
    fn adjust(&mut self, logits: &mut [f32], row: &RowSampling, mask: Option<&[u32]>) {
        if let Some(penalties) = &row.penalties {
            penalties.apply(logits, &mut self.ids);
        }
        for &(id, bias) in &row.bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        forbid::ids(logits, &row.banned);
        if let Some(mask) = mask {
            forbid::unless_set(logits, mask);
        }
    }

    /// The highest of `processed`.
    fn pick(&mut self, own: &[f32], processed: &[f32], row: &RowSampling) -> Sampled {
        let Some(token) = logprobs::argmax(processed) else { return Sampled::NONE };
        let logprob = match row.logprobs {
            Some(Logprobs { raw, top }) => self.report(if raw { own } else { processed }, token, top),
            None => f32::NAN,
        };
        Sampled { token, logprob }
    }

    /// Draws from `processed`, which the temperature changes.
    fn draw(&mut self, own: &[f32], processed: &mut [f32], row: &RowSampling) -> Sampled {
        for logit in processed.iter_mut() {
            *logit /= row.temperature;
        }
        if logprobs::highest(processed) == f32::NEG_INFINITY {
            return Sampled::NONE;
        }
        self.candidates.select(processed, row);
        let (token, logprob) = self.candidates.draw(rng::uniform(row.seed, row.choice, row.position));
        let logprob = match row.logprobs {
            Some(Logprobs { raw: true, top }) => self.report(own, token, top),
            Some(Logprobs { raw: false, top }) => {
                self.candidates.likeliest(processed, top, &mut self.ids, &mut self.likeliest);
                logprob
            }
            None => f32::NAN,
        };
        Sampled { token, logprob }
    }

    /// Log-probability of `token` under the softmax of `logits`, whose `top` likeliest are kept.
    fn report(&mut self, logits: &[f32], token: u32, top: usize) -> f32 {
        let Some(softmax) = LogSoftmax::of(logits) else { return f32::NAN };
        logprobs::likeliest(logits, top, &mut self.ids);
        self.likeliest.extend(self.ids.iter().map(|&id| (id, softmax.at(logits[id as usize]))));
        logits.get(token as usize).map_or(f32::NEG_INFINITY, |&logit| softmax.at(logit))
    }
}
