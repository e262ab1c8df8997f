//! The engine on a CUDA device, or on the emulator of one: the toy decoder against the same in float64, and against the
//! engine on the CPU, step by step.
#![cfg(any(feature = "cuda", feature = "cuda-emulated"))]
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

use common::Rng;
use loramux_native::adapters::compile::FactorStorage;
use loramux_native::constraint::Constraint;
use loramux_native::kernels::quantised::Bits;
use loramux_native::kernels::simd::Dtype;
use loramux_native::sampler::{Logprobs, NO_TOKEN, Penalties, RowSampling, Scope};
use loramux_native::session::core::Begun;
use loramux_native::session::engine::{Engine, EngineOptions};
use loramux_native::session::step::{Score, StepRequest, StepResult};
use toy::adapter::Adapter;
use toy::device::{device_engine, device_ready, tokenizer_json};
use toy::steps::{Part, batch_of, distance, generate, logits, make_resident, pool, prompt, request};
use toy::{LIMITS, Toy, VOCAB, Variant};

/// Largest difference from the float64 decoder with logits of the order of 1 to 5: in float32, and in float16, which has 11
/// bits and is rounded after every operator.
const TOLERANCE: [(Dtype, f64); 2] = [(Dtype::F32, 1e-4), (Dtype::F16, 8e-2)];

fn toy_in(dtype: Dtype) -> Toy {
    Toy::new(Variant { dtype, ..Variant::default() })
}

fn largest_difference(found: &[Vec<f32>], wanted: &[Vec<f64>]) -> f64 {
    assert_eq!(found.len(), wanted.len(), "rows");
    let pairs = found.iter().flatten().zip(wanted.iter().flatten());
    pairs.map(|(f, w)| (f64::from(*f) - w).abs()).fold(0.0, |worst, d| if d.is_nan() { f64::NAN } else { worst.max(d) })
}

#[test]
fn prefill_matches_the_decoder_in_float64_for_the_base_and_every_adapter() {
    if !device_ready() {
        return;
    }
    for (dtype, tolerance) in TOLERANCE {
        let toy = toy_in(dtype);
        let mut engine = device_engine(&toy);
        let tokens = prompt(&mut Rng(1), 37);
        let part = |entry| [Part { tokens: &tokens, past: 0, pages: &[5, 2, 9], entry }];
        let mut worst = largest_difference(&logits(&mut engine, batch_of(&part(-1), vec![])), &toy.reference(&tokens, &[]));
        for (i, adapter) in pool().iter().enumerate() {
            let handle = make_resident(&engine, adapter);
            let found = logits(&mut engine, batch_of(&part(0), vec![vec![(handle, 1.0)]]));
            let difference = largest_difference(&found, &toy.reference(&tokens, &[(adapter, 1.0)]));
            assert!(difference <= tolerance, "{dtype:?}, adapter {i}: off by {difference}");
            worst = worst.max(difference);
        }
        assert!(worst <= tolerance, "{dtype:?}: off by {worst}");
        println!("{dtype:?}: largest difference from float64 logits {worst:.2e}");
    }
}

#[test]
fn quantised_weights_are_multiplied_as_their_blocks_hold_them() {
    if !device_ready() {
        return;
    }
    let (_, tolerance) = TOLERANCE[1];
    for bits in [Bits::Eight, Bits::Four] {
        let toy = Toy::new(Variant { dtype: Dtype::F16, bits: Some(bits), ..Variant::default() });
        assert!(toy.own_manifest().sites[1].modules[0].weight.format.is_quantised());
        let mut engine = device_engine(&toy);
        let tokens = prompt(&mut Rng(12), 9);
        // The norms of DoRA's gains are those of quantised rows.
        let dora = Adapter::random(3, 5, Dtype::F16, true, &[(1, 0), (5, 0)]);
        let handle = make_resident(&engine, &dora);
        for rows in [tokens.len(), 1] {
            let part = |entry| [Part { tokens: &tokens[..rows], past: 0, pages: &[3], entry }];
            let mut worst = largest_difference(&logits(&mut engine, batch_of(&part(-1), vec![])), &toy.reference(&tokens[..rows], &[]));
            let found = logits(&mut engine, batch_of(&part(0), vec![vec![(handle, 1.0)]]));
            worst = worst.max(largest_difference(&found, &toy.reference(&tokens[..rows], &[(&dora, 1.0)])));
            assert!(worst <= tolerance, "{bits:?}, {rows} rows: off by {worst}");
            println!("{bits:?}, {rows} rows: largest difference from float64 logits {worst:.2e}");
        }
    }
}

#[test]
fn factors_as_bytes_stay_near_in_short_and_long_segments() {
    if !device_ready() {
        return;
    }
    let tokens = prompt(&mut Rng(7), 37);
    for dtype in [Dtype::F32, Dtype::F16] {
        let toy = toy_in(dtype);
        let options = EngineOptions { factors: FactorStorage::Int8, ..toy::device::device_options(&toy) };
        let mut engine = Engine::open(toy.own_manifest(), &options).unwrap();
        // Of 37 rows all adapters' are long; rows that go by sevens are short.
        for (adapter, rows) in [(0, 37), (1, 37), (4, 37), (5, 7), (17, 7)] {
            let adapter = &pool()[adapter];
            let handle = make_resident(&engine, adapter);
            let (wanted, base) = (toy.reference(&tokens, &[(adapter, 1.0)]), toy.reference(&tokens, &[]));
            let mut found = Vec::new();
            for (i, piece) in tokens.chunks(rows).enumerate() {
                let part = [Part { tokens: piece, past: i * rows, pages: &[5, 2, 9], entry: 0 }];
                found.extend(logits(&mut engine, batch_of(&part, vec![vec![(handle, 1.0)]])));
            }
            let found: Vec<Vec<f64>> = found.iter().map(|row| row.iter().map(|&v| f64::from(v)).collect()).collect();
            let of_effect = distance(&found, &wanted) / distance(&wanted, &base);
            assert!(of_effect < 0.05, "{dtype:?}: off by {of_effect} of what the adapter changes");
            println!("{dtype:?}, pieces of {rows}: int8 factors are off by {of_effect:.2e} of what the adapter changes");
        }
    }
}

#[test]
fn an_entry_of_several_adapters_is_the_sum_of_its_terms() {
    if !device_ready() {
        return;
    }
    let toy = toy_in(Dtype::F32);
    let mut engine = device_engine(&toy);
    let (tokens, adapters) = (prompt(&mut Rng(2), 21), pool());
    for list in
        [vec![(0, 0.5f32), (1, -0.75)], vec![(2, 1.0), (5, 0.5), (0, 0.25)], vec![(8, 0.5), (9, -1.0)], vec![(10, 0.5), (12, -0.75)]]
    {
        let terms: Vec<_> = list.iter().map(|&(i, w)| (&adapters[i], w)).collect();
        let table = list.iter().map(|&(i, w)| (make_resident(&engine, &adapters[i]), w)).collect();
        let part = Part { tokens: &tokens, past: 0, pages: &[1, 0], entry: 0 };
        let found = logits(&mut engine, batch_of(&[part], vec![table]));
        let difference = largest_difference(&found, &toy.reference(&tokens, &terms));
        assert!(difference <= 1e-4, "{list:?}: off by {difference}");
    }
}

#[test]
fn rows_of_a_mixed_batch_are_the_same_rows_alone() {
    if !device_ready() {
        return;
    }
    let mut rng = Rng(3);
    let n = 12;
    let prompts: Vec<_> = (0..n).map(|i| prompt(&mut rng, [1, 2, 3, 5, 16, 17, 33][i % 7])).collect();
    let toy = toy_in(Dtype::F32);
    let mut engine = device_engine(&toy);
    let table: Vec<_> = pool().iter().map(|adapter| vec![(make_resident(&engine, adapter), 1.0)]).collect();
    let shapes: [(&str, Vec<i32>); 4] = [
        ("distinct", (0..n).map(|i| i as i32 % 19 - 1).collect()),
        ("the last ones", (0..n).map(|i| 17 - i as i32 % 9).collect()),
        ("identical", vec![7; n]),
        ("base only", vec![-1; n]),
    ];
    for (shape, entries) in &shapes {
        let together = generate(&mut engine, &prompts, entries, &table, &(0..n).collect::<Vec<_>>());
        for (i, mixed) in together.iter().enumerate() {
            let alone: Vec<Vec<f64>> = generate(&mut engine, &prompts, entries, &table, &[i])[0]
                .iter()
                .map(|row| row.iter().map(|&v| f64::from(v)).collect())
                .collect();
            let difference = largest_difference(mixed, &alone);
            assert!(difference <= 2e-5, "{shape}: sequence {i} differs by {difference}");
        }
    }
}

#[test]
fn chunked_prefill_is_one_shot() {
    if !device_ready() {
        return;
    }
    let toy = toy_in(Dtype::F32);
    let mut engine = device_engine(&toy);
    let (tokens, adapter) = (prompt(&mut Rng(5), 50), &pool()[17]);
    let table = vec![vec![(make_resident(&engine, adapter), 1.0)]];
    let wanted = toy.reference(&tokens, &[(adapter, 1.0)]);
    for chunk in [1, 7, 16, 31] {
        let mut rows = Vec::new();
        for (i, tokens) in tokens.chunks(chunk).enumerate() {
            let part = Part { tokens, past: i * chunk, pages: &[9, 4, 30, 11], entry: 0 };
            rows.extend(logits(&mut engine, batch_of(&[part], table.clone())));
        }
        let difference = largest_difference(&rows, &wanted);
        assert!(difference <= 1e-4, "chunks of {chunk}: off by {difference}");
    }
}

/// The CPU's engine and the device's, with the same adapters resident under the same table.
struct Both {
    toy: Toy,
    cpu: Engine,
    device: Engine,
    tables: [Vec<Vec<(u32, f32)>>; 2],
}

impl Both {
    fn new() -> Self {
        let toy = toy_in(Dtype::F32);
        std::fs::write(toy.options(1).directory.join("tokenizer.json"), tokenizer_json()).unwrap();
        let (cpu, device) = (toy.engine(1), device_engine(&toy));
        let table = |engine: &Engine| pool().iter().map(|adapter| vec![(make_resident(engine, adapter), 1.0)]).collect();
        let tables = [table(&cpu), table(&device)];
        Self { toy, cpu, device, tables }
    }

    /// The same step on both. Numbers that come of logits are close, all else is equal; the CPU's result.
    fn step(&mut self, make: impl Fn(&[Vec<(u32, f32)>]) -> StepRequest) -> StepResult {
        let wanted = self.cpu.step(&make(&self.tables[0])).unwrap();
        let found = self.device.step(&make(&self.tables[1])).unwrap();
        assert_eq!(found.tokens, wanted.tokens);
        assert_eq!(found.failures, wanted.failures);
        assert_eq!((&found.top.indptr, &found.top.ids), (&wanted.top.indptr, &wanted.top.ids));
        assert_close("logprobs", &found.logprobs, &wanted.logprobs);
        assert_close("top logprobs", &found.top.logprobs, &wanted.top.logprobs);
        assert_close("logits", &found.logits.unwrap_or_default(), wanted.logits.as_deref().unwrap_or_default());
        wanted
    }
}

fn assert_close(what: &str, found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (f, w) in found.iter().zip(wanted) {
        assert!(
            (f - w).abs() <= 1e-4 || f.is_nan() && w.is_nan() || f.is_infinite() && f.to_bits() == w.to_bits(),
            "{what}: got {f}, expected {w}"
        );
    }
}

/// What a test's sequences are: prompt, adapter, pages; slot i is the i-th's.
fn sequences(rng: &mut Rng, n: usize) -> Vec<(Vec<i32>, i32, [i32; 4])> {
    let sequence = |i: usize| (prompt(rng, 1 + (i * 7) % 20), (i as i32 * 5) % 19 - 1, [0, 1, 2, 3].map(|p| (i * 4 + p) as i32 % 64));
    (0..n).map(sequence).collect()
}

/// Prefills all, then decodes with what slots sampled last; `wish` says how row (step, sequence) is sampled.
fn serve(both: &mut Both, n: usize, steps: usize, wish: impl Fn(usize, usize, &[u32]) -> RowSampling) -> Vec<Vec<u32>> {
    let sequences = sequences(&mut Rng(77), n);
    let mut histories: Vec<Vec<u32>> = sequences.iter().map(|s| s.0.iter().map(|&t| t as u32).collect()).collect();
    for step in 0..steps {
        let last: Vec<[i32; 1]> = (0..n).map(|i| [-(i as i32 + 1)]).collect();
        let make = |table: &[Vec<(u32, f32)>]| {
            let part = |i: usize| {
                let (prompt, entry, pages) = &sequences[i];
                let (tokens, past) = if step == 0 { (&prompt[..], 0) } else { (&last[i][..], prompt.len() + step - 1) };
                Part { tokens, past, pages, entry: *entry }
            };
            let parts: Vec<_> = (0..n).map(part).collect();
            let mut batch = batch_of(&parts, table.to_vec());
            batch.logits_rows = batch.cu_seqlens[1..].iter().map(|end| end - 1).collect();
            let mut request = request(batch, &(0..n as i32).collect::<Vec<_>>());
            request.return_logits = if n == 1 { vec![0] } else { vec![0, n - 1] };
            request.sampling = (0..n).map(|i| wish(step, i, &histories[i])).collect();
            request
        };
        let result = both.step(make);
        for (history, token) in histories.iter_mut().zip(&result.tokens) {
            history.push(*token);
        }
    }
    histories
}

#[test]
fn greedy_tokens_fed_from_slots_are_those_of_the_cpu_in_every_bucket() {
    if !device_ready() {
        return;
    }
    let mut both = Both::new();
    for n in [1, 2, 3, 5, 8, 13] {
        let histories = serve(&mut both, n, 6, |_, _, _| RowSampling::default());
        assert!(histories.iter().all(|history| history.len() >= 7 && !history.contains(&NO_TOKEN)));
    }
    assert_eq!(both.toy.options(1).limits.max_sequences, LIMITS.max_sequences);
}

#[test]
fn everything_that_sampling_does_is_the_same() {
    if !device_ready() {
        return;
    }
    let mut both = Both::new();
    let wish = |step: usize, i: usize, history: &[u32]| {
        let scope = if i.is_multiple_of(2) { Scope::Output } else { Scope::Sequence };
        let prompt_length = history.len() - step;
        let penalties = |repetition, presence, frequency| {
            Some(Penalties { repetition, presence, frequency, scope, history: history.to_vec(), prompt_length })
        };
        let plain = RowSampling { greedy: false, seed: 40 + i as u64, position: step as u32, ..RowSampling::default() };
        match i % 9 {
            0 => RowSampling { logprobs: Some(Logprobs { raw: true, top: 5 }), ..RowSampling::default() },
            1 => RowSampling {
                penalties: penalties(1.3, 0.5, 0.25),
                logprobs: Some(Logprobs { raw: false, top: 3 }),
                ..RowSampling::default()
            },
            2 => RowSampling { penalties: penalties(1.0, 0.7, 0.0), temperature: 0.7, ..plain },
            3 => RowSampling { penalties: penalties(0.8, 0.0, 1.5), top_k: 7, logprobs: Some(Logprobs { raw: false, top: 9 }), ..plain },
            4 => RowSampling { bias: vec![(3, 2.0), (9, -4.0), (11, 1.5)], top_p: 0.8, ..plain },
            5 => RowSampling { banned: vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 1 << 20], min_p: 0.05, temperature: 1.4, ..plain },
            6 => RowSampling { typical_p: 0.7, logprobs: Some(Logprobs { raw: true, top: 0 }), ..plain },
            7 => RowSampling { choice: 3, logprobs: Some(Logprobs { raw: true, top: VOCAB }), ..plain },
            _ => RowSampling { bias: (0..VOCAB as u32).map(|id| (id, f32::NEG_INFINITY)).collect(), ..plain },
        }
    };
    // A row whose every logit is −∞ has no token: nothing goes on from there.
    serve(&mut both, 9, 1, wish);
    serve(&mut both, 8, 8, wish);
}

#[test]
fn guesses_are_followed_only_where_they_were_right() {
    if !device_ready() {
        return;
    }
    let mut both = Both::new();
    let tokens = prompt(&mut Rng(9), 6);
    let prefill = |table: &[Vec<(u32, f32)>]| {
        let mut batch = batch_of(&[Part { tokens: &tokens, past: 0, pages: &[0, 1], entry: 3 }], table.to_vec());
        batch.logits_rows = vec![5];
        request(batch, &[4])
    };
    let first = both.step(prefill).tokens[0] as i32;
    // What the model says next, to know right guesses.
    let mut right = vec![first];
    for i in 0..3 {
        let last = [right[i]];
        let step = |table: &[Vec<(u32, f32)>]| {
            request(batch_of(&[Part { tokens: &last, past: 6 + i, pages: &[0, 1], entry: 3 }], table.to_vec()), &[4])
        };
        right.push(both.step(step).tokens[0] as i32);
    }
    for wrong in [None, Some(1), Some(2)] {
        let mut drafts = vec![-5, right[1], right[2]];
        if let Some(at) = wrong {
            drafts[at] = (right[at] + 1) % VOCAB as i32;
        }
        both.cpu.step(&prefill(&both.tables[0])).unwrap();
        both.device.step(&prefill(&both.tables[1])).unwrap();
        let step = |table: &[Vec<(u32, f32)>]| {
            let batch = batch_of(&[Part { tokens: &drafts, past: 6, pages: &[0, 1], entry: 3 }], table.to_vec());
            let mut request = request(batch, &[4, 4, 4]);
            request.follows = vec![-1, drafts[1], drafts[2]];
            request
        };
        let found = both.step(step).tokens;
        let expected = wrong.map_or(3, |at| at);
        assert_eq!(found.iter().filter(|&&token| token != NO_TOKEN).count(), expected, "{wrong:?}");
        // The slot remembers the last token that was.
        both.step(|table| request(batch_of(&[Part { tokens: &[-5], past: 6 + expected, pages: &[0, 1], entry: 3 }], table.to_vec()), &[4]));
    }
}

#[test]
fn scored_rows_report_the_tokens_that_were_given() {
    if !device_ready() {
        return;
    }
    let mut both = Both::new();
    let tokens = prompt(&mut Rng(10), 12);
    both.step(|table| {
        let mut request = request(batch_of(&[Part { tokens: &tokens, past: 0, pages: &[7], entry: 8 }], table.to_vec()), &[]);
        request.scores = (0..11).map(|i| Some(Score { token: tokens[i + 1] as u32, top: i })).chain([None]).collect();
        (request.sampling, request.slots, request.constraints, request.follows) =
            (vec![RowSampling::default()], vec![2], vec![-1], vec![-1]);
        request
    });
    // The model's own likelihoods, without a list.
    let mut plain = request(batch_of(&[Part { tokens: &tokens, past: 0, pages: &[7], entry: -1 }], vec![]), &[]);
    plain.sampling[0].logprobs = Some(Logprobs { raw: true, top: 0 });
    assert!(both.device.step(&plain).is_ok());
}

#[test]
fn constraints_are_obeyed_also_where_rows_stand_on_guesses() {
    if !device_ready() {
        return;
    }
    let mut both = Both::new();
    let open = |engine: &Engine, pattern: &str| engine.shared().constraints.open(Constraint::Regex(pattern.to_owned())).unwrap();
    let patterns = ["[a-f]+x", "(ab|cd){3}", "h"];
    let handles: Vec<[i32; 2]> = patterns.iter().map(|pattern| [open(&both.cpu, pattern), open(&both.device, pattern)]).collect();
    let prompts: Vec<_> = (0..3).map(|i| prompt(&mut Rng(20 + i), 4)).collect();
    let pages = [[0], [1], [2]];
    let mut chosen: Vec<Vec<i32>> = vec![Vec::new(); 3];
    for step in 0..4 {
        let last: Vec<[i32; 1]> = (0..3).map(|i| [-(i + 1)]).collect();
        let mut side = 0;
        let sides = [0, 1];
        let requests = sides.map(|of| {
            let parts: Vec<_> = (0..3)
                .map(|i| Part {
                    tokens: if step == 0 { &prompts[i] } else { &last[i] },
                    past: if step == 0 { 0 } else { 3 + step },
                    pages: &pages[i],
                    entry: i as i32,
                })
                .collect();
            let mut batch = batch_of(&parts, both.tables[of].clone());
            batch.logits_rows = batch.cu_seqlens[1..].iter().map(|end| end - 1).collect();
            let mut request = request(batch, &[0, 1, 2]);
            request.constraints = handles.iter().map(|pair| pair[of]).collect();
            request.sampling[1].banned = vec![3];
            request
        });
        let [cpu, device] = requests;
        let wanted = both.cpu.step(&cpu).unwrap();
        side += 1;
        let found = both.device.step(&device).unwrap();
        assert_eq!(side, 1);
        assert_eq!((&found.tokens, &found.failures), (&wanted.tokens, &wanted.failures), "step {step}");
        for (chosen, token) in chosen.iter_mut().zip(&found.tokens) {
            chosen.push(*token as i32);
        }
        if found.tokens.contains(&NO_TOKEN) {
            break;
        }
    }
    println!("constrained tokens: {chosen:?}");

    // Three rows of one sequence: the second and third stand on guesses, whose masks are those of the guesses.
    let pattern = "abcdef(g|h)";
    let both_handles = [open(&both.cpu, pattern), open(&both.device, pattern)];
    let ids = |text: &str| text.bytes().map(|byte| i32::from(byte - b'a')).collect::<Vec<_>>();
    for guesses in ["ab", "aq", "zz"] {
        let guessed = ids(guesses);
        let rows = [5, guessed[0], guessed[1]];
        let requests = [0, 1].map(|of| {
            let batch = batch_of(&[Part { tokens: &rows, past: 0, pages: &[9], entry: 2 }], both.tables[of].clone());
            let mut request = request(batch, &[6, 6, 6]);
            request.constraints = vec![both_handles[of]; 3];
            request.follows = vec![-1, guessed[0], guessed[1]];
            request
        });
        let [cpu, device] = requests;
        let (wanted, found) = (both.cpu.step(&cpu).unwrap(), both.device.step(&device).unwrap());
        assert_eq!((&found.tokens, &found.failures), (&wanted.tokens, &wanted.failures), "guesses {guesses}");
    }
}

#[test]
fn released_adapters_leave_the_device() {
    if !device_ready() {
        return;
    }
    let toy = toy_in(Dtype::F32);
    let mut engine = device_engine(&toy);
    let shared = engine.shared();
    let tokens = prompt(&mut Rng(11), 5);
    let handles: Vec<_> = pool().iter().map(|adapter| make_resident(&engine, adapter)).collect();
    assert_eq!(shared.adapters.memory().1, handles.len());
    for &handle in &handles {
        let part = [Part { tokens: &tokens, past: 0, pages: &[0], entry: 0 }];
        logits(&mut engine, batch_of(&part, vec![vec![(handle, 1.0)]]));
        shared.adapters.release(handle);
        let gone = request(batch_of(&part, vec![vec![(handle, 1.0)]]), &[]);
        assert!(engine.step(&gone).err().unwrap().message.contains("is not resident"));
    }
    assert_eq!(shared.adapters.memory(), (0, 0));
}

/// What lies in each page of a device, as the scheduler and the adapters' residency keep it between them.
struct Hands {
    rng: Rng,
    /// Adapter or none, and what was there before that.
    pages: Vec<(Hand, Hand)>,
    /// How many pages went from keys and values to adapters, and back.
    passed: [usize; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hand {
    Free,
    Keys,
    Adapter,
}

impl Hands {
    fn new(pages: usize) -> Self {
        Self { rng: Rng(21), pages: vec![(Hand::Free, Hand::Free); pages], passed: [0; 2] }
    }

    /// A run of free neighbours, anywhere.
    fn take(&mut self, length: usize, to: Hand) -> Option<Vec<i32>> {
        let free = |first: &usize| self.pages[*first..first + length].iter().all(|(now, _)| *now == Hand::Free);
        let starts: Vec<usize> = (0..=self.pages.len() - length).filter(free).collect();
        let first = *starts.get(self.rng.below(starts.len().max(1)))?;
        for (now, before) in &mut self.pages[first..first + length] {
            self.passed[0] += usize::from(*before == Hand::Keys && to == Hand::Adapter);
            self.passed[1] += usize::from(*before == Hand::Adapter && to == Hand::Keys);
            (*now, *before) = (to, to);
        }
        Some((first..first + length).map(|page| page as i32).collect())
    }

    fn give(&mut self, pages: &[i32]) {
        for &page in pages {
            self.pages[page as usize].0 = Hand::Free;
        }
    }
}

/// A device's engine whose adapters come and go.
struct Paged {
    engine: Engine,
    hands: Hands,
    adapters: Vec<toy::adapter::Adapter>,
    /// By adapter: handle and pages.
    resident: Vec<Option<(u32, Vec<i32>)>>,
}

impl Paged {
    /// False when there is no room now.
    fn load(&mut self, adapter: usize) -> bool {
        let shared = self.engine.shared();
        let adapter_of = &self.adapters[adapter];
        let compiled = shared.compile_adapter(&adapter_of.file(), &adapter_of.plan()).unwrap();
        let mut pages = Vec::new();
        for &run in &compiled.runs {
            let Some(found) = self.hands.take(run, Hand::Adapter) else {
                self.hands.give(&pages);
                drop(shared.adapters.release(compiled.handle));
                return false;
            };
            pages.extend(found);
        }
        shared.adapters.place(compiled.handle, &pages).unwrap();
        self.resident[adapter] = Some((compiled.handle, pages));
        true
    }

    fn evict(&mut self, adapter: usize) {
        let Some((handle, pages)) = self.resident[adapter].take() else { return };
        drop(self.engine.shared().adapters.release(handle));
        self.hands.give(&pages);
    }
}

#[test]
fn pages_pass_between_keys_and_adapters_and_the_cpus_answers_stay() {
    const PAGES: usize = 100;
    const SEQUENCES: usize = 5;
    if !device_ready() {
        return;
    }
    let toy = toy_in(Dtype::F32);
    let mut options = toy::device::device_options(&toy);
    options.limits.kv_pages = PAGES;
    let (mut cpu, engine) = (toy.engine(1), Engine::open(toy.own_manifest(), &options).unwrap());
    let adapters = pool();
    let on_cpu: Vec<u32> = adapters.iter().map(|adapter| make_resident(&cpu, adapter)).collect();
    let resident = vec![None; adapters.len()];
    let mut paged = Paged { engine, hands: Hands::new(PAGES), adapters, resident };
    let mut rng = Rng(22);
    let (mut loads, mut full) = (0, 0);
    for round in 0..20 {
        // Whichever adapters the round's sequences have are held; the others come and go between its steps.
        let held: Vec<usize> =
            (0..paged.adapters.len()).filter(|&a| paged.resident[a].is_some() && rng.below(3) > 0).take(SEQUENCES).collect();
        let of = |s: usize| (s > 0).then(|| held.get(s - 1).copied()).flatten();
        let mut fed: Vec<Vec<i32>> = (0..SEQUENCES)
            .map(|_| {
                let length = 1 + rng.below(34);
                prompt(&mut rng, length)
            })
            .collect();
        let mut past = [0; SEQUENCES];
        let mut blocks: Vec<Vec<i32>> = vec![Vec::new(); SEQUENCES];
        for step in 0..4 {
            for s in 0..SEQUENCES {
                while blocks[s].len() * 16 < past[s] + fed[s].len() {
                    let page = loop {
                        if let Some(page) = paged.hands.take(1, Hand::Keys) {
                            break page;
                        }
                        let idle = (0..paged.adapters.len()).find(|a| paged.resident[*a].is_some() && !held.contains(a)).unwrap();
                        paged.evict(idle);
                    };
                    blocks[s].extend(page);
                }
            }
            let table = |handle: &dyn Fn(usize) -> u32| held.iter().map(|&a| vec![(handle(a), 1.0)]).collect::<Vec<_>>();
            let entry = |s: usize| of(s).map_or(-1, |_| s as i32 - 1);
            let own: Vec<Vec<i32>> = (0..SEQUENCES as i32).map(|s| (s * 4..s * 4 + 4).collect()).collect();
            let parts = |pages: &'_ [Vec<i32>]| {
                batch_of(
                    &(0..SEQUENCES).map(|s| Part { tokens: &fed[s], past: past[s], pages: &pages[s], entry: entry(s) }).collect::<Vec<_>>(),
                    Vec::new(),
                )
            };
            let (mut here, mut there) = (parts(&blocks), parts(&own));
            here.adapter_table = table(&|a| paged.resident[a].as_ref().unwrap().0);
            there.adapter_table = table(&|a| on_cpu[a]);
            let wanted: Vec<Vec<f64>> = logits(&mut cpu, there).iter().map(|row| row.iter().map(|&v| f64::from(v)).collect()).collect();
            let difference = largest_difference(&logits(&mut paged.engine, here), &wanted);
            assert!(difference <= 2e-4, "round {round}, step {step}: off by {difference}");
            for s in 0..SEQUENCES {
                past[s] += fed[s].len();
                fed[s] = vec![((round * 13 + step * 5 + s) % VOCAB) as i32];
            }
            let other = rng.below(paged.adapters.len());
            if held.contains(&other) {
                continue;
            }
            if paged.resident[other].is_some() {
                paged.evict(other);
            } else if paged.load(other) {
                loads += 1;
            } else {
                full += 1;
            }
        }
        for pages in &blocks {
            paged.hands.give(pages);
        }
    }
    println!("{loads} loads, {full} without room; pages that passed to adapters and back: {:?}", paged.hands.passed);
    assert!(loads >= 10 && paged.hands.passed.iter().all(|&passed| passed > 10), "{loads} loads, {:?}", paged.hands.passed);
}

#[test]
fn a_step_and_an_adapter_never_have_the_same_page() {
    if !device_ready() {
        return;
    }
    let toy = toy_in(Dtype::F32);
    let mut engine = device_engine(&toy);
    let shared = engine.shared();
    let compiled = shared.compile_adapter(&pool()[1].file(), &pool()[1].plan()).unwrap();
    let pages = toy::steps::own_pages(&compiled);
    let tokens = prompt(&mut Rng(4), 20);
    let part = |pages: &[i32], entry: i32| batch_of(&[Part { tokens: &tokens, past: 0, pages, entry }], vec![vec![(compiled.handle, 1.0)]]);
    let gone = engine.step(&request(part(&[0, 1], 0), &[])).err().unwrap();
    assert!(gone.message.contains("is not resident"), "an adapter that has no pages yet: {gone}");
    shared.adapters.place(compiled.handle, &pages).unwrap();
    assert!(shared.adapters.place(compiled.handle, &pages).err().unwrap().message.contains("waits for no pages"));
    for at in [0, 1] {
        let mut blocks = [0, 1];
        blocks[at] = pages[1];
        let error = engine.step(&request(part(&blocks, 0), &[])).err().unwrap();
        assert!(error.code == loramux_native::error::Code::StepFailed && error.message.contains("holds an adapter"), "{error}");
    }
    // What a row writes is its own affair, wherever its sequence's blocks lie.
    let mut astray = part(&[0, 1], 0);
    astray.slot_mapping[3] = pages[0] * 16 + 5;
    assert!(engine.step(&request(astray, &[])).err().unwrap().message.contains("holds an adapter"));
    logits(&mut engine, part(&[0, 1], 0));
    drop(shared.adapters.release(compiled.handle));
    logits(&mut engine, part(&[pages[0], pages[1]], -1));
}

#[test]
fn a_step_may_ask_for_no_logits_at_all() {
    if !device_ready() {
        return;
    }
    let mut both = Both::new();
    let tokens = prompt(&mut Rng(8), 5);
    both.step(|table| {
        let mut batch = batch_of(&[Part { tokens: &tokens, past: 0, pages: &[3], entry: 5 }], table.to_vec());
        batch.logits_rows.clear();
        request(batch, &[])
    });
    both.step(|table| request(batch_of(&[Part { tokens: &[7], past: 5, pages: &[3], entry: 5 }], table.to_vec()), &[]));
}

#[test]
fn what_the_device_cannot_do_is_refused_by_name() {
    if !device_ready() {
        return;
    }
    let toy = toy_in(Dtype::F32);
    let options = toy::device::device_options(&toy);
    let refused = |manifest, options: &EngineOptions| Engine::open(manifest, options).err().unwrap().message;
    let int4 = EngineOptions { factors: FactorStorage::Int4, ..options.clone() };
    assert!(refused(Toy::manifest(), &int4).contains("file or int8"));
    let narrow = EngineOptions { kv_dtype: Dtype::F16, ..options.clone() };
    assert!(refused(Toy::manifest(), &narrow).contains("kvDtype"));
    let mut panels = Toy::manifest();
    panels.sites[0].modules[0].weight.format = loramux_native::manifest::Precision::F32Panels;
    assert!(refused(panels, &options).contains("row by row"));
    let mut nowhere = options;
    nowhere.cuda = nowhere.cuda.map(|cuda| loramux_native::session::engine::CudaOptions { device: 1000, ..cuda });
    assert!(refused(Toy::manifest(), &nowhere).contains("expected a device below"));
}

/// Steps of three sequences, two under an adapter: the prompts, then a token each.
fn steps(handle: u32, fed: &[Vec<Vec<i32>>]) -> Vec<StepRequest> {
    let pages = [[0, 3, 6], [1, 4, 7], [2, 5, 8]];
    let mut past = [0; 3];
    let mut requests = Vec::new();
    for tokens in fed {
        let part = |i: usize| Part { tokens: &tokens[i], past: past[i], pages: &pages[i], entry: [-1, 0, 0][i] };
        let mut batch = batch_of(&[part(0), part(1), part(2)], vec![vec![(handle, 1.0)]]);
        batch.logits_rows = batch.cu_seqlens[1..].iter().map(|end| end - 1).collect();
        let mut request = request(batch, &[4, 0, 2]);
        for (i, row) in request.sampling.iter_mut().enumerate() {
            row.position = u32::try_from(past[i] + tokens[i].len()).unwrap();
            row.logprobs = Some(Logprobs { raw: true, top: if requests.len() % 2 == 0 { 5 } else { 0 } });
        }
        past = [0, 1, 2].map(|i| past[i] + tokens[i].len());
        requests.push(request);
    }
    requests
}

#[test]
fn a_step_begun_behind_one_in_flight_stands_on_its_tokens_and_neither_disturbs_the_other() {
    if !device_ready() {
        return;
    }
    let toy = toy_in(Dtype::F32);
    let mut rng = Rng(31);
    let prompts = [19, 5, 12].map(|length| prompt(&mut rng, length)).to_vec();
    let (mut after, mut behind) = (device_engine(&toy), device_engine(&toy));

    let handle = make_resident(&after, &pool()[0]);
    let mut fed = vec![prompts.clone()];
    let mut wanted = Vec::new();
    for step in 0..6 {
        wanted.push(after.step(&steps(handle, &fed)[step]).unwrap());
        fed.push(wanted[step].tokens.iter().map(|&token| vec![i32::try_from(token).unwrap()]).collect());
    }

    let handle = make_resident(&behind, &pool()[0]);
    let by_slot = vec![vec![-5], vec![-1], vec![-3]];
    let requests = steps(handle, &[vec![prompts], vec![by_slot; 5]].concat());
    let mut found = Vec::new();
    let mut first = behind.begin(&requests[0]).unwrap();
    for request in &requests[1..] {
        let next = behind.begin(request).unwrap();
        found.push(finished(std::mem::replace(&mut first, next)));
    }
    // The engine may be gone by then.
    drop(behind);
    found.push(finished(first));

    for (step, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
        assert_eq!(found.tokens, wanted.tokens, "step {step}");
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&found.logprobs), bits(&wanted.logprobs), "step {step}");
        assert_eq!((&found.top.indptr, &found.top.ids), (&wanted.top.indptr, &wanted.top.ids), "step {step}");
        assert_eq!(bits(found.logits.as_ref().unwrap()), bits(wanted.logits.as_ref().unwrap()), "step {step}");
        assert!(found.run_seconds > 0.0);
    }
}

fn finished(step: Begun) -> StepResult {
    match step {
        Begun::Running(step) => step.finish().unwrap(),
        Begun::Done(_) => panic!("a device is not waited for"),
    }
}

#[test]
fn a_step_holds_its_adapters_until_its_own_end() {
    if !device_ready() {
        return;
    }
    let mut engine = device_engine(&toy_in(Dtype::F32));
    let [first, second] = [0, 1].map(|i| make_resident(&engine, &pool()[i]));
    let fed = [vec![vec![3, 4], vec![5], vec![6, 7, 8]]];
    let begun = [first, second].map(|handle| engine.begin(&steps(handle, &fed)[0]).unwrap());
    let shared = engine.shared();
    for handle in [first, second] {
        drop(shared.adapters.release(handle));
    }
    let mut left = vec![shared.adapters.memory().1];
    for step in begun {
        finished(step);
        left.push(shared.adapters.memory().1);
    }
    assert_eq!(left, [2, 1, 0]);
}

#[test]
fn a_step_that_is_refused_leaves_the_one_in_flight_alone() {
    if !device_ready() {
        return;
    }
    let toy = toy_in(Dtype::F32);
    let mut engine = device_engine(&toy);
    let fed = [vec![vec![3, 4], vec![5], vec![6, 7, 8]]];
    let handle = make_resident(&engine, &pool()[0]);
    let requests = steps(handle, &fed);
    let wanted = engine.step(&requests[0]).unwrap();
    let begun = engine.begin(&requests[0]).unwrap();
    let mut wrong = steps(handle, &fed).remove(0);
    wrong.batch.slot_mapping[1] = wrong.batch.slot_mapping[0];
    assert!(engine.begin(&wrong).is_err());
    let mut long = steps(handle, &fed).remove(0);
    long.sampling[0].logprobs = Some(Logprobs { raw: true, top: VOCAB });
    let queued = engine.begin(&long);
    assert_eq!(finished(begun).tokens, wanted.tokens);
    drop(queued);
}
