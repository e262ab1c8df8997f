//! The quantised matmul on every instruction set of this CPU: against a scalar float64 reference over the very numbers that
//! it was given, and against itself, because a row's result must not depend on the rows beside it.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    reason = "test code: a failure is a panic, sizes are small"
)]

mod common;

use common::packed::Packed;
use common::{Rng, bits};
use loramux_native::kernels::dispatch::{Kernels, available};
use loramux_native::kernels::quantised::{BLOCK, Bits, Matmul, RowBlock};
use loramux_native::kernels::simd::LANES;
use proptest::prelude::*;

/// Largest error allowed, as a multiple of the sum of the absolute values of what is added up.
const TOLERANCE: f64 = 2e-6;
/// Marks what no kernel may write.
const GUARD: f32 = 12345.0;

struct Rounded {
    quants: Vec<i8>,
    blocks: Vec<RowBlock>,
}

fn rounded(set: &Kernels, x: &[f32], width: usize) -> Rounded {
    let mut quants = vec![0i8; x.len()];
    let mut blocks = vec![RowBlock::default(); x.len() / BLOCK];
    for row in 0..x.len() / width {
        // SAFETY: every row has `width` columns in x and quants and `width / BLOCK` blocks; the set is this CPU's.
        unsafe {
            let (q, b) = (quants[row * width..].as_mut_ptr(), blocks[row * width / BLOCK..].as_mut_ptr());
            (set.quantise_row)(x[row * width..].as_ptr(), width, q, b);
        }
    }
    Rounded { quants, blocks }
}

/// Panels `panels` of rows `first .. first + rows`; the rest of the result is GUARD.
fn product(set: &Kernels, x: &Rounded, first: usize, rows: usize, w: &Packed, panels: (usize, usize)) -> Vec<f32> {
    let mut y = vec![GUARD; rows * w.rows];
    let args = Matmul {
        x: x.quants[first * w.blocks * BLOCK..].as_ptr(),
        x_blocks: x.blocks[first * w.blocks..].as_ptr(),
        rows,
        blocks: w.blocks,
        bits: w.bits,
        w: w.quants.as_ptr(),
        scales: w.scales.as_ptr(),
        mins: w.mins.as_ptr(),
        panels,
        width: w.rows,
        y: y.as_mut_ptr(),
    };
    // SAFETY: x holds first + rows rows of w's width, y [rows, width]; the set is this CPU's.
    unsafe { (set.quantised_matmul)(&args) };
    y
}

#[test]
fn rows_are_rounded_to_the_nearest_step_the_same_on_every_instruction_set() {
    let mut rng = Rng(1);
    let width = 5 * BLOCK;
    let mut x = rng.floats(3 * width, 4.0);
    x[..BLOCK].fill(0.0);
    x[BLOCK..2 * BLOCK].fill(-3.5);
    x[2 * BLOCK + 7] = 4000.0;
    let portable = rounded(available().last().unwrap(), &x, width);
    for set in available() {
        let found = rounded(set, &x, width);
        assert_eq!(found.quants, portable.quants, "{}", set.name);
        assert_eq!(found.blocks, portable.blocks, "{}", set.name);
        for (b, block) in found.blocks.iter().enumerate() {
            let (values, quants) = (&x[b * BLOCK..][..BLOCK], &found.quants[b * BLOCK..][..BLOCK]);
            let largest = values.iter().fold(0.0f32, |most, v| most.max(v.abs()));
            assert_eq!(block.scale, largest / 127.0);
            assert_eq!(block.sum, quants.iter().map(|&q| i32::from(q)).sum::<i32>());
            assert_eq!(block.scaled_sum, block.scale * block.sum as f32);
            for (v, q) in values.iter().zip(quants) {
                assert!((v - block.scale * f32::from(*q)).abs() <= block.scale * 0.5001, "{}: {v} became {q}", set.name);
            }
        }
    }
}

#[test]
fn a_value_that_is_not_finite_spoils_its_own_row_and_no_other() {
    let mut rng = Rng(2);
    let w = Packed::random(&mut rng, Bits::Four, 20, 64);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 17, 63] {
            let mut x = rng.floats(5 * 64, 1.0);
            let clean = x.clone();
            x[2 * 64 + at] = bad;
            for set in available() {
                let found = product(set, &rounded(set, &x, 64), 0, 5, &w, (0, 2));
                let wanted = product(set, &rounded(set, &clean, 64), 0, 5, &w, (0, 2));
                for row in 0..5 {
                    let (found, wanted) = (&found[row * 20..][..20], &wanted[row * 20..][..20]);
                    if row == 2 {
                        assert!(found.iter().all(|v| v.is_nan()), "{}: {bad} at {at}", set.name);
                    } else {
                        assert_eq!(bits(found), bits(wanted), "{}: {bad} at {at}, row {row}", set.name);
                    }
                }
            }
        }
    }
}

#[test]
fn products_are_those_of_the_rounded_numbers() {
    let mut rng = Rng(3);
    for bits in [Bits::Eight, Bits::Four] {
        for (rows, outputs, width) in [(1, 16, 32), (2, 1, 64), (3, 17, 96), (4, 48, 576), (5, 33, 32), (7, 40, 1536), (33, 100, 64)] {
            let x = rng.floats(rows * width, 3.0);
            for w in [Packed::random(&mut rng, bits, outputs, width), Packed::largest(bits, outputs, width)] {
                for set in available() {
                    let x = rounded(set, &x, width);
                    let found = product(set, &x, 0, rows, &w, (0, outputs.div_ceil(LANES)));
                    for (at, found) in found.iter().enumerate() {
                        let (row, n) = (at / outputs, at % outputs);
                        let terms = (0..width).map(|c| {
                            let at = row * width + c;
                            f64::from(x.quants[at]) * f64::from(x.blocks[at / BLOCK].scale) * w.value(n, c)
                        });
                        let (wanted, magnitude) = terms.fold((0.0, 0.0), |(sum, all), term| (sum + term, all + f64::abs(term)));
                        assert!(
                            (f64::from(*found) - wanted).abs() <= TOLERANCE * magnitude,
                            "{} {bits:?} {rows}×{width}→{outputs}, row {row} column {n}: {found}, expected {wanted}",
                            set.name
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn sums_do_not_saturate_where_every_product_is_largest() {
    for bits in [Bits::Eight, Bits::Four] {
        let w = Packed::largest(bits, LANES, 2 * BLOCK);
        for sign in [1.0f32, -1.0] {
            let x = vec![sign * 0.25; 2 * BLOCK];
            for set in available() {
                let found = product(set, &rounded(set, &x, 2 * BLOCK), 0, 1, &w, (0, 1));
                for (n, found) in found.iter().enumerate() {
                    let wanted: f64 = (0..2 * BLOCK).map(|c| f64::from(sign) * 0.25 * w.value(n, c)).sum();
                    assert!((f64::from(*found) - wanted).abs() <= 1e-5 * wanted.abs(), "{} {bits:?}: {found}, expected {wanted}", set.name);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_row_is_the_same_bits_in_any_batch_and_any_cut_of_the_panels(
        seed in any::<u64>(), rows in 1usize..12, outputs in 1usize..80, blocks in 1usize..5, four in any::<bool>(), cut in 0usize..6,
    ) {
        let mut rng = Rng(seed);
        let width = blocks * BLOCK;
        let w = Packed::random(&mut rng, if four { Bits::Four } else { Bits::Eight }, outputs, width);
        let x = rng.floats(rows * width, 2.0);
        let panels = outputs.div_ceil(LANES);
        let cut = cut.min(panels);
        for set in available() {
            let x = rounded(set, &x, width);
            let whole = product(set, &x, 0, rows, &w, (0, panels));
            let (left, right) = (product(set, &x, 0, rows, &w, (0, cut)), product(set, &x, 0, rows, &w, (cut, panels)));
            for row in 0..rows {
                let alone = product(set, &x, row, 1, &w, (0, panels));
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
