//! Rotary tables and the layout of KV pages.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    reason = "test code: a failure is a panic, sizes are small"
)]

mod common;

use common::Rng;
use loramux_native::error::Code;
use loramux_native::kernels::attention::PAGE;
use loramux_native::kernels::simd::Dtype;
use loramux_native::kv::pages::KvPages;
use loramux_native::kv::rope::Rope;

#[test]
fn rotation_matches_the_formula_in_the_halves_layout() {
    let mut rng = Rng(1);
    let frequencies: Vec<f32> = (0..8).map(|i| 10_000f32.powf(-(i as f32) / 8.0)).collect();
    let rope = Rope::new(&frequencies, 1.25, 2048);
    for position in [0, 1, 7, 100, 2047] {
        let x = rng.floats(16, 1.0);
        let mut rotated = x.clone();
        rope.rotate(&mut rotated, position);
        for r in 0..8 {
            let (sin, cos) = f64::from(position as f32 * frequencies[r]).sin_cos();
            let (a, b) = (f64::from(x[r]), f64::from(x[r + 8]));
            let wanted = [1.25 * (a * cos - b * sin), 1.25 * (b * cos + a * sin)];
            for (found, wanted) in [rotated[r], rotated[r + 8]].iter().zip(wanted) {
                assert!((f64::from(*found) - wanted).abs() < 1e-6, "position {position} pair {r}: {found}, expected {wanted}");
            }
        }
    }
    let mut still = rng.floats(16, 1.0);
    let before = still.clone();
    Rope::new(&frequencies, 1.0, 1).rotate(&mut still, 0);
    assert_eq!(still, before, "position 0 turns nothing");
}

/// The element at `at` of a pool of `kv`.
fn element(kv: &KvPages, pool: *const u8, at: usize) -> f32 {
    // SAFETY: every caller stays inside the pool by the strides that it states itself.
    unsafe {
        match kv.dtype {
            Dtype::F32 => pool.add(4 * at).cast::<f32>().read_unaligned(),
            Dtype::F16 => pool.add(2 * at).cast::<half::f16>().read_unaligned().to_f32(),
            Dtype::Bf16 => pool.add(2 * at).cast::<half::bf16>().read_unaligned().to_f32(),
        }
    }
}

#[test]
fn every_slot_of_every_page_layer_and_head_has_a_place_of_its_own() {
    let (layers, pages, heads, dim) = (2, 3, 2, 10);
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        let kv = KvPages::new(layers, pages, heads, dim, dtype).unwrap();
        // Numbers that all types hold: eight bits of bfloat16's, and below float16's 65,504.
        let row = |layer: usize, head: usize, slot: usize, d: usize| {
            let n = ((layer * heads + head) * pages * PAGE + slot) * dim + d;
            (1.0 + (n % 128) as f32 / 128.0) * 2f32.powi((n / 128) as i32)
        };
        let all = || (0..layers).flat_map(|l| (0..heads).flat_map(move |h| (0..pages * PAGE).map(move |s| (l, h, s))));
        for (layer, head, slot) in all() {
            let key: Vec<f32> = (0..dim).map(|d| row(layer, head, slot, d)).collect();
            let value: Vec<f32> = key.iter().map(|v| -v).collect();
            // SAFETY: the slot is below pages · PAGE, and this thread is alone.
            unsafe { kv.write(layer, head, slot, &key, &value) };
        }
        for (layer, head, slot) in all() {
            let (page, offset) = (slot / PAGE, slot % PAGE);
            for d in 0..dim {
                let key = element(&kv, kv.keys(layer, head), page * kv.key_stride() + d * PAGE + offset);
                let value = element(&kv, kv.values(layer, head), page * kv.value_stride() + offset * kv.padded_dim + d);
                assert_eq!((key, value), (row(layer, head, slot, d), -row(layer, head, slot, d)), "{dtype:?}");
            }
            let padding = element(&kv, kv.values(layer, head), page * kv.value_stride() + offset * kv.padded_dim + dim);
            assert_eq!(padding, 0.0, "values are padded with zeros");
        }
        assert_eq!(kv.keys(0, 0).align_offset(64) + kv.values(0, 0).align_offset(64), 0, "vectors do not straddle cache lines");
    }
}

#[test]
fn rows_are_rounded_to_the_nearest_number_ties_to_even() {
    // 1 + 2⁻⁸ lies halfway between two bfloat16, 1 + 2⁻¹¹ between two float16; 3 · 2⁻⁸ and 3 · 2⁻¹¹ round the other way.
    let x = [1.0 + 2f32.powi(-8), 1.0 + 3.0 * 2f32.powi(-8), 1.0 + 2f32.powi(-11), 1.0 + 3.0 * 2f32.powi(-11), 1e30, f32::NAN];
    let cases = [
        (Dtype::Bf16, [1.0, 1.0 + 2f32.powi(-6), 1.0, 1.0, half::bf16::from_f32(1e30).to_f32()]),
        (Dtype::F16, [x[0], x[1], 1.0, 1.0 + 2f32.powi(-9), f32::INFINITY]),
    ];
    for (dtype, wanted) in cases {
        let kv = KvPages::new(1, 1, 1, x.len(), dtype).unwrap();
        // SAFETY: slot 3 of the only page; this thread is alone.
        unsafe { kv.write(0, 0, 3, &x, &x) };
        for (d, wanted) in wanted.into_iter().enumerate() {
            assert_eq!(element(&kv, kv.keys(0, 0), d * PAGE + 3), wanted, "{dtype:?} key {d}");
            assert_eq!(element(&kv, kv.values(0, 0), 3 * kv.padded_dim + d), wanted, "{dtype:?} value {d}");
        }
        assert!(element(&kv, kv.keys(0, 0), 5 * PAGE + 3).is_nan());
    }
}

#[test]
fn pools_that_cannot_be_are_refused() {
    for (layers, pages, heads, dim) in [(0, 1, 1, 1), (1, 0, 1, 1), (1, usize::MAX, 1, 8), (1 << 12, 1 << 27, 1 << 6, 1 << 8)] {
        let error = KvPages::new(layers, pages, heads, dim, Dtype::F16).err().unwrap();
        assert!(error.code == Code::Native && error.message.contains("cannot reserve a KV cache"), "{error}");
    }
}
