//! Penalties as the kernels know them: each token once, with what it is worth.

use crate::cuda::abi::CountedToken;
use crate::sampler::Penalties;

/// Adds the tokens below `vocab` that `penalties` touch to `counted`.
#[allow(clippy::float_cmp, reason = "1 means off")]
pub fn fold(penalties: &Penalties, vocab: usize, counted: &mut Vec<CountedToken>) {
    let (scope, length) = penalties.counted();
    let scope = if penalties.subtracts() { sorted(scope, vocab) } else { Vec::new() };
    let subtract = |count: usize| if count == 0 { 0.0 } else { penalties.worth(count, length) };
    if penalties.repetition == 1.0 {
        let token = |run: &[u32]| CountedToken { id: run[0], repetition: 1.0, subtract: subtract(run.len()) };
        return counted.extend(scope.chunk_by(|a, b| a == b).map(token));
    }
    // What is counted is part of what is repeated, so the runs of one are met in the order of the other.
    let mut runs = scope.chunk_by(|a, b| a == b).peekable();
    for run in sorted(&penalties.history, vocab).chunk_by(|a, b| a == b) {
        let count = runs.next_if(|counted| counted[0] == run[0]).map_or(0, <[u32]>::len);
        counted.push(CountedToken { id: run[0], repetition: penalties.repetition, subtract: subtract(count) });
    }
}

fn sorted(ids: &[u32], vocab: usize) -> Vec<u32> {
    let mut sorted: Vec<u32> = ids.iter().copied().filter(|&id| (id as usize) < vocab).collect();
    sorted.sort_unstable();
    sorted
}
