//! The float32 matmul on every instruction set of this CPU: against a scalar float64 reference, and against itself, because
//! a row's result must not depend on the rows beside it.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    reason = "test code: a failure is a panic, sizes are small"
)]

mod common;

use common::panels::Panels;
use common::{Rng, bits};
use loramux_native::kernels::dense::Matmul;
use loramux_native::kernels::dispatch::{Kernels, available};
use loramux_native::kernels::simd::LANES;
use proptest::prelude::*;

/// Largest error allowed of a chain of n additions, as a multiple of n and of the sum of the absolute values added up.
const TOLERANCE: f64 = 6e-8;
/// Marks what no kernel may write.
const GUARD: f32 = 12345.0;

/// Panels `panels` of rows `first .. first + rows`; the rest of the result is GUARD.
fn product(set: &Kernels, x: &[f32], first: usize, rows: usize, w: &Panels, panels: (usize, usize), next_panel: Option<usize>) -> Vec<f32> {
    let mut y = vec![GUARD; rows * w.rows];
    let args = Matmul {
        x: x[first * w.cols..].as_ptr(),
        rows,
        inputs: w.cols,
        w: w.values.as_ptr(),
        panels,
        next_panel,
        width: w.rows,
        y: y.as_mut_ptr(),
    };
    // SAFETY: x holds first + rows rows of w's width, y [rows, width]; the set is this CPU's.
    unsafe { (set.dense_matmul)(&args) };
    y
}

#[test]
fn products_are_those_of_float64() {
    let mut rng = Rng(3);
    let shapes = [
        (1, 16, 32),
        (1, 49, 7),
        (2, 1, 64),
        (3, 17, 1),
        (4, 48, 576),
        (5, 33, 31),
        (7, 100, 65),
        (9, 96, 40),
        (16, 40, 1536),
        (45, 130, 64),
    ];
    for (rows, outputs, width) in shapes {
        let x = rng.floats(rows * width, 3.0);
        let w = Panels::random(&mut rng, outputs, width);
        for set in available() {
            let found = product(set, &x, 0, rows, &w, (0, outputs.div_ceil(LANES)), None);
            for (at, found) in found.iter().enumerate() {
                let (row, n) = (at / outputs, at % outputs);
                let terms = (0..width).map(|c| f64::from(x[row * width + c]) * f64::from(w.value(n, c)));
                let (wanted, magnitude) = terms.fold((0.0, 0.0), |(sum, all), term| (sum + term, all + f64::abs(term)));
                assert!(
                    (f64::from(*found) - wanted).abs() <= TOLERANCE * width as f64 * magnitude,
                    "{} {rows}×{width}→{outputs}, row {row} column {n}: {found}, expected {wanted}",
                    set.name
                );
            }
        }
    }
}

#[test]
fn a_value_that_is_not_finite_spoils_its_own_row_and_no_other() {
    let mut rng = Rng(2);
    let w = Panels::random(&mut rng, 52, 33);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let clean = rng.floats(11 * 33, 1.0);
        let mut x = clean.clone();
        x[6 * 33 + 17] = bad;
        for set in available() {
            let found = product(set, &x, 0, 11, &w, (0, 4), None);
            let wanted = product(set, &clean, 0, 11, &w, (0, 4), None);
            for row in 0..11 {
                let (found, wanted) = (&found[row * 52..][..52], &wanted[row * 52..][..52]);
                if row == 6 {
                    assert!(found.iter().all(|v| !v.is_finite()), "{}: {bad}", set.name);
                } else {
                    assert_eq!(bits(found), bits(wanted), "{}: {bad}, row {row}", set.name);
                }
            }
        }
    }
}

#[test]
fn no_rows_write_nothing() {
    let w = Panels::random(&mut Rng(1), 40, 8);
    for set in available() {
        assert!(product(set, &[], 0, 0, &w, (0, 3), Some(0)).is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_row_is_the_same_bits_in_any_batch_and_any_cut_of_the_panels(
        seed in any::<u64>(), rows in 1usize..40, outputs in 1usize..150, width in 1usize..90, cut in 0usize..10, next in 0usize..20,
    ) {
        let mut rng = Rng(seed);
        let w = Panels::random(&mut rng, outputs, width);
        let x = rng.floats(rows * width, 2.0);
        let panels = outputs.div_ceil(LANES);
        let cut = cut.min(panels);
        for set in available() {
            let whole = product(set, &x, 0, rows, &w, (0, panels), None);
            // Whatever is asked for ahead, even past the end, changes nothing.
            let (left, right) = (product(set, &x, 0, rows, &w, (0, cut), Some(cut)), product(set, &x, 0, rows, &w, (cut, panels), Some(next)));
            for row in 0..rows {
                let alone = product(set, &x, row, 1, &w, (0, panels), Some(next));
                prop_assert_eq!(bits(&alone), bits(&whole[row * outputs..][..outputs]), "{} row {}", set.name, row);
                for n in 0..outputs {
                    let (here, there) = if n < cut * LANES { (&left, &right) } else { (&right, &left) };
                    prop_assert_eq!(here[row * outputs + n].to_bits(), whole[row * outputs + n].to_bits());
                    prop_assert_eq!(there[row * outputs + n], GUARD, "columns of other panels are left alone");
                }
            }
        }
    }
}
