//! What constraints allow each sampled row, found on the host while the device computes the logits.
//!
//! Several rows of one sequence may stand on guesses: then a matcher is asked what it would allow if the guesses were
//! right, and follows only what was chosen in the end.

use crate::constraint::matcher::Matcher;
use crate::constraint::sample::beside_bans;
use crate::sampler::RowSampling;
use crate::session::core::Step;
use std::borrow::Cow;
use std::time::{Duration, Instant};

/// One sampled row.
pub enum RowPlan<'a> {
    /// It is sampled as it says, among the ids of a mask if there is one: its place in [`Plan::masks`].
    Sampled(Cow<'a, RowSampling>, Option<usize>),
    /// No token can follow, and why.
    Refused(String),
    /// It stands on a guess that its constraint refuses.
    Unreachable,
}

pub struct Plan<'a> {
    /// [M]
    pub rows: Vec<RowPlan<'a>>,
    /// u32 [·, words]: bit `id % 32` of word `id / 32`.
    pub masks: Vec<u32>,
    pub words: usize,
    pub spent: Duration,
}

impl<'a> Plan<'a> {
    pub fn of(step: &Step<'a>, vocab: usize) -> Self {
        let request = step.request;
        let mut plan =
            Self { rows: Vec::with_capacity(request.sampling.len()), masks: Vec::new(), words: vocab.div_ceil(32), spent: Duration::ZERO };
        // Where the row before would leave its matcher if its guess were right.
        let mut ahead: Option<(i32, Matcher)> = None;
        for (i, sampling) in request.sampling.iter().enumerate() {
            let Some(matcher) = &step.matchers[i] else {
                plan.rows.push(RowPlan::Sampled(Cow::Borrowed(sampling), None));
                continue;
            };
            let started = Instant::now();
            let handle = request.constraints[i];
            let row = match u32::try_from(request.follows[i]) {
                Err(_) => {
                    ahead = None;
                    plan.row(sampling, &mut matcher.lock())
                }
                Ok(guess) => {
                    let known = ahead.take().filter(|(of, _)| *of == handle).map(|(_, matcher)| matcher);
                    let mut state = known.unwrap_or_else(|| matcher.lock().clone());
                    if state.commit(guess).is_ok() {
                        let row = plan.row(sampling, &mut state);
                        ahead = Some((handle, state));
                        row
                    } else {
                        RowPlan::Unreachable
                    }
                }
            };
            plan.rows.push(row);
            plan.spent += started.elapsed();
        }
        plan
    }

    fn row(&mut self, sampling: &'a RowSampling, matcher: &mut Matcher) -> RowPlan<'a> {
        match matcher.mask() {
            Err(why) => RowPlan::Refused(why),
            Ok(mask) => {
                let at = self.masks.len() / self.words;
                self.masks.extend(mask.iter().copied().chain(std::iter::repeat(0)).take(self.words));
                RowPlan::Sampled(beside_bans(mask, sampling), Some(at))
            }
        }
    }
}
