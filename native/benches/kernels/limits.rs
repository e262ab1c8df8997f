//! What this machine can do at most: reads of memory, and multiply-adds of each instruction set.

use std::hint::black_box;
use std::time::Instant;

const READ_BYTES: usize = 256 << 20;
/// Independent chains of multiply-adds: more than latency × ports of today's CPUs.
const CHAINS: usize = 12;
const ROUNDS: usize = 100_000;

/// Best of several reads of far more memory than caches hold, GB/s over `threads` threads.
pub fn read_bandwidth(threads: usize) -> f64 {
    let data = vec![1u64; READ_BYTES / 8];
    let read = |part: &[u64]| {
        let sums = part.chunks_exact(16).fold([0u64; 16], |mut sums, chunk| {
            for (sum, value) in sums.iter_mut().zip(chunk) {
                *sum ^= value;
            }
            sums
        });
        black_box(sums);
    };
    let run = || {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for part in data.chunks(data.len().div_ceil(threads)) {
                scope.spawn(move || read(part));
            }
        });
        READ_BYTES as f64 / started.elapsed().as_secs_f64() / 1e9
    };
    (0..9).map(|_| run()).fold(0.0, f64::max)
}

/// Best GFLOP/s of one thread on the instruction set `name`.
pub fn multiply_adds(name: &str) -> f64 {
    let (run, lanes): (fn(), usize) = match name {
        // SAFETY: `available` lists a set only where the CPU has it.
        #[cfg(target_arch = "x86_64")]
        "avx512" | "avx512vnni" => (|| unsafe { chains_avx512() }, 16),
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        "avx2" | "avx2vnni" => (|| unsafe { chains_avx2() }, 8),
        _ => (chains_portable, 16),
    };
    let time = || {
        let started = Instant::now();
        run();
        (2 * CHAINS * ROUNDS * lanes) as f64 / started.elapsed().as_secs_f64() / 1e9
    };
    (0..20).map(|_| time()).fold(0.0, f64::max)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn chains_avx512() {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_set1_ps};
    let (a, b) = (black_box(_mm512_set1_ps(0.5)), black_box(_mm512_set1_ps(1.0)));
    let mut sums = [b; CHAINS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, a, b);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn chains_avx2() {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps};
    let (a, b) = (black_box(_mm256_set1_ps(0.5)), black_box(_mm256_set1_ps(1.0)));
    let mut sums = [b; CHAINS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, a, b);
        }
    }
    black_box(sums);
}

fn chains_portable() {
    let (a, b) = (black_box([0.5f32; 16]), black_box([1.0f32; 16]));
    let mut sums = [b; CHAINS];
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            for lane in 0..16 {
                sum[lane] = sum[lane] * a[lane] + b[lane];
            }
        }
    }
    black_box(sums);
}
