//! Work that each thread has a run of for itself, so that it reads memory in order and knows what comes next; whoever is
//! done takes what others have not come to.

use std::sync::atomic::{AtomicUsize, Ordering};

pub struct Shares(Vec<Share>);

struct Share {
    next: AtomicUsize,
    end: usize,
}

impl Shares {
    /// `0 .. costs.len()` in runs of about the same cost, one for each of `threads` > 0.
    pub fn new(costs: impl ExactSizeIterator<Item = usize> + Clone, threads: usize) -> Self {
        let (count, all) = (costs.len(), costs.clone().sum::<usize>());
        let (mut ends, mut before) = (Vec::with_capacity(threads), 0);
        for (at, cost) in costs.enumerate() {
            // An item belongs to the thread in whose share its middle lies.
            while ends.len() + 1 < threads && (2 * before + cost) * threads >= 2 * all * (ends.len() + 1) {
                ends.push(at);
            }
            before += cost;
        }
        ends.resize(threads, count);
        let starts = std::iter::once(0).chain(ends.iter().copied());
        Self(starts.zip(&ends).map(|(first, &end)| Share { next: AtomicUsize::new(first), end }).collect())
    }

    /// The next item for thread `worker`: each is drawn once, by one thread.
    pub fn draw(&self, worker: usize) -> Option<usize> {
        self.from(worker).find_map(|share| Some(share.next.fetch_add(1, Ordering::Relaxed)).filter(|&at| at < share.end))
    }

    /// Has thread `worker` take items until none is left; with each comes the one that will most likely follow.
    pub fn draw_all(&self, worker: usize, mut take: impl FnMut(usize, Option<usize>)) {
        while let Some(item) = self.draw(worker) {
            take(item, self.peek(worker));
        }
    }

    /// What thread `worker` will draw next if nobody else does first.
    pub fn peek(&self, worker: usize) -> Option<usize> {
        self.from(worker).find_map(|share| Some(share.next.load(Ordering::Relaxed)).filter(|&at| at < share.end))
    }

    fn from(&self, worker: usize) -> impl Iterator<Item = &Share> {
        self.0[worker..].iter().chain(&self.0[..worker])
    }
}

#[cfg(test)]
mod tests {
    use super::Shares;

    fn drawn(shares: &Shares, worker: usize) -> Vec<usize> {
        std::iter::from_fn(|| shares.draw(worker)).collect()
    }

    #[test]
    fn runs_cost_about_the_same() {
        for count in 0..20 {
            for threads in 1..6 {
                let costs: Vec<usize> = (0..count).map(|at| 1 + at * 7 % 5).collect();
                let shares = Shares::new(costs.iter().copied(), threads);
                let runs: Vec<usize> = shares.0.iter().map(|share| share.end).collect();
                assert!(runs.is_sorted());
                assert_eq!(runs.last(), Some(&count));
                let (all, mut first) = (costs.iter().sum::<usize>(), 0);
                for end in runs {
                    let own: usize = costs[first..end].iter().sum();
                    assert!(own <= all.div_ceil(threads) + 5, "{own} of {all}, {threads} threads");
                    first = end;
                }
            }
        }
    }

    #[test]
    fn whoever_draws_each_item_is_drawn_once() {
        for worker in 0..3 {
            let shares = Shares::new(std::iter::repeat_n(1, 7), 3);
            assert_eq!(shares.peek(worker), Some([0, 2, 5][worker]));
            let all = drawn(&shares, worker);
            assert_eq!(all[0], [0, 2, 5][worker]);
            let mut sorted = all;
            sorted.sort_unstable();
            assert_eq!(sorted, (0..7).collect::<Vec<_>>());
            assert!((0..3).all(|other| shares.draw(other).is_none() && shares.peek(other).is_none()));
        }
    }
}
