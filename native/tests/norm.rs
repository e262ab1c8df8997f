//! The norm kernel on every instruction set of this CPU against float64.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, clippy::print_stdout, reason = "test code: sizes are small")]

mod common;

use common::{Rng, bits};
use loramux_native::kernels::dispatch::{Kernels, available};
use loramux_native::kernels::norm::Norm;

const EPSILON: f32 = 1e-5;
/// Largest relative error allowed.
const TOLERANCE: f64 = 5e-7;
/// Marks what the kernel may not write.
const GUARD: f32 = 12345.0;

/// The norm and the sum of `x` and `delta`, in memory of their own or the sum in that of `x`.
fn run(set: &Kernels, x: &[f32], delta: Option<&[f32]>, weight: &[f32], in_place: bool) -> (Vec<f32>, Vec<f32>) {
    let width = x.len();
    let mut source = x.to_vec();
    let (mut y, mut sum) = (vec![GUARD; width + 1], vec![GUARD; width]);
    let args = Norm {
        x: source.as_mut_ptr(),
        delta: delta.map_or(std::ptr::null(), <[f32]>::as_ptr),
        sum: if in_place { source.as_mut_ptr() } else { sum.as_mut_ptr() },
        weight: weight.as_ptr(),
        epsilon: EPSILON,
        width,
        y: y.as_mut_ptr(),
    };
    // SAFETY: all hold `width` floats; `available` gave the set.
    unsafe { (set.residual_norm)(&args) };
    assert_eq!(bits(&[y.pop().unwrap()]), bits(&[GUARD]), "{}: wrote past the row", set.name);
    if in_place {
        sum.copy_from_slice(&source);
    }
    (y, sum)
}

#[test]
fn norm_matches_float64_with_and_without_a_sum_in_place_or_not() {
    let mut rng = Rng(11);
    let mut worst = 0f64;
    for width in [1, 2, 15, 16, 17, 24, 33, 576, 1536] {
        let (x, delta, weight) = (rng.floats(width, 3.0), rng.floats(width, 1.0), rng.floats(width, 2.0));
        for set in available() {
            for delta in [None, Some(&*delta)] {
                let (y, sum) = run(set, &x, delta, &weight, false);
                let added: Vec<f32> = (0..width).map(|i| x[i] + delta.map_or(0.0, |d| d[i])).collect();
                assert_eq!(bits(&sum), bits(&added), "{} width {width}", set.name);
                let mean = added.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>() / width as f64;
                for i in 0..width {
                    let wanted = f64::from(added[i]) / (mean + f64::from(EPSILON)).sqrt() * f64::from(weight[i]);
                    let error = (f64::from(y[i]) - wanted).abs();
                    assert!(
                        error <= TOLERANCE * wanted.abs() + 1e-37,
                        "{} width {width} at {i}: got {}, expected {wanted}",
                        set.name,
                        y[i]
                    );
                    worst = worst.max(error / wanted.abs().max(1e-30));
                }
                let (same, sum) = run(set, &x, delta, &weight, true);
                assert_eq!((bits(&same), bits(&sum)), (bits(&y), bits(&added)), "{} width {width} in place", set.name);
            }
        }
    }
    println!("norm: largest relative error {worst:.2e}");
}
