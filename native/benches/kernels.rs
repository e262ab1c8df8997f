//! Shrink and expand on SmolLM2-135M's shapes, float16 factors: one decode row for each of several adapters (distinct),
//! and as many rows of one adapter (identical). Adapters are cycled through a working set far larger than the last-level
//! cache, so that weights come from memory as they do between two layers of a real step.
//!
//! `cargo bench --bench kernels [-- FILTER]`. Every line names its bytes and operations; the first lines give what a plain
//! read of memory reaches on this machine.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a bench prints; a failure is a panic"
)]

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use loramux_native::kernels::dispatch::{Kernels, choose};
use loramux_native::kernels::lora::{Expand, PANEL, Shrink};
use loramux_native::kernels::simd::{Dtype, LANES};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Input and output features: attention q|k|v, attention output, gate|up, down.
const SHAPES: [(usize, usize); 4] = [(576, 960), (576, 576), (576, 3072), (1536, 576)];
const RANKS: [usize; 3] = [8, 16, 64];
const ROWS: usize = 16;
/// Bytes of adapters in turn; the largest last-level caches of today's servers hold less per core complex.
const WORKING_SET: usize = 256 << 20;

/// Factors of one adapter at one site, float16: A [rank, in], B [panels, rank, PANEL].
struct Adapter {
    a: Vec<u16>,
    b: Vec<u16>,
}

struct Case {
    set: &'static Kernels,
    inputs: usize,
    outputs: usize,
    rank: usize,
    adapters: Vec<Adapter>,
    x: Vec<f32>,
    h: Vec<f32>,
    y: Vec<f32>,
    scale: Vec<f32>,
    next: usize,
}

impl Case {
    fn new(set: &'static Kernels, inputs: usize, outputs: usize, rank: usize) -> Self {
        let (a, b) = (rank * inputs.next_multiple_of(LANES), outputs.div_ceil(PANEL) * rank * PANEL);
        let count = WORKING_SET / (2 * (a + b));
        // 0x2xxx are small positive halves; the pattern keeps pages from being shared or compressed.
        let fill = |n: usize, seed: u16| (0..n).map(|i| 0x2000 | ((i as u16).wrapping_mul(31) ^ seed) & 0x7ff).collect();
        Self {
            set,
            inputs,
            outputs,
            rank,
            adapters: (0..count).map(|i| Adapter { a: fill(a, i as u16), b: fill(b, !(i as u16)) }).collect(),
            x: vec![0.5; ROWS * inputs],
            h: vec![0.0; ROWS * rank],
            y: vec![0.0; ROWS * outputs],
            scale: vec![1.0; rank],
            next: 0,
        }
    }

    /// `rows` rows from `first` on, all with the next adapter of the working set.
    fn segment(&mut self, first: usize, rows: usize) {
        let adapter = &self.adapters[self.next];
        self.next = (self.next + 1) % self.adapters.len();
        let shrink = Shrink {
            x: self.x[first * self.inputs..].as_ptr(),
            x_stride: self.inputs,
            rows,
            width: self.inputs,
            a: adapter.a.as_ptr().cast(),
            a_stride: self.inputs.next_multiple_of(LANES),
            dtype: Dtype::F16,
            ranks: (0, self.rank),
            scale: self.scale.as_ptr(),
            strength: 1.0,
            h: self.h[first * self.rank..].as_mut_ptr(),
            h_stride: self.rank,
        };
        let expand = Expand {
            h: self.h[first * self.rank..].as_ptr(),
            h_stride: self.rank,
            rows,
            rank: self.rank,
            b: adapter.b.as_ptr().cast(),
            dtype: Dtype::F16,
            panels: (0, self.outputs.div_ceil(PANEL)),
            width: self.outputs,
            y: self.y[first * self.outputs..].as_mut_ptr(),
            y_stride: self.outputs,
            gain: std::ptr::null(),
            offset: std::ptr::null(),
            strength: 1.0,
        };
        // SAFETY: first + rows ≤ ROWS, and all buffers were made for these shapes in `new`; the set is this CPU's.
        unsafe {
            (self.set.shrink)(&shrink);
            (self.set.expand)(&expand);
        }
    }

    fn distinct(&mut self) {
        for row in 0..ROWS {
            self.segment(row, 1);
        }
    }

    fn identical(&mut self) {
        self.segment(0, ROWS);
    }

    fn adapter_bytes(&self) -> usize {
        2 * (self.adapters[0].a.len() + self.adapters[0].b.len())
    }

    fn flops(&self) -> usize {
        2 * ROWS * self.rank * (self.inputs + self.outputs)
    }
}

/// Runs one load shape under criterion and prints its median as GB/s of weights and GFLOP/s.
fn measure(group: &mut BenchmarkGroup<'_, WallTime>, case: &mut Case, shape: &str, weights: usize, run: fn(&mut Case)) {
    let name = format!("{}x{}/rank {}/{shape}", case.inputs, case.outputs, case.rank);
    group.throughput(Throughput::Bytes(weights as u64));
    let mut times = Vec::new();
    group.bench_function(&name, |bencher| {
        bencher.iter_custom(|iterations| {
            let started = Instant::now();
            for _ in 0..iterations {
                run(case);
                black_box(&case.y);
            }
            let elapsed = started.elapsed();
            times.push(elapsed.as_secs_f64() / iterations as f64);
            elapsed
        });
    });
    // Criterion skips what its filter leaves out.
    if times.is_empty() {
        return;
    }
    times.sort_unstable_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let (bandwidth, rate) = (weights as f64 / median / 1e9, case.flops() as f64 / median / 1e9);
    println!("    {:.1} µs a layer site for {ROWS} rows: {bandwidth:.1} GB/s of weights, {rate:.1} GFLOP/s", median * 1e6);
}

/// Best of several reads of the working set by one thread, GB/s.
fn memory_bandwidth() -> f64 {
    let data = vec![1u64; WORKING_SET / 8];
    let read = || {
        let started = Instant::now();
        let sums = data.chunks_exact(16).fold([0u64; 16], |mut sums, chunk| {
            for (sum, value) in sums.iter_mut().zip(chunk) {
                *sum ^= value;
            }
            sums
        });
        black_box(sums);
        WORKING_SET as f64 / started.elapsed().as_secs_f64() / 1e9
    };
    (0..5).map(|_| read()).fold(0.0, f64::max)
}

fn main() {
    let set = choose().unwrap();
    println!("kernel set {}; one thread reads memory at {:.1} GB/s", set.name, memory_bandwidth());
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(150))
        .measurement_time(Duration::from_millis(600))
        .without_plots()
        .configure_from_args();
    let mut group = criterion.benchmark_group("lora");
    for (inputs, outputs) in SHAPES {
        for rank in RANKS {
            let mut case = Case::new(set, inputs, outputs, rank);
            let bytes = case.adapter_bytes();
            measure(&mut group, &mut case, "distinct", ROWS * bytes, Case::distinct);
            measure(&mut group, &mut case, "identical", bytes, Case::identical);
        }
    }
    group.finish();
}
