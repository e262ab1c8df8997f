//! From a row of logits to a token. Order: repetition penalty, temperature, top-k, top-p, draw.
//!
//! Probabilities are summed in double precision, so that the TypeScript reference in tests/reference/ draws the same
//! tokens. Log-probabilities are those after all processing. A NaN logit counts as −∞; infinite ones share everything.

pub mod rng;

/// How one row is sampled; mirrors `RowSampling` of `src/core/step.ts`.
#[derive(Debug, Clone)]
pub struct RowSampling {
    pub greedy: bool,
    pub temperature: f32,
    pub top_k: usize,
    pub top_p: f32,
    pub repetition_penalty: f32,
    pub seed: u64,
    pub choice: u32,
    pub position: u32,
    pub logprob: bool,
    /// Ids seen in prompt and output; needed when the penalty is not 1.
    pub history: Vec<u32>,
}

/// Stands for a token where no logit was above −∞, as after an adapter that overflowed.
pub const NO_TOKEN: u32 = u32::MAX;

/// A chosen token; `logprob` is NaN where it was not asked for, and beside [`NO_TOKEN`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampled {
    pub token: u32,
    pub logprob: f32,
}

/// Buffers reused between rows.
#[derive(Default)]
pub struct Sampler {
    logits: Vec<f32>,
    order: Vec<u32>,
    weights: Vec<f64>,
}

impl Sampler {
    /// Chooses a token from `logits` [V]; ids at or above `token_count` ≥ 1 are never chosen. Where no logit is above −∞
    /// it is [`NO_TOKEN`]: one row's trouble must not fail the step of the others.
    #[must_use]
    pub fn sample(&mut self, logits: &[f32], token_count: usize, row: &RowSampling) -> Sampled {
        self.logits.clear();
        let usable = &logits[..token_count.min(logits.len())];
        self.logits.extend(usable.iter().map(|&logit| if logit.is_nan() { f32::NEG_INFINITY } else { logit }));
        penalise(&mut self.logits, row);
        if !row.greedy {
            self.logits.iter_mut().for_each(|logit| *logit /= row.temperature);
        }
        if highest(&self.logits) == f32::NEG_INFINITY {
            return Sampled { token: NO_TOKEN, logprob: f32::NAN };
        }
        if row.greedy {
            let token = argmax(&self.logits);
            let logprob = if row.logprob { log_softmax_at(&self.logits, token) } else { f32::NAN };
            return Sampled { token, logprob };
        }
        self.draw(row)
    }

    /// Draws from `self.logits`, penalised and tempered.
    fn draw(&mut self, row: &RowSampling) -> Sampled {
        let logits = &self.logits;
        let k = if row.top_k == 0 { logits.len() } else { row.top_k.min(logits.len()) };
        self.order.clear();
        self.order.extend(0..u32::try_from(logits.len()).unwrap_or(u32::MAX));
        // Highest first, lowest id first among equals: the same order in every implementation.
        let rank = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if k < self.order.len() {
            self.order.select_nth_unstable_by(k, rank);
            self.order.truncate(k);
        }
        let filtered = k < logits.len() || row.top_p < 1.0;
        if filtered {
            self.order.sort_unstable_by(rank);
        }
        let top = highest(logits);
        self.weights.clear();
        self.weights.extend(self.order.iter().map(|&id| weight(logits[id as usize], top)));
        let mut total: f64 = self.weights.iter().sum();
        if row.top_p < 1.0 {
            let keep = nucleus(&self.weights, total * f64::from(row.top_p));
            self.weights.truncate(keep);
            total = self.weights.iter().sum();
        }
        let goal = rng::uniform(row.seed, row.choice, row.position) * total;
        let mut reached = 0.0;
        let mut chosen = self.weights.len() - 1;
        for (i, weight) in self.weights.iter().enumerate() {
            reached += weight;
            if reached > goal {
                chosen = i;
                break;
            }
        }
        #[allow(clippy::cast_possible_truncation)]
        let logprob = if row.logprob { (self.weights[chosen] / total).ln() as f32 } else { f32::NAN };
        Sampled { token: self.order[chosen], logprob }
    }
}

/// How many of the descending `weights` it takes to reach `goal`; at least one.
fn nucleus(weights: &[f64], goal: f64) -> usize {
    let mut reached = 0.0;
    for (i, weight) in weights.iter().enumerate() {
        reached += weight;
        if reached >= goal {
            return i + 1;
        }
    }
    weights.len()
}

/// Divides positive and multiplies negative logits of seen tokens, once per distinct id. Source: CTRL (arXiv 1909.05858).
fn penalise(logits: &mut [f32], row: &RowSampling) {
    #[allow(clippy::float_cmp)]
    if row.repetition_penalty == 1.0 {
        return;
    }
    let mut seen: Vec<u32> = row.history.clone();
    seen.sort_unstable();
    seen.dedup();
    for id in seen {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit = if *logit > 0.0 { *logit / row.repetition_penalty } else { *logit * row.repetition_penalty };
        }
    }
}

/// The highest logit; the lowest id among equals.
fn argmax(logits: &[f32]) -> u32 {
    let top = highest(logits);
    #[allow(clippy::float_cmp)]
    let index = logits.iter().position(|&logit| logit == top).unwrap_or(0);
    u32::try_from(index).unwrap_or(0)
}

fn highest(logits: &[f32]) -> f32 {
    // Sixteen maxima side by side, which the compiler keeps in vector registers; a plain fold is one long chain.
    let (blocks, rest) = logits.as_chunks::<16>();
    let mut tops = [f32::NEG_INFINITY; 16];
    for block in blocks {
        for (top, &logit) in tops.iter_mut().zip(block) {
            *top = if logit > *top { logit } else { *top };
        }
    }
    tops.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// `e^(logit − top)`, and 1 for the top itself where it is infinite.
fn weight(logit: f32, top: f32) -> f64 {
    #[allow(clippy::float_cmp)]
    if logit == top { 1.0 } else { f64::from(logit - top).exp() }
}

fn log_softmax_at(logits: &[f32], token: u32) -> f32 {
    let top = highest(logits);
    let chosen = logits[token as usize];
    let total: f64 = logits.iter().map(|&logit| weight(logit, top)).sum();
    #[allow(clippy::cast_possible_truncation, clippy::float_cmp)]
    let logprob = if chosen == top { -total.ln() } else { f64::from(chosen - top) - total.ln() } as f32;
    logprob
}
