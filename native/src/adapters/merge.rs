//! Several adapters into one, tensor by tensor: prune, elect signs, weight, sum.
//!
//! Source: TIES (arXiv 2306.01708) and DARE (arXiv 2311.03099) as PEFT 0.21 composes them. Everything is float32 on the
//! values of the files; sums run in the order of the members.

use super::safetensors::File;
use super::tensor::read;
use crate::error::{Code, Error, Result};
use crate::pace;
use crate::sampler::rng::uniform;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Which entries of a member's tensor take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    None,
    /// The ⌊density · n⌋ largest magnitudes; of equal ones those with the lower index.
    Magnitude,
    /// Each with probability `density`, by masks that depend on recipe, tensor and member alone; `rescale` divides
    /// what is kept by `density`.
    Random {
        rescale: bool,
    },
}

/// Whose sign decides at each entry; without a majority, +.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Majority {
    /// The sum of the pruned, unweighted values.
    Total,
    /// More members.
    Frequency,
}

/// One member's part in a merged tensor.
#[derive(Debug, Clone)]
pub struct Term {
    /// Index into the files.
    pub member: usize,
    pub tensor: String,
    pub weight: f32,
}

#[derive(Debug, Clone)]
pub struct MergedTensor {
    pub name: String,
    pub shape: Vec<usize>,
    /// In the order of the members; at least one.
    pub terms: Vec<Term>,
}

#[derive(Debug, Clone)]
pub struct Recipe {
    /// Identity of the recipe: seeds the random masks.
    pub digest: String,
    pub prune: Prune,
    /// At least 0; 1 and more keep everything.
    pub density: f64,
    /// With a majority, only entries of the elected sign count, and their weighted sum is divided by their number.
    pub elect: Option<Majority>,
    pub tensors: Vec<MergedTensor>,
}

/// Merges `files` into a file of float32 tensors in memory.
///
/// # Errors
/// `ERR_ADAPTER_INVALID` naming a member's tensor that is missing, of another shape, or not finite; `ERR_NATIVE` for a
/// recipe that names no member or file.
pub fn merge(files: &[Arc<File>], recipe: &Recipe) -> Result<File> {
    let mut header = Map::new();
    let mut data = Vec::new();
    for tensor in &recipe.tensors {
        let start = data.len();
        for value in merge_tensor(files, recipe, tensor)? {
            data.extend_from_slice(&value.to_le_bytes());
        }
        header.insert(tensor.name.clone(), json!({ "dtype": "F32", "shape": tensor.shape, "data_offsets": [start, data.len()] }));
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.append(&mut data);
    File::parse(format!("merge {}", recipe.digest.get(..12).unwrap_or(&recipe.digest)), bytes)
}

fn merge_tensor(files: &[Arc<File>], recipe: &Recipe, tensor: &MergedTensor) -> Result<Vec<f32>> {
    let mut members = Vec::with_capacity(tensor.terms.len());
    for term in &tensor.terms {
        let Some(file) = files.get(term.member) else {
            return Err(Error::new(Code::Native, format!("the recipe names member {} of {}", term.member, files.len())));
        };
        let mut values = read(file, &term.tensor, &tensor.shape)?;
        // At 1 and above nothing is left out, and nothing is rescaled.
        if recipe.density < 1.0 {
            match recipe.prune {
                Prune::None => {}
                Prune::Magnitude => keep_largest(&mut values, recipe.density),
                Prune::Random { rescale } => keep_random(&mut values, recipe, &tensor.name, term.member, rescale),
            }
        }
        members.push((values, term.weight));
    }
    let Some(elements) = members.first().map(|(values, _)| values.len()) else {
        return Err(Error::new(Code::Native, format!("the recipe gives {} no member", tensor.name)));
    };
    let combined = (0..elements).map(|i| {
        pace::worked(members.len() * size_of::<f32>());
        combine(&members, i, recipe.elect)
    });
    Ok(combined.collect())
}

/// Zeroes all but the ⌊density · n⌋ largest magnitudes.
fn keep_largest(values: &mut [f32], density: f64) {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 ≤ density < 1")]
    let kept = (density * values.len() as f64) as usize;
    let mut order: Vec<usize> = (0..values.len()).collect();
    if kept < order.len() {
        order.select_nth_unstable_by(kept, |&i, &j| values[j].abs().total_cmp(&values[i].abs()).then(i.cmp(&j)));
    }
    for &i in &order[kept..] {
        values[i] = 0.0;
    }
}

fn keep_random(values: &mut [f32], recipe: &Recipe, tensor: &str, member: usize, rescale: bool) {
    let key = Sha256::digest(format!("{}\0{tensor}\0{member}", recipe.digest));
    let seed = key.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    #[allow(clippy::cast_possible_truncation, reason = "the counter is split into its halves")]
    for (i, value) in values.iter_mut().enumerate() {
        pace::worked(size_of::<f32>());
        let kept = uniform(seed, (i as u64 >> 32) as u32, i as u32) < recipe.density;
        #[allow(clippy::cast_possible_truncation, reason = "PEFT divides in float32")]
        let scale = if rescale { recipe.density as f32 } else { 1.0 };
        *value = if kept { *value / scale } else { 0.0 };
    }
}

/// Entry `i` of the merged tensor.
fn combine(members: &[(Vec<f32>, f32)], i: usize, elect: Option<Majority>) -> f32 {
    let Some(majority) = elect else {
        return members.iter().fold(0.0, |sum, (values, weight)| sum + values[i] * weight);
    };
    let votes: f32 = match majority {
        Majority::Total => members.iter().map(|(values, _)| values[i]).sum(),
        Majority::Frequency => members.iter().map(|(values, _)| sign(values[i])).sum(),
    };
    let elected = if votes >= 0.0 { 1.0 } else { -1.0 };
    let mut sum = 0.0;
    let mut agreeing = 0.0f32;
    for (values, weight) in members {
        #[allow(clippy::float_cmp, reason = "signs are exact")]
        if sign(values[i]) == elected {
            sum += values[i] * weight;
            agreeing += 1.0;
        }
    }
    sum / agreeing.max(1.0)
}

/// −1, 0 or 1; `f32::signum` knows no 0.
fn sign(value: f32) -> f32 {
    if value == 0.0 { 0.0 } else { value.signum() }
}
