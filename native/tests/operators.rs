//! The operators inside a real ONNX Runtime session: a toy decoder, stepped through the engine, against the same decoder
//! in float64, and every batch against its rows alone.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "test code: a failure is a panic, sizes are small"
)]

mod common;
mod toy;

use common::{Rng, bits};
use loramux_native::adapters::compile::{self, FactorStorage};
use loramux_native::adapters::store::AdapterStore;
use loramux_native::error::Code;
use loramux_native::kernels::attention::PAGE;
use loramux_native::kernels::simd::Dtype;
use loramux_native::session::context::{StepBatch, StepContext};
use loramux_native::session::core::Compiled;
use loramux_native::session::engine::{Engine, EngineOptions};
use loramux_native::weights::Weights;
use std::sync::Arc;
use toy::adapter::Adapter;
use toy::steps::{ALL, Part, batch_of, distance, generate, logits, make_resident, pool, prompt, request};
use toy::{LIMITS, Toy, VOCAB, Variant, runtime_ready};

/// Largest difference from the float64 decoder, logits being of the order of 1 to 5.
const LOGITS_TOLERANCE: f64 = 1e-4;

fn assert_close(found: &[Vec<f32>], wanted: &[Vec<f64>], what: &str) -> f64 {
    let mut worst = 0f64;
    assert_eq!(found.len(), wanted.len(), "{what}: rows");
    for (row, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        for (id, (f, w)) in found.iter().zip(wanted).enumerate() {
            let error = (f64::from(*f) - w).abs();
            assert!(error <= LOGITS_TOLERANCE, "{what}: row {row} id {id}: got {f}, expected {w}");
            worst = worst.max(error);
        }
    }
    worst
}

#[test]
fn prefill_matches_the_decoder_in_float64_for_the_base_and_every_adapter() {
    if !runtime_ready() {
        return;
    }
    let toy = Toy::new(Variant::default());
    let mut engine = toy.engine(1);
    let tokens = prompt(&mut Rng(1), 37);
    let pages = [5, 2, 9];
    let part = |entry| [Part { tokens: &tokens, past: 0, pages: &pages, entry }];
    let base = toy.reference(&tokens, &[]);
    let mut worst = assert_close(&logits(&mut engine, batch_of(&part(-1), vec![])), &base, "base");
    for (i, adapter) in pool().iter().enumerate() {
        let handle = make_resident(&engine, adapter);
        let wanted = toy.reference(&tokens, &[(adapter, 1.0)]);
        assert!(distance(&wanted, &base) > 0.05, "adapter {i} changes too little to be a test");
        let found = logits(&mut engine, batch_of(&part(0), vec![vec![(handle, 1.0)]]));
        worst = worst.max(assert_close(&found, &wanted, &format!("adapter {i}")));
    }
    println!("largest difference from float64 logits {worst:.2e}");
}

#[test]
fn an_entry_of_several_adapters_is_the_sum_of_its_terms() {
    if !runtime_ready() {
        return;
    }
    let toy = Toy::new(Variant::default());
    let mut engine = toy.engine(1);
    let tokens = prompt(&mut Rng(2), 21);
    let adapters = pool();
    for list in [
        vec![(0, 0.5f32), (1, -0.75)],
        vec![(4, 0.3)],
        vec![(2, 1.0), (5, 0.5), (0, 0.25)],
        vec![(1, 0.5), (1, 0.5)],
        vec![(8, 0.5), (9, -1.0)],
        vec![(10, 0.5), (12, -0.75), (0, 1.0)],
        vec![],
    ] {
        let terms: Vec<_> = list.iter().map(|&(i, w)| (&adapters[i], w)).collect();
        let table = list.iter().map(|&(i, w)| (make_resident(&engine, &adapters[i]), w)).collect();
        let part = Part { tokens: &tokens, past: 0, pages: &[1, 0], entry: 0 };
        let found = logits(&mut engine, batch_of(&[part], vec![table]));
        assert_close(&found, &toy.reference(&tokens, &terms), &format!("{list:?}"));
    }
}

/// Which adapter (index into the pool, −1 for the base) each of `n` sequences uses.
fn load_shapes(n: usize, rng: &mut Rng) -> Vec<(&'static str, Vec<i32>)> {
    let mut skewed = || [0, 0, 0, 0, 1, 1, 2, -1][rng.below(8)];
    vec![
        ("skewed", (0..n).map(|_| skewed()).collect()),
        ("uniform", (0..n).map(|_| rng.below(19) as i32 - 1).collect()),
        ("distinct", (0..n).map(|i| i as i32 % 19 - 1).collect()),
        ("the last ones", (0..n).map(|i| 17 - i as i32 % 9).collect()),
        ("identical", vec![7; n]),
        ("one against many", (0..n).map(|i| if i == 4 { 3 } else { 1 }).collect()),
        ("base only", vec![-1; n]),
    ]
}

#[test]
fn rows_of_a_mixed_batch_are_bit_identical_to_the_same_rows_alone() {
    if !runtime_ready() {
        return;
    }
    let mut rng = Rng(3);
    let n = 12;
    let prompts: Vec<_> = (0..n).map(|i| prompt(&mut rng, [1, 2, 3, 5, 16, 17, 33][i % 7])).collect();
    let shapes = load_shapes(n, &mut rng);
    for threads in [1, 2] {
        let toy = Toy::new(Variant::default());
        let mut engine = toy.engine(threads);
        let table: Vec<_> = pool().iter().map(|adapter| vec![(make_resident(&engine, adapter), 1.0)]).collect();
        for (shape, entries) in &shapes {
            let together = generate(&mut engine, &prompts, entries, &table, &(0..n).collect::<Vec<_>>());
            for (i, mixed) in together.iter().enumerate() {
                let alone = generate(&mut engine, &prompts, entries, &table, &[i]);
                for (row, (mixed, alone)) in mixed.iter().zip(&alone[0]).enumerate() {
                    assert_eq!(bits(mixed), bits(alone), "{shape}, {threads} threads: sequence {i} row {row}");
                }
            }
        }
    }
}

#[test]
fn rounded_factors_stay_near_and_depend_on_no_neighbour() {
    if !runtime_ready() {
        return;
    }
    let mut rng = Rng(7);
    let toy = Toy::new(Variant::default());
    // What a factor may be off by: half a step of 127, and of 8.
    for (factors, most) in [(FactorStorage::Int8, 0.05), (FactorStorage::Int4, 0.3)] {
        let options = EngineOptions { factors, ..toy.options(2) };
        let mut engine = Engine::open(Toy::manifest(), &options).unwrap();
        let adapters = pool();
        let table: Vec<_> = adapters.iter().map(|adapter| vec![(make_resident(&engine, adapter), 1.0)]).collect();
        let tokens = prompt(&mut rng, 37);
        let base = toy.reference(&tokens, &[]);
        let mut worst = 0f64;
        for (i, adapter) in adapters.iter().enumerate() {
            let wanted = toy.reference(&tokens, &[(adapter, 1.0)]);
            let part = Part { tokens: &tokens, past: 0, pages: &[5, 2, 9], entry: i as i32 };
            let found: Vec<Vec<f64>> = logits(&mut engine, batch_of(&[part], table.clone()))
                .iter()
                .map(|row| row.iter().map(|&v| f64::from(v)).collect())
                .collect();
            let of_effect = distance(&found, &wanted) / distance(&wanted, &base);
            assert!(of_effect < most, "adapter {i}: off by {of_effect} of what it changes");
            worst = worst.max(of_effect);
        }
        println!("{factors:?} factors: largest difference {worst:.2e} of what an adapter changes");
        let prompts: Vec<_> = (0..12).map(|i| prompt(&mut rng, [1, 2, 3, 5, 16, 17, 33][i % 7])).collect();
        for (shape, entries) in &load_shapes(12, &mut rng) {
            let together = generate(&mut engine, &prompts, entries, &table, &(0..12).collect::<Vec<_>>());
            for (i, mixed) in together.iter().enumerate() {
                let alone = generate(&mut engine, &prompts, entries, &table, &[i]);
                assert_eq!(bits(&mixed.concat()), bits(&alone[0].concat()), "{shape}: sequence {i}");
            }
        }
    }
}

#[test]
fn keys_and_values_of_16_bits_stay_near_and_depend_on_no_neighbour() {
    if !runtime_ready() {
        return;
    }
    let mut rng = Rng(8);
    let toy = Toy::new(Variant::default());
    let tokens = prompt(&mut rng, 37);
    let prompts: Vec<_> = (0..12).map(|i| prompt(&mut rng, [1, 2, 3, 5, 16, 17, 33][i % 7])).collect();
    let shapes = load_shapes(12, &mut rng);
    // Half a unit in the last place of numbers of the order of 1, of which a few dozen are added up.
    for (kv_dtype, tolerance) in [(Dtype::F16, 5e-3), (Dtype::Bf16, 4e-2)] {
        let mut engine = Engine::open(Toy::manifest(), &EngineOptions { kv_dtype, ..toy.options(2) }).unwrap();
        let part = [Part { tokens: &tokens, past: 0, pages: &[5, 2, 9], entry: -1 }];
        let found = logits(&mut engine, batch_of(&part, vec![]));
        let pairs = toy.reference(&tokens, &[]).concat().into_iter().zip(found.concat());
        let worst = pairs.map(|(wanted, found)| (f64::from(found) - wanted).abs()).fold(0.0, f64::max);
        println!("{kv_dtype:?} keys and values: largest difference {worst:.2e}");
        assert!(worst > LOGITS_TOLERANCE && worst < tolerance, "{kv_dtype:?}: off by {worst}");
        let table: Vec<_> = pool().iter().map(|adapter| vec![(make_resident(&engine, adapter), 1.0)]).collect();
        for (shape, entries) in &shapes {
            let together = generate(&mut engine, &prompts, entries, &table, &(0..12).collect::<Vec<_>>());
            for (i, mixed) in together.iter().enumerate() {
                let alone = generate(&mut engine, &prompts, entries, &table, &[i]);
                assert_eq!(bits(&mixed.concat()), bits(&alone[0].concat()), "{kv_dtype:?}, {shape}: sequence {i}");
            }
        }
    }
}

#[test]
fn more_threads_change_no_bit() {
    if !runtime_ready() {
        return;
    }
    let toy = Toy::new(Variant::default());
    let tokens = prompt(&mut Rng(4), 16);
    let adapter = Adapter::random(18, 64, Dtype::F16, false, &ALL);
    // One tile of 16 rows at rank 64: enough work to be cut over threads.
    let runs: Vec<_> = [1, 2, 3]
        .map(|threads| {
            let mut engine = toy.engine(threads);
            let handle = make_resident(&engine, &adapter);
            let part = Part { tokens: &tokens, past: 0, pages: &[0], entry: 0 };
            logits(&mut engine, batch_of(&[part], vec![vec![(handle, 0.5)]])).concat()
        })
        .into();
    assert_eq!(bits(&runs[0]), bits(&runs[1]));
    assert_eq!(bits(&runs[0]), bits(&runs[2]));
}

#[test]
fn chunked_prefill_is_bit_identical_to_one_shot() {
    if !runtime_ready() {
        return;
    }
    let toy = Toy::new(Variant::default());
    let mut engine = toy.engine(2);
    let tokens = prompt(&mut Rng(5), 50);
    let table = vec![vec![(make_resident(&engine, &pool()[1]), 1.0)]];
    let whole = logits(&mut engine, batch_of(&[Part { tokens: &tokens, past: 0, pages: &[0, 1, 2, 3], entry: 0 }], table.clone()));
    for chunk in [1, 7, 16, 31] {
        let mut rows = Vec::new();
        for (i, tokens) in tokens.chunks(chunk).enumerate() {
            let part = Part { tokens, past: i * chunk, pages: &[9, 4, 30, 11], entry: 0 };
            rows.extend(logits(&mut engine, batch_of(&[part], table.clone())));
        }
        assert_eq!(bits(&rows.concat()), bits(&whole.concat()), "chunks of {chunk}");
    }
}

#[test]
fn only_the_rows_that_reach_the_head_are_adapted_there() {
    if !runtime_ready() {
        return;
    }
    let variant = Variant::default();
    let toy = Toy::new(variant);
    let mut engine = toy.engine(2);
    let table: Vec<_> = [10, 15, 17].map(|i| vec![(make_resident(&engine, &pool()[i]), 1.0)]).into();
    let prompts: Vec<_> = [7, 1, 20, 4].iter().map(|&n| prompt(&mut Rng(40 + n as u64), n)).collect();
    let parts: Vec<_> = (0..4)
        .map(|i| Part { tokens: &prompts[i], past: 0, pages: [&[0, 1][..], &[2], &[3, 4], &[5]][i], entry: [1, -1, 0, 2][i] })
        .collect();
    let all = logits(&mut engine, batch_of(&parts, table.clone()));
    for chosen in [vec![6, 7, 27, 31], vec![27], vec![0, 6, 8, 9, 30], vec![7]] {
        let mut batch = batch_of(&parts, table.clone());
        batch.logits_rows.clone_from(&chosen);
        let found = logits(&mut engine, batch);
        for (row, found) in chosen.iter().zip(&found) {
            assert_eq!(bits(found), bits(&all[*row as usize]), "row {row} of {chosen:?}");
        }
    }
}

#[test]
fn an_adapter_may_start_in_the_middle_of_a_sequence() {
    if !runtime_ready() {
        return;
    }
    let toy = Toy::new(Variant::default());
    let mut engine = toy.engine(1);
    let tokens = prompt(&mut Rng(6), 24);
    let part = |entry| [Part { tokens: &tokens, past: 0, pages: &[0, 1], entry }];
    let base = logits(&mut engine, batch_of(&part(-1), vec![]));
    let mut batch = batch_of(&part(0), vec![vec![(make_resident(&engine, &pool()[0]), 1.0)]]);
    (batch.segment_indptr, batch.segment_adapters) = (vec![0, 10, 10, 24], vec![-1, 0, 0]);
    let found = logits(&mut engine, batch);
    assert_eq!(bits(&found[..10].concat()), bits(&base[..10].concat()), "rows before the start are the base's");
    assert_ne!(bits(&found[10]), bits(&base[10]));
}

#[test]
fn a_negative_token_is_what_its_slot_sampled_last() {
    if !runtime_ready() {
        return;
    }
    let toy = Toy::new(Variant::default());
    let mut engine = toy.engine(1);
    let tokens = prompt(&mut Rng(7), 9);
    let mut batch = batch_of(&[Part { tokens: &tokens, past: 0, pages: &[3], entry: -1 }], vec![]);
    batch.logits_rows = vec![8];
    let sampled = engine.step(&request(batch, &[6])).unwrap().tokens[0] as i32;
    let decode = |token: i32| batch_of(&[Part { tokens: &[token], past: 9, pages: &[3], entry: -1 }], vec![]);
    let remembered = logits(&mut engine, decode(-(6 + 1)));
    assert_eq!(bits(&remembered[0]), bits(&logits(&mut engine, decode(sampled))[0]));
}

#[test]
fn a_step_may_ask_for_no_logits_at_all() {
    if !runtime_ready() {
        return;
    }
    let variant = Variant::default();
    let toy = Toy::new(variant);
    let mut engine = toy.engine(1);
    let tokens = prompt(&mut Rng(8), 5);
    let mut batch = batch_of(&[Part { tokens: &tokens, past: 0, pages: &[3], entry: -1 }], vec![]);
    batch.logits_rows.clear();
    let result = engine.step(&request(batch, &[])).unwrap();
    assert!(result.tokens.is_empty() && result.logits.is_none());
}

#[test]
fn a_graph_that_drops_rows_before_a_site_is_refused_by_name() {
    if !runtime_ready() {
        return;
    }
    let variant = Variant { forgetful_head: true, ..Variant::default() };
    let toy = Toy::new(variant);
    let mut engine = toy.engine(1);
    let handle = make_resident(&engine, &pool()[0]);
    let tokens = prompt(&mut Rng(9), 5);
    let mut batch = batch_of(&[Part { tokens: &tokens, past: 0, pages: &[0], entry: 0 }], vec![vec![(handle, 1.0)]]);
    batch.logits_rows = vec![4];
    let error = engine.step(&request(batch, &[])).err().unwrap();
    assert_eq!(error.code, Code::StepFailed);
    assert!(error.message.contains("DenseMatMul: site 8: expected the step's 5 rows, got 1"), "{error}");
}

#[test]
fn weights_of_another_shape_are_refused() {
    if !runtime_ready() {
        return;
    }
    let misfit = Toy::new(Variant { misfit: true, ..Variant::default() });
    let batch = batch_of(&[Part { tokens: &[1, 2], past: 0, pages: &[0], entry: -1 }], vec![]);
    let error = misfit.engine(1).step(&request(batch, &[])).err().unwrap();
    assert_eq!(error.code, Code::StepFailed);
    assert!(error.message.contains("DenseMatMul: input 1: expected [4, 24, 16], got"), "{error}");
}

type SpoilBatch = fn(&mut StepBatch, u32);
type SpoilOptions = fn(&mut EngineOptions);

/// A good batch of two sequences, 3 and 2 rows, to be spoiled.
fn good_batch(handle: u32) -> StepBatch {
    let parts =
        [Part { tokens: &[1, 2, 3], past: 0, pages: &[0, 1], entry: 0 }, Part { tokens: &[4, 5], past: 14, pages: &[2], entry: -1 }];
    batch_of(&parts, vec![vec![(handle, 1.0)]])
}

#[test]
fn bad_batches_are_refused_naming_the_array_and_change_nothing() {
    if !runtime_ready() {
        return;
    }
    let toy = Toy::new(Variant::default());
    let mut engine = toy.engine(1);
    let handle = make_resident(&engine, &pool()[0]);
    let dora = make_resident(&engine, &pool()[3]);
    let before = logits(&mut engine, good_batch(handle)).concat();
    let head = make_resident(&engine, &pool()[15]);
    let mut scaled = good_batch(head);
    scaled.adapter_table[0][0].1 = 0.5;
    assert!(engine.step(&request(scaled, &[])).err().unwrap().message.contains("stands alone"));
    let cases: [(&str, SpoilBatch); 33] = [
        ("tokens", |b, _| *b = StepBatch::default()),
        ("tokens", |b, _| b.tokens = vec![1; LIMITS.max_batch_tokens + 1]),
        ("tokens", |b, _| b.tokens[0] = VOCAB as i32),
        ("tokens", |b, _| b.tokens[0] = -(LIMITS.max_sequences as i32) - 1),
        ("tokens", |b, _| b.tokens[0] = i32::MIN),
        ("contextLens", |b, _| b.context_lens.clear()),
        ("contextLens", |b, _| b.context_lens = vec![1; LIMITS.max_sequences + 1]),
        ("contextLens", |b, _| b.context_lens[0] = 2),
        ("contextLens", |b, _| b.context_lens[1] = -5),
        ("contextLens", |b, _| b.context_lens[1] = LIMITS.max_model_len as i32 + 1),
        ("contextLens", |b, _| b.cu_seqlens = vec![0, 0, 5]),
        ("cuSeqlens", |b, _| b.cu_seqlens = vec![0, 3]),
        ("cuSeqlens", |b, _| b.cu_seqlens = vec![0, 3, 6]),
        ("cuSeqlens", |b, _| b.cu_seqlens = vec![0, 7, 5]),
        ("cuSeqlens", |b, _| b.cu_seqlens = vec![-1, 3, 5]),
        ("blockTables", |b, _| b.block_tables.truncate(3)),
        ("blockTables", |b, _| b.max_blocks = usize::MAX),
        ("blockTables", |b, _| b.block_tables[0] = -1),
        ("blockTables", |b, _| b.block_tables[0] = LIMITS.kv_pages as i32),
        ("blockTables", |b, _| b.context_lens[0] = 33),
        ("slotMapping", |b, _| b.slot_mapping.truncate(4)),
        ("slotMapping", |b, _| b.slot_mapping[0] = -2),
        ("slotMapping", |b, _| b.slot_mapping[0] = (LIMITS.kv_pages * PAGE) as i32),
        ("slotMapping", |b, _| b.slot_mapping[4] = b.slot_mapping[0]),
        ("segmentIndptr", |b, _| b.segment_indptr = vec![0, 3, 4]),
        ("segmentIndptr", |b, _| (b.segment_indptr, b.segment_adapters) = (vec![0], vec![])),
        ("segmentAdapters", |b, _| b.segment_adapters[0] = 1),
        ("segmentAdapters", |b, _| b.segment_adapters[0] = -2),
        ("adapterTable", |b, _| b.adapter_table[0][0].1 = f32::NAN),
        ("adapterTable", |b, dora| b.adapter_table[0] = vec![(dora, 0.5)]),
        ("adapterTable", |b, dora| b.adapter_table[0].push((dora, 1.0))),
        ("logitsRows", |b, _| b.logits_rows[4] = 5),
        ("logitsRows", |b, _| b.logits_rows[1] = 0),
    ];
    for (i, (array, spoil)) in cases.iter().enumerate() {
        let mut batch = good_batch(handle);
        spoil(&mut batch, dora);
        let error = engine.step(&request(batch, &[])).err().unwrap_or_else(|| panic!("case {i} ({array}) was accepted"));
        assert_eq!(error.code, Code::StepFailed, "case {i}");
        assert!(error.message.contains(array), "case {i}: expected {array} in: {error}");
    }
    let mut unknown = good_batch(handle);
    unknown.adapter_table[0][0].0 = 999;
    let error = engine.step(&request(unknown, &[])).err().unwrap();
    assert!(error.message.contains("adapter handle 999 is not resident"), "{error}");
    for (slots, what) in [([-2, 0], "got -2"), ([0, 32], "got 32")] {
        let error = engine.step(&request(good_batch(handle), &slots)).err().unwrap();
        assert!(error.code == Code::StepFailed && error.message.contains("sampling.slot") && error.message.contains(what), "{error}");
    }
    let mut short = request(good_batch(handle), &[]);
    short.sampling.pop();
    assert!(engine.step(&short).err().unwrap().message.contains("sampling: expected 5 rows, got 4"));
    assert_eq!(bits(&before), bits(&logits(&mut engine, good_batch(handle)).concat()), "a refused batch left a trace");
}

#[test]
fn a_released_adapter_lives_until_its_step_ends() {
    let toy = Toy::new(Variant::default());
    let store = AdapterStore::default();
    let weights = Weights::open(&toy.options(1).directory.join("weights.bin")).unwrap();
    let handle = store.next_handle();
    let (file, plan) = (pool()[1].file(), pool()[1].plan());
    let adapter = compile::compile(handle, &file, &plan, FactorStorage::File, &Toy::manifest(), &weights).unwrap();
    let bytes = adapter.bytes;
    store.insert(Arc::new(adapter));
    assert_eq!(store.memory(), (bytes, 1));
    let context = StepContext::build(&good_batch(handle), &LIMITS, &store).unwrap();
    store.release(handle);
    store.release(handle);
    assert_eq!(store.memory(), (bytes, 1), "the step still holds it");
    assert!(StepContext::build(&good_batch(handle), &LIMITS, &store).is_err(), "no new step may use it");
    drop(context);
    assert_eq!(store.memory(), (0, 0));
}

#[test]
fn handles_of_adapters_are_never_used_twice() {
    if !runtime_ready() {
        return;
    }
    let toy = Toy::new(Variant::default());
    let shared = toy.engine(1).shared();
    let Compiled { handle, bytes, .. } = shared.compile_adapter(&pool()[1].file(), &pool()[1].plan()).unwrap();
    assert_eq!(shared.adapters.memory(), (bytes, 1));
    shared.adapters.release(handle);
    assert_eq!(shared.adapters.memory(), (0, 0));
    let next = shared.compile_adapter(&pool()[1].file(), &pool()[1].plan()).unwrap().handle;
    assert_ne!(next, handle);
    shared.adapters.clear();
    assert_eq!(shared.adapters.memory(), (0, 0));
}

#[test]
fn engine_options_out_of_bounds_are_refused_by_name() {
    if !runtime_ready() {
        return;
    }
    let toy = Toy::new(Variant::default());
    let cases: [(&str, SpoilOptions); 7] = [
        ("threads", |o| o.threads = 0),
        ("maxModelLen", |o| o.limits.max_model_len = u32::MAX as usize),
        ("maxSequences", |o| o.limits.max_sequences = 0),
        ("maxBatchTokens", |o| o.limits.max_batch_tokens = 0),
        ("kvBlocks", |o| o.limits.kv_pages = u32::MAX as usize),
        ("tokenCount", |o| o.token_count = 0),
        ("weights.bin", |o| o.directory.push("nowhere")),
    ];
    for (name, spoil) in cases {
        let mut options = toy.options(1);
        spoil(&mut options);
        let error = Engine::open(Toy::manifest(), &options).err().unwrap();
        assert!(error.message.contains(name), "expected {name} in: {error}");
    }
}
