//! What only a GPU can show: the runtime's CUDA provider, bfloat16, and decoding steps captured as CUDA graphs. Without a GPU,
//! or without the provider beside the runtime, each test says so and passes.
#![cfg(any(feature = "cuda", feature = "cuda-emulated"))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "test code: a failure is a panic, sizes are small"
)]

mod common;
mod toy;

use common::Rng;
use loramux_native::constraint::store::ConstraintStore;
use loramux_native::cuda::engine::CudaCore;
use loramux_native::kernels::simd::Dtype;
use loramux_native::session::core::{Begun, Core, Residents, Step};
use loramux_native::session::engine::CudaOptions;
use loramux_native::session::last_sampled::LastSampled;
use loramux_native::session::step::StepResult;
use loramux_native::weights::Weights;
use std::sync::Arc;
use toy::device::{device_engine, device_options, gpu_ready};
use toy::steps::{Part, batch_of, logits, make_resident, own_pages, pool, prompt, request};
use toy::{LIMITS, Toy, VOCAB, Variant};

fn toy_in(dtype: Dtype) -> Toy {
    Toy::new(Variant { dtype, ..Variant::default() })
}

/// bfloat16 has 8 bits, rounded after every operator, with logits of the order of 1 to 5.
const BF16_TOLERANCE: f64 = 0.35;

#[test]
fn bfloat16_stays_near_the_decoder_in_float64() {
    if !gpu_ready() {
        return;
    }
    let toy = toy_in(Dtype::Bf16);
    let mut engine = device_engine(&toy);
    let tokens = prompt(&mut Rng(1), 37);
    for (i, adapter) in pool().iter().enumerate() {
        let handle = make_resident(&engine, adapter);
        let part = [Part { tokens: &tokens, past: 0, pages: &[5, 2, 9], entry: 0 }];
        let found = logits(&mut engine, batch_of(&part, vec![vec![(handle, 1.0)]]));
        let wanted = toy.reference(&tokens, &[(adapter, 1.0)]);
        let pairs = found.iter().flatten().zip(wanted.iter().flatten());
        let worst = pairs.map(|(f, w)| (f64::from(*f) - w).abs()).fold(0.0, f64::max);
        assert!(worst <= BF16_TOLERANCE, "adapter {i}: off by {worst}");
    }
}

/// A core of its own, whose captured graphs can be counted.
struct Stepper {
    core: CudaCore,
    table: Vec<Vec<(u32, f32)>>,
    last: LastSampled,
    constraints: Arc<ConstraintStore>,
}

impl Stepper {
    fn open(toy: &Toy, graphs: bool) -> Self {
        let (manifest, options) = (toy.own_manifest(), device_options(toy));
        let weights = Weights::open(&options.directory.join(&manifest.weights.file)).unwrap();
        let (core, adapters) = CudaCore::open(&manifest, &options, CudaOptions { device: 0, graphs, host_bytes: 0 }).unwrap();
        let resident = |adapter: &toy::adapter::Adapter| {
            let compiled = adapters.compile(&adapter.file(), &adapter.plan(), &manifest, &weights).unwrap();
            adapters.place(compiled.handle, &own_pages(&compiled)).unwrap();
            compiled.handle
        };
        let table = pool().iter().map(|adapter| vec![(resident(adapter), 1.0)]).collect();
        let constraints = Arc::new(ConstraintStore::new(options.directory, Vec::new()));
        Self { core, table, last: LastSampled::new(LIMITS.max_sequences, VOCAB), constraints }
    }

    /// One row of each sequence: what its slot sampled last, or `tokens` at the start.
    fn decode(&mut self, step: usize, entries: &[i32]) -> StepResult {
        let rows = entries.len();
        let tokens: Vec<[i32; 1]> = (0..rows as i32).map(|i| [if step == 0 { i * 3 % VOCAB as i32 } else { -(i + 1) }]).collect();
        let pages: Vec<[i32; 1]> = (0..rows as i32).map(|i| [i]).collect();
        let part = |i: usize| Part { tokens: &tokens[i], past: step, pages: &pages[i], entry: entries[i] };
        let batch = batch_of(&(0..rows).map(part).collect::<Vec<_>>(), self.table.clone());
        let request = request(batch, &(0..rows as i32).collect::<Vec<_>>());
        let ids = self.last.resolve(&request.batch.tokens).unwrap();
        let matchers: Vec<_> = (0..rows).map(|_| None).collect();
        let step = Step { request: &request, ids: &ids, matchers: &matchers, constraints: &self.constraints };
        match self.core.begin(&step, &mut self.last).unwrap() {
            Begun::Running(step) => step.finish().unwrap(),
            Begun::Done(_) => panic!("a device is not waited for"),
        }
    }
}

#[test]
fn a_replayed_graph_is_the_run_itself_whatever_adapters_its_rows_have() {
    if !gpu_ready() {
        return;
    }
    let toy = toy_in(Dtype::F16);
    let (mut eager, mut captured) = (Stepper::open(&toy, false), Stepper::open(&toy, true));
    let mut rng = Rng(5);
    for rows in [1, 3, 8, 3, 13] {
        for step in 0..12 {
            // The same shapes over and over with other adapters, and some steps of the base alone.
            let entries: Vec<i32> = (0..rows).map(|_| if step % 4 == 3 { -1 } else { rng.below(19) as i32 - 1 }).collect();
            let (wanted, found) = (eager.decode(step, &entries), captured.decode(step, &entries));
            assert_eq!(found.tokens, wanted.tokens, "{rows} rows, step {step}");
            assert_eq!(found.logits, wanted.logits, "{rows} rows, step {step}");
        }
    }
    assert_eq!(eager.core.captured(), 0);
    println!("captured graphs: {}", captured.core.captured());
    assert!(captured.core.captured() >= 6, "a bucket has at least a graph for the base and one for adapters");
}
