//! Log-probabilities of logits, and which of them are highest.

use std::cmp::Ordering;

/// Lists longer than this are selected rather than inserted into.
const SHORT: usize = 64;

/// What logits are divided by to be probabilities. A NaN logit counts as −∞; infinite ones share everything.
pub struct LogSoftmax {
    highest: f32,
    log_total: f64,
}

impl LogSoftmax {
    /// None when no logit is above −∞.
    #[must_use]
    pub fn of(logits: &[f32]) -> Option<Self> {
        let highest = highest(logits);
        if highest == f32::NEG_INFINITY {
            return None;
        }
        let total: f64 = logits.iter().map(|&logit| if logit.is_nan() { 0.0 } else { weight(logit, highest) }).sum();
        Some(Self { highest, log_total: total.ln() })
    }

    /// Log-probability of a token with this logit.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::float_cmp)]
    pub fn at(&self, logit: f32) -> f32 {
        if logit.is_nan() {
            return f32::NEG_INFINITY;
        }
        let below = if logit == self.highest { 0.0 } else { f64::from(logit - self.highest) };
        (below - self.log_total) as f32
    }
}

/// `e^(logit − highest)`, and 1 for the highest itself where it is infinite.
#[must_use]
pub fn weight(logit: f32, highest: f32) -> f64 {
    #[allow(clippy::float_cmp)]
    if logit == highest { 1.0 } else { f64::from(logit - highest).exp() }
}

/// The highest logit; −∞ when there is none or all are NaN.
#[must_use]
pub fn highest(logits: &[f32]) -> f32 {
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

/// The id of the highest logit, the lowest among equals; none when no logit is above −∞.
#[must_use]
pub fn argmax(logits: &[f32]) -> Option<u32> {
    let top = highest(logits);
    #[allow(clippy::float_cmp)]
    let index = logits.iter().position(|&logit| logit == top && top > f32::NEG_INFINITY)?;
    u32::try_from(index).ok()
}

/// Order of ids by their logits, which hold no NaN: highest first, lowest id first among equals.
fn by_rank(logits: &[f32]) -> impl Fn(&u32, &u32) -> Ordering {
    |a, b| logits[*b as usize].partial_cmp(&logits[*a as usize]).unwrap_or(Ordering::Equal).then(a.cmp(b))
}

/// Puts the ids of the `count` highest logits above −∞ into `ids`, in order of rank.
pub fn likeliest(logits: &[f32], count: usize, ids: &mut Vec<u32>) {
    ids.clear();
    if count == 0 {
        return;
    }
    let possible = (0u32..).zip(logits);
    if count > SHORT {
        ids.extend(possible.filter(|&(_, &logit)| logit > f32::NEG_INFINITY).map(|(id, _)| id));
        if count < ids.len() {
            ids.select_nth_unstable_by(count, by_rank(logits));
            ids.truncate(count);
        }
        ids.sort_unstable_by(by_rank(logits));
        return;
    }
    // What must be passed to enter the list: false for NaN, and for an equal of a lower id.
    let mut floor = f32::NEG_INFINITY;
    for (id, &logit) in possible {
        if logit > floor {
            let place = ids.partition_point(|&other| logits[other as usize] >= logit);
            ids.truncate(count - 1);
            ids.insert(place, id);
            if let Some(&last) = ids.get(count - 1) {
                floor = logits[last as usize];
            }
        }
    }
}
