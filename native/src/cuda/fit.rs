//! How an adapter's image fits pages: which of its arrays lie together, and how many pages side by side each such group
//! needs. An array is never torn apart; one that is longer than a page needs a run of neighbours.

use super::image::{ImageMap, Placement};
use crate::error::{Code, Error, Result};

/// Arrays keep the image's order and, within a run, their distances, so that a run is one copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fit {
    /// Pages of each run, the longest first.
    runs: Vec<usize>,
    /// Of each array: its run, and its byte within.
    places: Vec<(usize, usize)>,
}

impl Fit {
    /// For pages of `page_bytes`, a multiple of what arrays are aligned to.
    #[must_use]
    pub fn of(map: &ImageMap, page_bytes: usize) -> Self {
        let mut lengths: Vec<usize> = Vec::new();
        let mut places = Vec::with_capacity(map.arrays().len());
        // Of the image: where the current run begins, and where it is full.
        let (mut from, mut until) = (0, 0);
        for array in map.arrays() {
            if lengths.is_empty() || array.end > until {
                let pages = array.len().div_ceil(page_bytes).max(1);
                lengths.push(pages);
                (from, until) = (array.start, array.start.saturating_add(pages * page_bytes));
            }
            places.push((lengths.len() - 1, array.start - from));
        }
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|&run| std::cmp::Reverse(lengths[run]));
        let mut ranks = vec![0; order.len()];
        for (rank, &run) in order.iter().enumerate() {
            ranks[run] = rank;
        }
        for place in &mut places {
            place.0 = ranks[place.0];
        }
        Self { runs: order.iter().map(|&run| lengths[run]).collect(), places }
    }

    /// How many neighbouring pages each run needs, the longest first.
    #[must_use]
    pub fn runs(&self) -> &[usize] {
        &self.runs
    }

    /// Where the arrays lie in pages at `addresses`, those of the runs one after the other.
    ///
    /// # Errors
    /// `ERR_NATIVE` for fewer pages than the runs have.
    pub fn place(&self, addresses: &[usize]) -> Result<Placement> {
        let mut first = 0;
        let bases = self.runs.iter().map(|pages| {
            let base = addresses.get(first).copied();
            first += pages;
            base
        });
        let bases: Option<Vec<usize>> = bases.collect();
        let few = || Error::new(Code::Native, format!("{} pages for an image that needs {:?}", addresses.len(), self.runs));
        let bases = bases.filter(|_| first <= addresses.len()).ok_or_else(few)?;
        Ok(Placement::of(self.places.iter().map(|&(run, byte)| bases[run] + byte).collect()))
    }
}
