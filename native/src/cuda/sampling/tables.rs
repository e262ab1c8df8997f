//! A step's sampling as the kernels read it: arrays one behind the other, written in one piece.

use super::penalties;
use super::plan::{Plan, RowPlan};
use crate::cuda::abi;
use crate::cuda::env::int;
use crate::error::{Code, Error, Result};
use crate::sampler::RowSampling;
use crate::session::step::StepRequest;

/// Each array begins at a multiple of it.
const ALIGNMENT: usize = 16;

const SAMPLED: i32 = 0;
const SCORED: i32 = 1;
const NEITHER: i32 = 2;

/// One array and its place.
pub struct Section<T> {
    at: usize,
    values: Vec<T>,
}

pub struct Tables {
    pub rows: Section<abi::RowSampling>,
    pub counted: Section<abi::CountedToken>,
    pub bias_ids: Section<u32>,
    pub bias_values: Section<f32>,
    pub banned_ids: Section<u32>,
    pub masks: Section<u32>,
    bytes: usize,
    lists: bool,
}

impl Tables {
    /// # Errors
    /// `ERR_STEP_FAILED` for lists of the likeliest that are longer than the kernels report.
    pub fn fold(request: &StepRequest, plan: &Plan<'_>, vocab: usize) -> Result<Self> {
        let mut folding = Folding { vocab, ..Folding::default() };
        let mut sampled = plan.rows.iter().zip(&request.slots).zip(&request.follows);
        for score in &request.scores {
            let row = match score {
                Some(score) => {
                    let score_token = score.token;
                    abi::RowSampling { kind: SCORED, score_token, top: top("scoredTops", score.top)?, ..NOTHING }
                }
                None => match sampled.next() {
                    Some(((plan, &slot), &follows)) => abi::RowSampling { slot, follows, ..folding.row(plan)? },
                    // As many as `check` counted.
                    None => break,
                },
            };
            folding.rows.push(row);
        }
        let lists = folding.rows.iter().any(|row| row.top > 0);
        let mut bytes = 0;
        Ok(Self {
            rows: Section::behind(&mut bytes, folding.rows),
            counted: Section::behind(&mut bytes, folding.counted),
            bias_ids: Section::behind(&mut bytes, folding.bias_ids),
            bias_values: Section::behind(&mut bytes, folding.bias_values),
            banned_ids: Section::behind(&mut bytes, folding.banned_ids),
            masks: Section::behind(&mut bytes, plan.masks.clone()),
            bytes,
            lists,
        })
    }

    /// Of all arrays and what aligns them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Some row reports the likeliest.
    #[must_use]
    pub fn lists(&self) -> bool {
        self.lists
    }

    /// `to` is aligned and of at least [`Tables::bytes`].
    pub fn write(&self, to: &mut [u8]) {
        self.rows.write(to);
        self.counted.write(to);
        self.bias_ids.write(to);
        self.bias_values.write(to);
        self.banned_ids.write(to);
        self.masks.write(to);
    }
}

impl<T: Copy> Section<T> {
    fn behind(bytes: &mut usize, values: Vec<T>) -> Self {
        let at = bytes.next_multiple_of(ALIGNMENT);
        *bytes = at + size_of_val(&*values);
        Self { at, values }
    }

    /// The array in device memory that the tables were written to.
    pub fn on(&self, base: *mut u8) -> *const T {
        base.wrapping_add(self.at).cast_const().cast()
    }

    fn write(&self, to: &mut [u8]) {
        let to = &mut to[self.at..self.at + size_of_val(&*self.values)];
        // SAFETY: numbers, as many bytes as the slice, and no two overlap; what pads a struct nobody reads.
        unsafe { std::ptr::copy_nonoverlapping(self.values.as_ptr().cast::<u8>(), to.as_mut_ptr(), to.len()) };
    }
}

/// A row without a token.
const NOTHING: abi::RowSampling = abi::RowSampling {
    seed: 0,
    choice: 0,
    position: 0,
    temperature: 1.0,
    top_p: 1.0,
    min_p: 0.0,
    typical_p: 1.0,
    top_k: 0,
    greedy: 1,
    kind: NEITHER,
    score_token: 0,
    slot: -1,
    follows: -1,
    logprobs: 0,
    top: 0,
    mask: -1,
    first_bias: 0,
    biases: 0,
    first_banned: 0,
    banned: 0,
    first_counted: 0,
    counted: 0,
};

#[derive(Default)]
struct Folding {
    vocab: usize,
    rows: Vec<abi::RowSampling>,
    counted: Vec<abi::CountedToken>,
    bias_ids: Vec<u32>,
    bias_values: Vec<f32>,
    banned_ids: Vec<u32>,
}

impl Folding {
    fn row(&mut self, plan: &RowPlan<'_>) -> Result<abi::RowSampling> {
        match plan {
            RowPlan::Sampled(row, mask) => self.sampled(row, *mask),
            RowPlan::Refused(_) | RowPlan::Unreachable => Ok(NOTHING),
        }
    }

    fn sampled(&mut self, row: &RowSampling, mask: Option<usize>) -> Result<abi::RowSampling> {
        let (first_bias, first_banned, first_counted) = (self.bias_ids.len(), self.banned_ids.len(), self.counted.len());
        for &(id, value) in &row.bias {
            self.bias_ids.push(id);
            self.bias_values.push(value);
        }
        self.banned_ids.extend(row.banned.iter().filter(|&&id| (id as usize) < self.vocab));
        if let Some(found) = &row.penalties {
            penalties::fold(found, self.vocab, &mut self.counted);
        }
        Ok(abi::RowSampling {
            seed: row.seed,
            choice: row.choice,
            position: row.position,
            temperature: row.temperature,
            top_p: row.top_p,
            min_p: row.min_p,
            typical_p: row.typical_p,
            // More than there are ids is as good as all.
            top_k: int(row.top_k.min(self.vocab))?,
            greedy: i32::from(row.greedy),
            kind: SAMPLED,
            logprobs: row.logprobs.map_or(0, |logprobs| if logprobs.raw { 2 } else { 1 }),
            top: top("sampling.logprobs.top", row.logprobs.map_or(0, |logprobs| logprobs.top))?,
            mask: mask.map_or(Ok(-1), int)?,
            first_bias: int(first_bias)?,
            biases: int(self.bias_ids.len() - first_bias)?,
            first_banned: int(first_banned)?,
            banned: int(self.banned_ids.len() - first_banned)?,
            first_counted: int(first_counted)?,
            counted: int(self.counted.len() - first_counted)?,
            ..NOTHING
        })
    }
}

fn top(field: &str, count: usize) -> Result<i32> {
    if count > abi::MOST_TOP {
        return Err(Error::new(Code::StepFailed, format!("{field}: expected at most {} on a CUDA device, got {count}", abi::MOST_TOP)));
    }
    int(count)
}
