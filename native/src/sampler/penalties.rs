//! Penalties on tokens that were there before.

/// Which occurrences presence and frequency penalties count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those in the output.
    Output,
    /// Those in prompt and output; counts are divided by the length of both.
    Sequence,
}

/// Penalties of one row; mirrors `RowPenalties` of `src/core/step.ts`.
#[derive(Debug, Clone)]
pub struct Penalties {
    pub repetition: f32,
    pub presence: f64,
    pub frequency: f64,
    pub scope: Scope,
    /// Ids of prompt and output.
    pub history: Vec<u32>,
    /// How many of them are the prompt; at most all.
    pub prompt_length: usize,
}

impl Penalties {
    /// Repetition first, then presence and frequency. Ids without a logit are ignored. `seen` is scratch.
    #[allow(clippy::float_cmp, clippy::cast_possible_truncation)]
    pub fn apply(&self, logits: &mut [f32], seen: &mut Vec<u32>) {
        if self.repetition != 1.0 {
            sort_into(&self.history, seen);
            seen.dedup();
            for id in seen.iter() {
                if let Some(logit) = logits.get_mut(*id as usize) {
                    *logit = repeated(*logit, self.repetition);
                }
            }
        }
        if self.subtracts() {
            let (counted, length) = self.counted();
            sort_into(counted, seen);
            for run in seen.chunk_by(|a, b| a == b) {
                if let Some(logit) = logits.get_mut(run[0] as usize) {
                    *logit = (f64::from(*logit) - self.worth(run.len(), length)) as f32;
                }
            }
        }
    }

    /// Whether presence or frequency counts.
    #[must_use]
    pub fn subtracts(&self) -> bool {
        self.presence != 0.0 || self.frequency != 0.0
    }

    /// The ids that presence and frequency count, and what their counts are divided by.
    #[must_use]
    pub fn counted(&self) -> (&[u32], usize) {
        match self.scope {
            Scope::Output => (&self.history[self.prompt_length..], 1),
            Scope::Sequence => (&self.history[..], self.history.len()),
        }
    }

    /// What is subtracted from the logit of an id that occurs `count` times. In double precision, rounded once it is
    /// subtracted: the TypeScript reference does the same.
    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn worth(&self, count: usize, length: usize) -> f64 {
        self.presence + self.frequency * (count as f64 / length as f64)
    }
}

fn sort_into(ids: &[u32], sorted: &mut Vec<u32>) {
    sorted.clear();
    sorted.extend_from_slice(ids);
    sorted.sort_unstable();
}

/// Divides positive and multiplies negative logits. Source: CTRL (arXiv 1909.05858).
fn repeated(logit: f32, penalty: f32) -> f32 {
    if logit > 0.0 { logit / penalty } else { logit * penalty }
}
