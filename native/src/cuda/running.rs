//! A step that was queued on the device: what comes of it once the device has come past its last copy.

use super::device::Device;
use super::loader::DeviceAdapter;
use super::pages::StepPages;
use super::sampling::{Chosen, Copies, CopiesPool, Plan, RowPlan};
use super::stream::Event;
use crate::constraint::store::{ConstraintStore, InUse};
use crate::error::Result;
use crate::sampler::NO_TOKEN;
use crate::session::context::StepContext;
use crate::session::core::{Running, Step};
use crate::session::step::StepResult;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// When the device came to the end of the step before; steps of one engine share it.
#[derive(Clone, Default)]
pub struct LastEnd(Arc<Mutex<Option<Instant>>>);

/// What a step's work on the device uses: its adapters and its KV blocks, whose pages are others' only behind it.
pub struct Uses {
    pub context: StepContext<DeviceAdapter>,
    pub _pages: StepPages,
}

/// Holds what a step uses until the step's own event is done, whatever was queued behind it.
struct Held {
    /// Behind all of the step's work.
    done: Event,
    _uses: Arc<Uses>,
}

/// One step on its way through the device. The pinned ends of its copies are its alone: the step behind it has others.
pub struct DeviceStep {
    device: Device,
    held: Held,
    rows: Vec<Row>,
    returned: usize,
    constraints: Arc<ConstraintStore>,
    copies: Copies,
    pool: CopiesPool,
    began: Instant,
    last_end: LastEnd,
    masking: Duration,
}

/// What becomes of a logits row once the device has its token.
enum Row {
    Scored,
    Sampled { follows: i32, matcher: Option<InUse>, refused: Option<String> },
}

impl Drop for Held {
    fn drop(&mut self) {
        // A step that nobody waited for. Where the device cannot tell, it has failed as a whole.
        let _ = self.done.wait();
    }
}

impl LastEnd {
    /// How long the device was at a step that was begun at `began` and ended now.
    fn ends(&self, began: Instant) -> Duration {
        let now = Instant::now();
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        now - before.map_or(began, |before| before.max(began))
    }
}

impl DeviceStep {
    /// `done` was recorded behind all that was queued for `step`, `copies` among it.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        device: &Device,
        uses: &Arc<Uses>,
        step: &Step<'_>,
        plan: Plan<'_>,
        (copies, pool): (Copies, CopiesPool),
        done: Event,
        (began, last_end): (Instant, LastEnd),
    ) -> Self {
        let request = step.request;
        let masking = plan.spent;
        let mut sampled = plan.rows.into_iter().zip(step.matchers).zip(&request.follows);
        let row = |scored: bool| match if scored { None } else { sampled.next() } {
            Some(((plan, matcher), &follows)) => {
                let refused = if let RowPlan::Refused(why) = plan { Some(why) } else { None };
                Row::Sampled { follows, matcher: matcher.clone(), refused }
            }
            None => Row::Scored,
        };
        let rows = request.scores.iter().map(Option::is_some).map(row).collect();
        Self {
            device: device.clone(),
            held: Held { done, _uses: uses.clone() },
            rows,
            returned: request.return_logits.len(),
            constraints: step.constraints.clone(),
            copies,
            pool,
            began,
            last_end,
            masking,
        }
    }

    /// The results row by row, as sampling on the host gives them: matchers take what was chosen, and a row on which one fails
    /// takes those with it that stand on its token.
    fn settle(&mut self, chosen: Vec<Chosen>) -> StepResult {
        let mut result = StepResult::with_rows(self.rows.len());
        let mut before = NO_TOKEN;
        for (found, row) in chosen.into_iter().zip(&self.rows) {
            let Row::Sampled { follows, matcher, refused } = row else {
                result.push(found.token, &found.likeliest);
                continue;
            };
            if u32::try_from(*follows).is_ok_and(|guess| guess != before) {
                before = NO_TOKEN;
                result.skip();
                continue;
            }
            let token = found.token.token;
            let taken = match (refused, matcher) {
                (Some(why), _) => Err(why.clone()),
                (None, Some(matcher)) if token != NO_TOKEN => {
                    let started = Instant::now();
                    let taken = matcher.lock().commit(token);
                    self.masking += started.elapsed();
                    taken
                }
                _ => Ok(()),
            };
            before = if taken.is_ok() { token } else { NO_TOKEN };
            match taken {
                Ok(()) => result.push(found.token, &found.likeliest),
                Err(why) => {
                    if let Some(matcher) = matcher {
                        self.constraints.give_up(matcher);
                    }
                    result.fail(why);
                }
            }
        }
        result
    }
}

impl Running for DeviceStep {
    fn finish(mut self: Box<Self>) -> Result<StepResult> {
        self.device.make_current()?;
        self.held.done.wait()?;
        let masks = self.masking;
        let run = self.last_end.ends(self.began).saturating_sub(masks);
        let started = Instant::now();
        let chosen = self.copies.chosen(self.rows.len())?;
        let mut result = self.settle(chosen);
        result.logits = self.copies.logits(self.returned)?;
        result.run_seconds = run.as_secs_f64();
        result.mask_seconds = self.masking.as_secs_f64();
        result.sample_seconds = (masks + started.elapsed()).as_secs_f64();
        // Pages of what was released meanwhile are others' from here, before anybody hears of the results.
        self.pool.give(self.copies);
        Ok(result)
    }
}
