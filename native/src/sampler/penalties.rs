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
    #[allow(clippy::float_cmp)]
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
        if self.presence != 0.0 || self.frequency != 0.0 {
            let (counted, length) = match self.scope {
                Scope::Output => (&self.history[self.prompt_length..], 1),
                Scope::Sequence => (&self.history[..], self.history.len()),
            };
            sort_into(counted, seen);
            self.subtract_counts(logits, seen, length);
        }
    }

    /// In double precision, rounded once: the TypeScript reference does the same.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    fn subtract_counts(&self, logits: &mut [f32], sorted: &[u32], length: usize) {
        for run in sorted.chunk_by(|a, b| a == b) {
            if let Some(logit) = logits.get_mut(run[0] as usize) {
                let share = run.len() as f64 / length as f64;
                *logit = (f64::from(*logit) - (self.presence + self.frequency * share)) as f32;
            }
        }
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
