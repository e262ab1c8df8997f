//! Merging: each operator on values that can be followed by hand, and what is refused.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, clippy::float_cmp, reason = "test code: a failure is a panic, sizes are small")]

use loramux_native::adapters::merge::{Majority, MergedTensor, Prune, Recipe, Term, merge};
use loramux_native::adapters::safetensors::File;
use loramux_native::adapters::tensor::read;
use loramux_native::error::{Code, Error};
use std::sync::Arc;

/// A file with one float32 tensor `t` [n].
fn file(values: &[f32]) -> Arc<File> {
    let header = format!(r#"{{"t":{{"dtype":"F32","shape":[{}],"data_offsets":[0,{}]}}}}"#, values.len(), values.len() * 4);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    Arc::new(File::parse("member".to_owned(), bytes).unwrap())
}

fn recipe(prune: Prune, density: f64, elect: Option<Majority>, weights: &[f32], size: usize) -> Recipe {
    let term = |(member, &weight): (usize, &f32)| Term { member, tensor: "t".to_owned(), weight };
    let terms = weights.iter().enumerate().map(term).collect();
    let tensors = vec![MergedTensor { name: "merged".to_owned(), shape: vec![size], terms }];
    Recipe { digest: "d".repeat(64), prune, density, elect, tensors }
}

fn merged(members: &[&[f32]], weights: &[f32], prune: Prune, density: f64, elect: Option<Majority>) -> Result<Vec<f32>, Error> {
    let size = members[0].len();
    let files: Vec<_> = members.iter().map(|values| file(values)).collect();
    merge(&files, &recipe(prune, density, elect, weights, size)).map(|file| read(&file, "merged", &[size]).unwrap())
}

#[test]
fn linear_is_the_weighted_sum() {
    let out = merged(&[&[1.0, -2.0, 0.5], &[4.0, 1.0, 0.0]], &[0.5, -2.0], Prune::None, 0.0, None).unwrap();
    assert_eq!(out, [-7.5, -3.0, 0.25]);
}

#[test]
fn pruning_keeps_the_largest_and_of_equals_the_first() {
    let keep = |density| merged(&[&[1.0, -3.0, 2.0, -2.0, 2.0]], &[1.0], Prune::Magnitude, density, None).unwrap();
    assert_eq!(keep(0.0), [0.0; 5]);
    assert_eq!(keep(0.39), [0.0, -3.0, 0.0, 0.0, 0.0], "⌊1.95⌋");
    assert_eq!(keep(0.4), [0.0, -3.0, 2.0, 0.0, 0.0]);
    assert_eq!(keep(0.6), [0.0, -3.0, 2.0, -2.0, 0.0]);
    assert_eq!(keep(1.0), [1.0, -3.0, 2.0, -2.0, 2.0]);
    assert_eq!(keep(7.0), keep(1.0));
}

#[test]
fn the_elected_sign_is_averaged_and_ties_go_to_plus() {
    let members: [&[f32]; 3] = [&[5.0, -1.0, 2.0, 0.0], &[-1.0, -1.0, -2.0, 0.0], &[-1.0, 4.0, 0.0, 0.0]];
    let total = merged(&members, &[1.0, 10.0, 100.0], Prune::None, 1.0, Some(Majority::Total)).unwrap();
    assert_eq!(total, [5.0, 400.0, 2.0, 0.0]);
    let frequency = merged(&members, &[1.0, 10.0, 100.0], Prune::None, 1.0, Some(Majority::Frequency)).unwrap();
    assert_eq!(frequency, [-55.0, -5.5, 2.0, 0.0]);
}

#[test]
fn random_masks_depend_on_recipe_tensor_and_member_alone_and_rescale_when_asked() {
    let ones = vec![1.0f32; 4000];
    let kept = |rescale| merged(&[&ones], &[1.0], Prune::Random { rescale }, 0.25, None).unwrap();
    let share = kept(false).iter().sum::<f32>() / ones.len() as f32;
    assert!((share - 0.25).abs() < 0.03, "kept {share}");
    assert_eq!(kept(false), kept(false));
    let rescaled: Vec<f32> = kept(false).iter().map(|v| v * 4.0).collect();
    assert_eq!(kept(true), rescaled);
    let both = merged(&[&ones, &ones], &[1.0, 10.0], Prune::Random { rescale: false }, 0.25, None).unwrap();
    assert!(both.contains(&1.0) && both.contains(&10.0) && both.contains(&11.0), "members have masks of their own");
}

#[test]
fn broken_members_are_refused_by_name() {
    let mut wrong = recipe(Prune::None, 0.0, None, &[1.0], 3);
    let error = |recipe: &Recipe, values: &[f32]| merge(&[file(values)], recipe).unwrap_err();
    assert_eq!(error(&wrong, &[1.0, 2.0]).code, Code::AdapterInvalid);
    assert!(error(&wrong, &[1.0, 2.0]).message.contains("member: tensor t: expected shape [3], got [2]"));
    assert!(error(&wrong, &[1.0, f32::NAN, 2.0]).message.contains("element 1 is NaN"));
    wrong.tensors[0].terms[0].member = 4;
    assert!(error(&wrong, &[1.0, 2.0, 3.0]).message.contains("member 4 of 1"));
    wrong.tensors[0].terms.clear();
    assert!(error(&wrong, &[1.0, 2.0, 3.0]).message.contains("no member"));
}
