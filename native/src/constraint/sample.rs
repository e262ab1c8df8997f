//! Sampling under a constraint.

use super::matcher::Matcher;
use crate::sampler::{NO_TOKEN, RowSampling, Sampled, Sampler};
use std::borrow::Cow;
use std::time::{Duration, Instant};

/// Chooses a token as [`Sampler::sample`] does, among those that `matcher` allows, and takes it; see [`beside_bans`]. `spent` grows by the time that mask and commit took.
///
/// # Errors
/// Why no token can follow; the row's sequence is at an end.
pub fn sample(
    sampler: &mut Sampler,
    logits: &[f32],
    token_count: usize,
    row: &RowSampling,
    matcher: &mut Matcher,
    spent: &mut Duration,
) -> Result<Sampled, String> {
    let started = Instant::now();
    let mask = matcher.mask()?;
    *spent += started.elapsed();
    let row = beside_bans(mask, row);
    let sampled = sampler.sample(logits, token_count, &row, Some(mask));
    if sampled.token != NO_TOKEN {
        let started = Instant::now();
        matcher.commit(sampled.token)?;
        *spent += started.elapsed();
    }
    Ok(sampled)
}

/// `row` as it is sampled among the tokens of `mask`. Where the constraint allows only tokens that the row bans, as when it
/// has nothing more to say before the least length, the constraint wins.
#[must_use]
pub fn beside_bans<'a>(mask: &[u32], row: &'a RowSampling) -> Cow<'a, RowSampling> {
    if allows_only(mask, &row.banned) { Cow::Owned(RowSampling { banned: Vec::new(), ..row.clone() }) } else { Cow::Borrowed(row) }
}

/// Whether every id of `mask` is among `ids`; false when there are no `ids`.
fn allows_only(mask: &[u32], ids: &[u32]) -> bool {
    if ids.is_empty() {
        return false;
    }
    let mut distinct = ids.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let both = distinct.iter().filter(|&&id| mask.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1));
    both.count() == mask.iter().map(|word| word.count_ones() as usize).sum::<usize>()
}
