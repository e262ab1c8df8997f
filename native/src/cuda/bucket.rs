//! Which numbers of rows decode steps are padded to: one captured run serves all steps of a bucket.

use super::step_arrays::{StepArrays, TERMS_PER_ROW};

/// The smallest buckets; behind them each doubling is halved once.
const SMALL: [usize; 4] = [1, 2, 4, 8];

/// Buckets of one engine, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buckets {
    sizes: Vec<usize>,
    most_h: usize,
}

impl Buckets {
    /// 1, 2, 4, 8, 16, 24, 32, 48, 64, 96 … and `max_sequences` itself, the last one. `most_h` is the `h_stride` that runs are
    /// captured with: a step that needs more is run without capture.
    #[must_use]
    pub fn new(max_sequences: usize, most_h: usize) -> Self {
        let doublings = std::iter::successors(Some(16usize), |size| size.checked_mul(2));
        let halved = doublings.flat_map(|size| [size, size.saturating_add(size / 2)]);
        let mut sizes: Vec<usize> = SMALL.into_iter().chain(halved).take_while(|&size| size < max_sequences).collect();
        sizes.push(max_sequences);
        Self { sizes, most_h }
    }

    #[must_use]
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    #[must_use]
    pub fn most_h(&self) -> usize {
        self.most_h
    }

    /// The smallest bucket that holds `rows`.
    #[must_use]
    pub fn of(&self, rows: usize) -> Option<usize> {
        self.sizes.get(self.sizes.partition_point(|&size| size < rows)).copied()
    }

    /// The bucket of a step that a captured run can serve: each sequence has one row, and its adapters fit.
    #[must_use]
    pub fn choose(&self, step: &StepArrays) -> Option<usize> {
        let fits = step.query_tiles.is_empty() && step.long_tiles.is_empty() && step.h_stride <= self.most_h;
        let bucket = self.of(step.rows()).filter(|_| fits)?;
        (step.terms.len() <= bucket * TERMS_PER_ROW).then_some(bucket)
    }
}
