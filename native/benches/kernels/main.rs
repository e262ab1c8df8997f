//! The kernels by themselves, one thread, each instruction set of this CPU, beside what the machine can do at most.
//!
//! `cargo bench --bench kernels [-- FILTER]`. Below each of criterion's lines stand GB/s of weights or of keys and values,
//! and GFLOP/s, of the fastest run: what other programs do to the machine only ever makes a run slower.
#![allow(
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a bench prints"
)]

mod attention;
mod dense;
mod limits;
mod lora;

use criterion::Criterion;
use lora::{Rows, SHAPES, Site};
use loramux_native::kernels::dispatch::available;
use loramux_native::kernels::lora::Stored;
use loramux_native::kernels::simd::Dtype;
use std::time::{Duration, Instant};

const STORED: [Stored; 4] = [Stored::Float(Dtype::F16), Stored::Float(Dtype::Bf16), Stored::Int8, Stored::Int4];
const RANKS: [usize; 3] = [8, 16, 64];
/// Decode rows of distinct adapters, of one adapter, and a tile of a prefill.
const ROWS: [Rows; 3] = [Rows::Distinct(16), Rows::Identical(16), Rows::Identical(256)];
const CONTEXTS: [usize; 4] = [64, 256, 1024, 2000];

/// Floats that loads take in turn: 256 MiB, far more than caches hold.
const WORKING_SET: usize = 64 << 20;

/// Something to time.
trait Load {
    fn name(&self) -> String;
    fn run(&mut self);
    /// Bytes of weights, or keys and values, that one run reads.
    fn bytes(&self) -> usize;
    /// Multiplications and additions of one run.
    fn operations(&self) -> usize;
}

fn measure(criterion: &mut Criterion, mut load: impl Load) {
    let mut fastest = f64::INFINITY;
    criterion.bench_function(&load.name(), |bencher| {
        bencher.iter_custom(|iterations| {
            let mut all = Duration::ZERO;
            for _ in 0..iterations {
                let started = Instant::now();
                load.run();
                let took = started.elapsed();
                fastest = fastest.min(took.as_secs_f64());
                all += took;
            }
            all
        });
    });
    // Criterion skips what its filter leaves out.
    if fastest.is_finite() {
        let (bandwidth, rate) = (load.bytes() as f64 / fastest / 1e9, load.operations() as f64 / fastest / 1e9);
        println!("    {:.1} µs: {bandwidth:.1} GB/s, {rate:.1} GFLOP/s", fastest * 1e6);
    }
}

fn main() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (one, all) = (limits::read_bandwidth(1), limits::read_bandwidth(threads));
    println!("memory is read at {one:.1} GB/s by one thread, {all:.1} by {threads}");
    for set in available() {
        println!("{}: one thread multiplies and adds at {:.1} GFLOP/s", set.name, limits::multiply_adds(set.name));
    }
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .without_plots()
        .configure_from_args();
    // Every byte lies in 32 … 39: small halves and bytes, tiny floats, nothing that is not finite; no two pages are equal.
    let memory: Vec<f32> =
        (0..WORKING_SET as u32).map(|i| f32::from_bits(0x2020_2020 | i.wrapping_mul(0x9e37_79b1) & 0x0707_0707)).collect();
    // SAFETY: four bytes a float, each of them initialised.
    let bytes = unsafe { std::slice::from_raw_parts(memory.as_ptr().cast(), memory.len() * 4) };
    for (at, set) in available().into_iter().enumerate() {
        for context in CONTEXTS {
            for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
                measure(&mut criterion, attention::Row::new(set, &memory, context, dtype));
            }
        }
        for matrix in dense::MATRICES {
            for rows in dense::ROWS {
                measure(&mut criterion, dense::Matrix::new(set, &memory, matrix, rows));
            }
        }
        for shape in SHAPES {
            // All of the best set, one rank of the others.
            for rank in RANKS.into_iter().filter(|&rank| at == 0 || rank == 16) {
                for stored in STORED {
                    for rows in ROWS {
                        measure(&mut criterion, Site::new(set, bytes, stored, shape, rank, rows));
                    }
                }
            }
        }
    }
}
