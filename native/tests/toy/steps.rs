//! Steps of the toy decoder, and the adapters that most tests mix.

use super::adapter::{Adapter, Rows};
use super::{HEAD_SITE, LIMITS, NORMS, VOCAB};
use crate::common::Rng;
use loramux_native::kernels::attention::PAGE;
use loramux_native::kernels::simd::Dtype;
use loramux_native::sampler::RowSampling;
use loramux_native::session::context::StepBatch;
use loramux_native::session::core::Compiled;
use loramux_native::session::engine::Engine;
use loramux_native::session::step::StepRequest;

/// All modules of both layers.
pub const ALL: [(usize, usize); 14] =
    [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1), (3, 0), (4, 0), (4, 1), (4, 2), (5, 0), (6, 0), (6, 1), (7, 0)];

/// A sequence's rows in one step.
pub struct Part<'a> {
    pub tokens: &'a [i32],
    /// Positions already in the pages.
    pub past: usize,
    pub pages: &'a [i32],
    /// Entry of the adapter table, −1 for the base.
    pub entry: i32,
}

pub fn batch_of(parts: &[Part<'_>], adapter_table: Vec<Vec<(u32, f32)>>) -> StepBatch {
    let mut batch = StepBatch { adapter_table, cu_seqlens: vec![0], segment_indptr: vec![0], ..StepBatch::default() };
    batch.max_blocks = parts.iter().map(|part| part.pages.len()).max().unwrap_or(0);
    for part in parts {
        for (i, &token) in part.tokens.iter().enumerate() {
            let position = part.past + i;
            batch.tokens.push(token);
            batch.slot_mapping.push(part.pages[position / PAGE] * PAGE as i32 + (position % PAGE) as i32);
        }
        batch.cu_seqlens.push(batch.tokens.len() as i32);
        batch.context_lens.push((part.past + part.tokens.len()) as i32);
        let padding = std::iter::repeat_n(-1, batch.max_blocks - part.pages.len());
        batch.block_tables.extend(part.pages.iter().copied().chain(padding));
        batch.segment_indptr.push(batch.tokens.len() as i32);
        batch.segment_adapters.push(part.entry);
    }
    batch.logits_rows = (0..batch.tokens.len() as i32).collect();
    batch
}

pub fn greedy(slot: i32) -> (RowSampling, i32) {
    (RowSampling::default(), slot)
}

pub fn request(batch: StepBatch, slots: &[i32]) -> StepRequest {
    let slots: Vec<i32> = (0..batch.logits_rows.len()).map(|i| slots.get(i).copied().unwrap_or(-1)).collect();
    let (sampling, slots) = slots.into_iter().map(greedy).unzip();
    let rows = batch.logits_rows.len();
    StepRequest {
        batch,
        sampling,
        slots,
        constraints: vec![-1; rows],
        follows: vec![-1; rows],
        scores: vec![None; rows],
        return_logits: (0..rows).collect(),
    }
}

/// Logits of every row of the batch.
pub fn logits(engine: &mut Engine, batch: StepBatch) -> Vec<Vec<f32>> {
    let result = engine.step(&request(batch, &[])).unwrap();
    result.logits.unwrap().chunks_exact(VOCAB).map(<[f32]>::to_vec).collect()
}

/// One prefill of the sequences `which` and three decode steps; logits of each sequence's rows in order.
pub fn generate(
    engine: &mut Engine,
    prompts: &[Vec<i32>],
    entries: &[i32],
    table: &[Vec<(u32, f32)>],
    which: &[usize],
) -> Vec<Vec<Vec<f32>>> {
    let pages: Vec<[i32; 3]> = which.iter().map(|&n| [0, 1, 2].map(|i| ((n * 3 + i) * 7 % LIMITS.kv_pages) as i32)).collect();
    let mut out = vec![Vec::new(); which.len()];
    let mut fed: Vec<Vec<i32>> = which.iter().map(|&n| prompts[n].clone()).collect();
    let mut past = vec![0; which.len()];
    for step in 0..4 {
        let parts: Vec<_> =
            (0..which.len()).map(|i| Part { tokens: &fed[i], past: past[i], pages: &pages[i], entry: entries[which[i]] }).collect();
        let mut rows = logits(engine, batch_of(&parts, table.to_vec())).into_iter();
        for i in 0..which.len() {
            let count = fed[i].len();
            out[i].extend(rows.by_ref().take(count));
            past[i] += count;
            fed[i] = vec![((which[i] * 13 + step * 5) % VOCAB) as i32];
        }
    }
    out
}

pub fn prompt(rng: &mut Rng, length: usize) -> Vec<i32> {
    (0..length).map(|_| rng.below(VOCAB) as i32).collect()
}

/// On a device in pages behind the blocks of [`LIMITS`], each adapter's own.
pub fn make_resident(engine: &Engine, adapter: &Adapter) -> u32 {
    let shared = engine.shared();
    let compiled = shared.compile_adapter(&adapter.file(), &adapter.plan()).unwrap();
    if !compiled.runs.is_empty() {
        shared.adapters.place(compiled.handle, &own_pages(&compiled)).unwrap();
    }
    compiled.handle
}

/// Pages that one adapter may need on a device, and how many adapters have theirs behind the blocks of [`LIMITS`].
const MOST_PAGES: usize = 256;
const MOST_ADAPTERS: usize = 64;
/// Pages of an engine whose adapters [`own_pages`] places.
pub const ALL_PAGES: usize = LIMITS.kv_pages + MOST_PAGES * MOST_ADAPTERS;

/// Pages for a compiled adapter that no other has.
pub fn own_pages(compiled: &Compiled) -> Vec<i32> {
    nth_pages(&compiled.runs, compiled.handle as usize)
}

/// Pages for runs of so many neighbours; those of another `nth` are others.
pub fn nth_pages(runs: &[usize], nth: usize) -> Vec<i32> {
    assert!(runs.iter().map(|run| run + 1).sum::<usize>() <= MOST_PAGES && nth < MOST_ADAPTERS);
    pages_from(runs, LIMITS.kv_pages + nth * MOST_PAGES)
}

/// How many neighbouring pages each part of an adapter needs.
pub fn runs_of(engine: &Engine, adapter: &Adapter) -> Vec<usize> {
    let shared = engine.shared();
    let compiled = shared.compile_adapter(&adapter.file(), &adapter.plan()).unwrap();
    drop(shared.adapters.release(compiled.handle));
    compiled.runs
}

/// Pages from `first` on for runs of so many neighbours, the last run first, another page behind each.
pub fn pages_from(runs: &[usize], first: usize) -> Vec<i32> {
    let mut end = first + runs.iter().map(|run| run + 1).sum::<usize>();
    let mut pages = Vec::new();
    for run in runs {
        end -= run + 1;
        pages.extend((end..end + run).map(|page| page as i32));
    }
    pages
}

/// The adapters that most tests mix: odd ranks, all dtypes, some with few modules.
pub fn pool() -> Vec<Adapter> {
    vec![
        Adapter::random(11, 1, Dtype::F32, false, &ALL),
        Adapter::random(12, 3, Dtype::F16, false, &ALL),
        Adapter::random(13, 5, Dtype::Bf16, false, &[(0, 0), (0, 2), (3, 0), (6, 1)]),
        Adapter::random(14, 8, Dtype::F16, true, &ALL),
        Adapter::random(15, 16, Dtype::Bf16, false, &ALL),
        Adapter::random(16, 17, Dtype::F32, false, &[(4, 1)]),
        Adapter::random(17, 2, Dtype::F32, true, &[(0, 1), (5, 0), (7, 0)]),
        Adapter::random(18, 64, Dtype::F16, false, &ALL),
        Adapter::random(19, 4, Dtype::F16, false, &[(0, 1), (3, 0), (6, 0)]).with_biases(20, &ALL),
        Adapter::default().with_biases(21, &[(0, 0), (0, 1), (0, 2), (4, 2), (7, 0)]),
        Adapter::random(22, 6, Dtype::Bf16, false, &[(HEAD_SITE, 0), (3, 0)]).with_biases(23, &[(HEAD_SITE, 0)]),
        Adapter::random(24, 5, Dtype::F32, true, &[(HEAD_SITE, 0)]),
        Adapter::random(25, 3, Dtype::F16, false, &[(0, 0)]).with_embedding(26, 7, Dtype::F16, false),
        Adapter::default().with_embedding(27, 4, Dtype::F32, true),
        Adapter::random(28, 2, Dtype::F16, false, &[(7, 0)]).with_norms(29, &[0, 3, NORMS - 1]),
        Adapter { head_rows: Some(Rows::random(30, Dtype::Bf16, None, 0.4)), ..Adapter::random(31, 2, Dtype::F32, false, &[(1, 0)]) },
        Adapter { embedding_rows: Some(Rows::random(32, Dtype::F16, None, 1.5)), ..Adapter::default() },
        Adapter {
            embedding_rows: Some(Rows::random(33, Dtype::F32, Some(&ODD_TOKENS), 1.5)),
            head_rows: Some(Rows::random(34, Dtype::F16, Some(&ODD_TOKENS), 0.8)),
            ..Adapter::random(35, 9, Dtype::F16, true, &ALL)
        },
    ]
}

/// Unsorted and one of them twice: its last row counts.
pub const ODD_TOKENS: [u32; 27] = [49, 3, 5, 0, 7, 9, 3, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43, 45, 47, 1];

/// The difference's length, of the second's.
pub fn distance(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    let norm = |rows: &mut dyn Iterator<Item = f64>| rows.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| a - b));
    difference / norm(&mut b.iter().flatten().copied())
}
