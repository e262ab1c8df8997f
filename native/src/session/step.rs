//! What one step is asked and what it answers, row by row.

use super::context::StepBatch;
use crate::error::{Code, Error, Result};
use crate::sampler::{NO_TOKEN, RowSampling, Sampled};

/// A token whose log-probability is wanted, and how many of the likeliest beside it.
#[derive(Debug, Clone, Copy)]
pub struct Score {
    pub token: u32,
    pub top: usize,
}

/// One step's work: the batch, and what becomes of each of its logits rows.
pub struct StepRequest {
    pub batch: StepBatch,
    /// Of the rows that are sampled, in order. [M]
    pub sampling: Vec<RowSampling>,
    /// Sequence slot that remembers the sampled token, or −1. [M]
    pub slots: Vec<i32>,
    /// Matcher that each sampled row obeys, or −1. [M]
    pub constraints: Vec<i32>,
    /// Token that the sampled row before must have chosen for this one to be sampled, or −1. [M]
    pub follows: Vec<i32>,
    /// What is scored on each logits row; None = the row is sampled. [L]
    pub scores: Vec<Option<Score>>,
    /// Logits rows whose logits come back: indices below L, ascending. [R]
    pub return_logits: Vec<usize>,
}

/// The likeliest tokens of each row: those of row i are `indptr[i] .. indptr[i + 1]` of `ids` and `logprobs`.
pub struct TopLists {
    pub indptr: Vec<i32>,
    pub ids: Vec<u32>,
    pub logprobs: Vec<f32>,
}

/// What came out of each logits row.
pub struct StepResult {
    /// Sampled or scored; `NO_TOKEN` where no logit was above −∞, and where a row stood on a wrong guess. [L]
    pub tokens: Vec<u32>,
    /// NaN where not asked for. [L]
    pub logprobs: Vec<f32>,
    pub top: TopLists,
    /// f32 [R, V]; None when R is 0.
    pub logits: Option<Vec<f32>>,
    /// Logits rows whose constraint allowed no token, and why.
    pub failures: Vec<(usize, String)>,
    pub run_seconds: f64,
    /// Masks included.
    pub sample_seconds: f64,
    pub mask_seconds: f64,
}

impl StepRequest {
    /// Refuses rows that do not add up, and ids that a vocabulary of `vocab` lacks.
    pub fn check(&self, vocab: usize) -> Result<()> {
        let rows = self.batch.logits_rows.len();
        if self.scores.len() != rows {
            return Err(refused("scoredTokens", &format!("{rows} entries, one for each of logitsRows"), self.scores.len()));
        }
        let sampled = self.scores.iter().filter(|score| score.is_none()).count();
        if [self.sampling.len(), self.slots.len(), self.constraints.len(), self.follows.len()] != [sampled; 4] {
            return Err(refused("sampling", &format!("{sampled} rows"), self.sampling.len()));
        }
        for score in self.scores.iter().flatten() {
            below("scoredTokens", score.token as usize, vocab)?;
            at_most("scoredTops", score.top, vocab)?;
        }
        for row in &self.sampling {
            check_bias(&row.bias, vocab)?;
            at_most("sampling.logprobs.top", row.logprobs.map_or(0, |logprobs| logprobs.top), vocab)?;
        }
        let ascending = self.return_logits.is_sorted_by(|a, b| a < b);
        match self.return_logits.last() {
            Some(&last) if !ascending || last >= rows => {
                Err(refused("returnLogits", &format!("ascending indices below {rows}"), format!("{:?}", self.return_logits)))
            }
            _ => Ok(()),
        }
    }
}

impl StepResult {
    /// An empty one with room for `rows`.
    #[must_use]
    pub fn with_rows(rows: usize) -> Self {
        let mut indptr = Vec::with_capacity(rows + 1);
        indptr.push(0);
        Self {
            tokens: Vec::with_capacity(rows),
            logprobs: Vec::with_capacity(rows),
            top: TopLists { indptr, ids: Vec::new(), logprobs: Vec::new() },
            logits: None,
            failures: Vec::new(),
            run_seconds: 0.0,
            sample_seconds: 0.0,
            mask_seconds: 0.0,
        }
    }

    /// Adds the next row, for which there is no token.
    pub fn fail(&mut self, why: String) {
        self.failures.push((self.tokens.len(), why));
        self.skip();
    }

    /// Adds the next row, which stood on a wrong guess.
    pub fn skip(&mut self) {
        self.push(Sampled { token: NO_TOKEN, logprob: f32::NAN }, &[]);
    }

    /// Adds the next row.
    pub fn push(&mut self, row: Sampled, likeliest: &[(u32, f32)]) {
        self.tokens.push(row.token);
        self.logprobs.push(row.logprob);
        self.top.ids.extend(likeliest.iter().map(|&(id, _)| id));
        self.top.logprobs.extend(likeliest.iter().map(|&(_, logprob)| logprob));
        self.top.indptr.push(i32::try_from(self.top.ids.len()).unwrap_or(i32::MAX));
    }
}

/// Each id once, below `vocab`.
fn check_bias(bias: &[(u32, f32)], vocab: usize) -> Result<()> {
    let mut ids: Vec<u32> = bias.iter().map(|&(id, _)| id).collect();
    ids.sort_unstable();
    if let Some(&last) = ids.last() {
        below("sampling.bias.ids", last as usize, vocab)?;
    }
    match ids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(refused("sampling.bias.ids", "each id once", format!("{} twice", pair[0]))),
        None => Ok(()),
    }
}

fn below(field: &str, id: usize, vocab: usize) -> Result<()> {
    if id < vocab { Ok(()) } else { Err(refused(field, &format!("ids below {vocab}"), id)) }
}

fn at_most(field: &str, count: usize, vocab: usize) -> Result<()> {
    if count <= vocab { Ok(()) } else { Err(refused(field, &format!("at most {vocab}"), count)) }
}

fn refused(field: &str, expected: &str, got: impl std::fmt::Display) -> Error {
    Error::new(Code::StepFailed, format!("{field}: expected {expected}, got {got}"))
}
