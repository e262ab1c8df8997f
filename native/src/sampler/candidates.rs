//! The tokens that may still be drawn, and the filters that narrow them down.

use super::RowSampling;
use super::logprobs::{highest, likeliest, weight};

/// Buffers reused between rows.
#[derive(Default)]
pub struct Candidates {
    /// Highest logit first if anything was filtered, else every id in order.
    ids: Vec<u32>,
    /// Of `ids`: proportional to their probabilities, 1 for the likeliest of all.
    weights: Vec<f64>,
    total: f64,
    ranked: bool,
    /// Of every id: what its logit ranks by, then the id, so that sorting reads nothing else.
    keys: Vec<u64>,
    /// −ln of the probabilities, then their distances from the entropy.
    distances: Vec<f64>,
    order: Vec<u32>,
}

impl Candidates {
    /// Takes every token of `logits`, penalised and tempered, with at least one above −∞; then top-k, top-p, min-p,
    /// typical-p narrow them down, each with the probabilities that the one before left.
    pub fn select(&mut self, logits: &[f32], row: &RowSampling) {
        let filtered = row.top_p < 1.0 || row.min_p > 0.0 || row.typical_p < 1.0;
        let count = if row.top_k == 0 { logits.len() } else { row.top_k.min(logits.len()) };
        self.ranked = filtered || count < logits.len();
        self.ids.clear();
        if self.ranked {
            self.rank(logits, count);
        } else {
            self.ids.extend((0u32..).zip(logits).map(|(id, _)| id));
        }
        let top = highest(logits);
        self.weights.clear();
        self.weights.extend(self.ids.iter().map(|&id| weight(logits[id as usize], top)));
        if row.top_p < 1.0 {
            let goal = self.weights.iter().sum::<f64>() * f64::from(row.top_p);
            self.keep_first(reach(&self.weights, goal));
        }
        if row.min_p > 0.0 {
            let least = f64::from(row.min_p);
            self.keep_first(self.weights.partition_point(|&weight| weight >= least));
        }
        if row.typical_p < 1.0 {
            self.keep_typical(f64::from(row.typical_p));
        }
        self.total = self.weights.iter().sum();
    }

    /// Takes the `count` first by rank, in that order: highest logit first, lowest id first among equals.
    fn rank(&mut self, logits: &[f32], count: usize) {
        self.keys.clear();
        self.keys.extend((0u32..).zip(logits).map(|(id, &logit)| u64::from(falling(logit)) << 32 | u64::from(id)));
        if count < self.keys.len() {
            self.keys.select_nth_unstable(count);
            self.keys.truncate(count);
        }
        self.keys.sort_unstable();
        #[allow(clippy::cast_possible_truncation)]
        self.ids.extend(self.keys.iter().map(|&key| key as u32));
    }

    fn keep_first(&mut self, count: usize) {
        self.ids.truncate(count);
        self.weights.truncate(count);
    }

    /// Keeps the tokens whose information is nearest to the expected, until their share reaches `mass`; those as near
    /// as the last stay too. Source: locally typical sampling (arXiv 2202.00666).
    fn keep_typical(&mut self, mass: f64) {
        let total: f64 = self.weights.iter().sum();
        self.distances.clear();
        self.distances.extend(self.weights.iter().map(|weight| -(weight / total).ln()));
        let shares = self.weights.iter().zip(&self.distances).filter(|(weight, _)| **weight > 0.0);
        let entropy: f64 = shares.map(|(weight, information)| weight / total * information).sum();
        self.distances.iter_mut().for_each(|distance| *distance = (*distance - entropy).abs());
        let distances = &self.distances;
        self.order.clear();
        self.order.extend((0u32..).zip(distances).map(|(index, _)| index));
        self.order.sort_unstable_by(|&a, &b| distances[a as usize].total_cmp(&distances[b as usize]).then(a.cmp(&b)));
        let mut reached = 0.0;
        let mut farthest = f64::INFINITY;
        for &index in &self.order {
            reached += self.weights[index as usize];
            if reached >= mass * total {
                farthest = distances[index as usize];
                break;
            }
        }
        let mut distances = self.distances.iter();
        self.ids.retain(|_| distances.next().is_some_and(|&distance| distance <= farthest));
        let mut distances = self.distances.iter();
        self.weights.retain(|_| distances.next().is_some_and(|&distance| distance <= farthest));
    }

    /// The token that `share` of all probability, in [0, 1), falls on, and its log-probability.
    #[must_use]
    pub fn draw(&self, share: f64) -> (u32, f32) {
        let goal = share * self.total;
        let mut reached = 0.0;
        let passed = self.weights.iter().position(|weight| {
            reached += weight;
            reached > goal
        });
        let chosen = passed.unwrap_or(self.weights.len() - 1);
        (self.ids[chosen], self.logprob(chosen))
    }

    /// The `count` likeliest of those that can be drawn. `logits` are those of `select`; `ids` is scratch.
    pub fn likeliest(&self, logits: &[f32], count: usize, ids: &mut Vec<u32>, list: &mut Vec<(u32, f32)>) {
        if self.ranked {
            let possible = (0..self.ids.len().min(count)).filter(|&index| self.weights[index] > 0.0);
            list.extend(possible.map(|index| (self.ids[index], self.logprob(index))));
        } else {
            likeliest(logits, count, ids);
            let possible = ids.iter().filter(|&&id| self.weights[id as usize] > 0.0);
            list.extend(possible.map(|&id| (id, self.logprob(id as usize))));
        }
    }

    #[allow(clippy::cast_possible_truncation)]
    fn logprob(&self, index: usize) -> f32 {
        (self.weights[index] / self.total).ln() as f32
    }
}

/// A number that falls where the logit, which is not NaN, rises; both zeros are equal.
fn falling(logit: f32) -> u32 {
    let bits = (logit + 0.0).to_bits();
    if bits >> 31 == 1 { bits } else { !bits & 0x7fff_ffff }
}

/// How many of the descending `weights` it takes to reach `goal`; at least one.
fn reach(weights: &[f64], goal: f64) -> usize {
    let mut reached = 0.0;
    let last = weights.iter().position(|weight| {
        reached += weight;
        reached >= goal
    });
    last.map_or(weights.len(), |index| index + 1)
}
