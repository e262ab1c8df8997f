//! Rotary tables and the layout of KV pages.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::float_cmp,
    reason = "test code: a failure is a panic, sizes are small"
)]

mod common;

use common::Rng;
use loramux_native::error::Code;
use loramux_native::kernels::attention::PAGE;
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

#[test]
fn every_slot_of_every_page_layer_and_head_has_a_place_of_its_own() {
    let (layers, pages, heads, dim) = (2, 3, 2, 10);
    let kv = KvPages::new(layers, pages, heads, dim).unwrap();
    let row = |layer: usize, head: usize, slot: usize, d: usize| (((layer * heads + head) * pages * PAGE + slot) * dim + d) as f32 + 1.0;
    let all = || (0..layers).flat_map(|l| (0..heads).flat_map(move |h| (0..pages * PAGE).map(move |s| (l, h, s))));
    for (layer, head, slot) in all() {
        let key: Vec<f32> = (0..dim).map(|d| row(layer, head, slot, d)).collect();
        let value: Vec<f32> = key.iter().map(|v| -v).collect();
        // SAFETY: both rows hold `dim` floats, the slot is below pages · PAGE, and this thread is alone.
        unsafe { kv.write(layer, head, slot, key.as_ptr(), value.as_ptr()) };
    }
    for (layer, head, slot) in all() {
        let (page, offset) = (slot / PAGE, slot % PAGE);
        for d in 0..dim {
            // SAFETY: inside the page by the strides that the pool itself states.
            let (key, value) = unsafe {
                let key = kv.keys(layer, head).add(page * kv.key_stride() + d * PAGE + offset);
                (*key, *kv.values(layer, head).add(page * kv.value_stride() + offset * kv.padded_dim + d))
            };
            assert_eq!((key, value), (row(layer, head, slot, d), -row(layer, head, slot, d)));
        }
        // SAFETY: as above; the columns between dim and padded_dim.
        let padding = unsafe { *kv.values(layer, head).add(page * kv.value_stride() + offset * kv.padded_dim + dim) };
        assert_eq!(padding, 0.0, "values are padded with zeros");
    }
}

#[test]
fn pools_that_cannot_be_are_refused() {
    for (layers, pages, heads, dim) in [(0, 1, 1, 1), (1, 0, 1, 1), (1, usize::MAX, 1, 8), (1 << 12, 1 << 27, 1 << 6, 1 << 8)] {
        let error = KvPages::new(layers, pages, heads, dim).err().unwrap();
        assert!(error.code == Code::Native && error.message.contains("cannot reserve a KV cache"), "{error}");
    }
}
