//! A step's tables against a plain recomputation, over random valid batches; buckets.
#![cfg(any(feature = "cuda", feature = "cuda-emulated"))]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::float_cmp,
    reason = "test code"
)]

mod common;
mod toy;

use common::Rng;
use common::device::first_device;
use loramux_native::adapters::compile::FactorStorage;
use loramux_native::adapters::store::AdapterStore;
use loramux_native::cuda::abi::{BLOCK, Counts, LONG_TILE_ROWS, QUERY_TILE_ROWS, QueryTile, Step, TILE_ROWS, Term, Tile};
use loramux_native::cuda::bucket::Buckets;
use loramux_native::cuda::device::Device;
use loramux_native::cuda::loader::{DeviceAdapter, Loader};
use loramux_native::cuda::pages::PagePool;
use loramux_native::cuda::staging::Staging;
use loramux_native::cuda::step_arrays::TERMS_PER_ROW;
use loramux_native::cuda::stream::Stream;
use loramux_native::cuda::tables::{Shape, StepTables};
use loramux_native::error::Code;
use loramux_native::kernels::simd::Dtype;
use loramux_native::session::context::{StepBatch, StepContext, StepLimits};
use loramux_native::weights::Weights;
use proptest::prelude::*;
use std::sync::Arc;
use toy::adapter::Adapter;
use toy::steps::pages_from;
use toy::{Toy, Variant};

const LIMITS: StepLimits = StepLimits { max_batch_tokens: 300, max_sequences: 40, max_model_len: 200, kv_pages: 600 };
/// Ranks of the adapters in the store, by handle.
const RANKS: [usize; 4] = [1, 4, 16, 40];
const MOST_H: usize = 64;

struct Bench {
    device: Device,
    stream: Stream,
    store: AdapterStore<DeviceAdapter>,
    tables: StepTables,
}

impl Bench {
    fn new() -> Option<Self> {
        let device = first_device()?;
        let toy = Toy::new(Variant::default());
        let weights = Weights::open(&toy.options(1).directory.join("weights.bin")).unwrap();
        let stream = device.stream(-1).unwrap();
        let loader = Loader::new(&device, &PagePool::new(&device, &stream, 64 * RANKS.len(), 4096).unwrap(), FactorStorage::File).unwrap();
        let store = AdapterStore::default();
        for (handle, &rank) in (0u32..).zip(&RANKS) {
            let adapter = Adapter::random(u64::from(handle), rank, Dtype::F16, false, &[(0, 0)]);
            let image = loader.read(&adapter.file(), &adapter.plan(), &Toy::manifest(), &weights).unwrap();
            let pages = pages_from(loader.fit(image.map()).runs(), handle as usize * 64);
            store.insert(Arc::new(loader.place(handle, image, &pages).unwrap()));
        }
        let tables = StepTables::new(&device, &LIMITS).unwrap();
        Some(Self { device, stream, store, tables })
    }

    /// Fills, uploads and copies everything back.
    fn step(&mut self, batch: &StepBatch, buckets: Option<&Buckets>) -> (Shape, Tables) {
        let context = StepContext::build(batch, &LIMITS, &self.store).unwrap();
        let shape = self.tables.fill(&context, batch, buckets).unwrap();
        self.tables.upload(&self.stream).unwrap();
        let memory = self.tables.memory();
        let mut back = Staging::new(&self.device, memory.len()).unwrap();
        back.copy_out(memory, 0, memory.len(), &self.stream).unwrap();
        let bytes = back.bytes().unwrap().to_vec();
        let (tokens, logits_rows) = (self.tables.tokens().addr(), self.tables.logits_rows().addr());
        (shape, Tables { base: memory.ptr().addr(), bytes, step: self.tables.step(), tokens, logits_rows })
    }
}

/// The tables as the device has them.
struct Tables {
    base: usize,
    bytes: Vec<u8>,
    step: Step,
    tokens: usize,
    logits_rows: usize,
}

impl Tables {
    fn at<T: Copy>(&self, address: usize, count: usize) -> Vec<T> {
        let at = address - self.base;
        assert!(at.is_multiple_of(16), "an array at byte {at}");
        let bytes = &self.bytes[at..at + count * size_of::<T>()];
        // SAFETY: as many bytes of plain numbers and addresses.
        (0..count).map(|i| unsafe { bytes.as_ptr().cast::<T>().add(i).read_unaligned() }).collect()
    }

    fn array<T: Copy>(&self, pointer: *const T, count: i32) -> Vec<T> {
        self.at(pointer.addr(), count as usize)
    }

    fn counts(&self) -> Counts {
        self.array(self.step.counts, 1)[0]
    }
}

/// A random batch that keeps all of the step ABI's rules.
fn random_batch(rng: &mut Rng, single: bool) -> StepBatch {
    let mut batch = StepBatch { cu_seqlens: vec![0], segment_indptr: vec![0], ..StepBatch::default() };
    let sequences = 1 + rng.below(LIMITS.max_sequences);
    let most = (LIMITS.max_batch_tokens / sequences).min(120);
    let lens: Vec<usize> = (0..sequences).map(|_| if single || rng.below(2) == 0 { 1 } else { 1 + rng.below(most) }).collect();
    let contexts: Vec<usize> = lens.iter().map(|&len| len + rng.below(LIMITS.max_model_len - len + 1)).collect();
    batch.max_blocks = contexts.iter().map(|context| context.div_ceil(BLOCK)).max().unwrap() + rng.below(4);
    let mut page = 0;
    for (&len, &context) in lens.iter().zip(&contexts) {
        let pages = context.div_ceil(BLOCK);
        let own: Vec<usize> = (page..page + pages).collect();
        page += pages;
        batch.block_tables.extend((0..batch.max_blocks).map(|i| own.get(i).map_or(-1, |&page| page as i32)));
        for position in context - len..context {
            let token = rng.below(60) as i32 - 10;
            batch.tokens.push(token);
            let slot = (own[position / BLOCK] * BLOCK + position % BLOCK) as i32;
            batch.slot_mapping.push(if rng.below(8) == 0 { -1 } else { slot });
        }
        batch.cu_seqlens.push(batch.tokens.len() as i32);
        batch.context_lens.push(context as i32);
    }
    let rows = batch.tokens.len();
    let entries = 1 + rng.below(6);
    batch.adapter_table = (0..entries).map(|_| (0..rng.below(4)).map(|_| (rng.below(RANKS.len()) as u32, rng.float())).collect()).collect();
    while (*batch.segment_indptr.last().unwrap() as usize) < rows {
        let start = *batch.segment_indptr.last().unwrap() as usize;
        let len = if rng.below(3) == 0 { rows } else { rng.below(80) };
        batch.segment_indptr.push((start + len).min(rows) as i32);
        batch.segment_adapters.push(rng.below(entries + 1) as i32 - 1);
    }
    batch.logits_rows = (0..rows as i32).filter(|_| single || rng.below(3) > 0).collect();
    batch
}

/// The entry of the adapter table that is in force for `row`, if any.
fn entry_of(batch: &StepBatch, row: usize) -> Option<&[(u32, f32)]> {
    let segment = batch.segment_indptr.windows(2).position(|pair| (pair[0] as usize..pair[1] as usize).contains(&row)).unwrap();
    usize::try_from(batch.segment_adapters[segment]).ok().map(|entry| &batch.adapter_table[entry][..]).filter(|entry| !entry.is_empty())
}

fn check(bench: &Bench, batch: &StepBatch, shape: &Shape, tables: &Tables) {
    let (step, counts) = (&tables.step, tables.counts());
    let (rows, sequences) = (batch.tokens.len(), batch.context_lens.len());
    assert_eq!((counts.rows, counts.logits_rows, counts.sequences), (rows as i32, batch.logits_rows.len() as i32, sequences as i32));

    // The graph's inputs, padded.
    let padded = |values: Vec<i64>, len: usize| -> Vec<i64> { values.into_iter().chain(std::iter::repeat(0)).take(len).collect() };
    let tokens: Vec<i64> = tables.at::<i32>(tables.tokens, shape.rows).iter().map(|&t| i64::from(t)).collect();
    assert_eq!(tokens, padded(batch.tokens.iter().map(|&t| i64::from(t)).collect(), shape.rows));
    let logits_rows = tables.at::<i64>(tables.logits_rows, shape.logits_rows);
    assert_eq!(logits_rows, padded(batch.logits_rows.iter().map(|&row| i64::from(row)).collect(), shape.logits_rows));

    // Rows and sequences.
    assert_eq!(tables.array(step.slots, counts.rows), batch.slot_mapping);
    let (positions, row_sequence) = (tables.array(step.positions, counts.rows), tables.array(step.row_sequence, counts.rows));
    let mut by_query = vec![0; rows];
    for sequence in 0..sequences {
        let (first, end) = (batch.cu_seqlens[sequence], batch.cu_seqlens[sequence + 1]);
        for row in first..end {
            assert_eq!(row_sequence[row as usize], sequence as i32);
            assert_eq!(positions[row as usize], batch.context_lens[sequence] - (end - row));
        }
    }
    for row in tables.array(step.single_rows, counts.single_rows) {
        by_query[row as usize] += 1;
        let sequence = row_sequence[row as usize] as usize;
        assert_eq!(batch.cu_seqlens[sequence + 1] - batch.cu_seqlens[sequence], 1);
    }
    let query_tiles: Vec<QueryTile> = tables.array(step.query_tiles, counts.query_tiles);
    for tile in &query_tiles {
        assert!((1..=QUERY_TILE_ROWS as i32).contains(&tile.rows));
        let sequence = tile.sequence as usize;
        assert!(tile.first_row >= batch.cu_seqlens[sequence] && tile.first_row + tile.rows <= batch.cu_seqlens[sequence + 1]);
        assert!(batch.cu_seqlens[sequence + 1] - batch.cu_seqlens[sequence] > 1);
        (tile.first_row..tile.first_row + tile.rows).for_each(|row| by_query[row as usize] += 1);
    }
    assert_eq!(by_query, vec![1; rows], "each row is attended for once");

    // Block tables: as many columns as any context can need.
    let columns = counts.max_blocks as usize;
    assert_eq!(columns, batch.max_blocks.min(LIMITS.max_model_len.div_ceil(BLOCK)));
    let found = tables.array(step.block_tables, (sequences * columns) as i32);
    for (found, given) in found.chunks_exact(columns).zip(batch.block_tables.chunks_exact(batch.max_blocks)) {
        assert_eq!(found, &given[..columns]);
    }

    // Adapters.
    let row_terms: Vec<Tile> = tables.array(step.row_terms, counts.rows);
    let head_terms: Vec<Tile> = tables.array(step.head_row_terms, counts.logits_rows);
    let most_term = row_terms.iter().map(|tile| tile.first_term + tile.terms).max().unwrap_or(0);
    let terms: Vec<Term> = tables.array(step.terms, most_term);
    let mut most_h = 0;
    let mut wanted_in_force = Vec::new();
    for (row, tile) in row_terms.iter().enumerate() {
        assert_eq!((tile.first_row, tile.rows), (row as i32, 1));
        let wanted = entry_of(batch, row);
        let found: Vec<_> = terms[tile.first_term as usize..][..tile.terms as usize].iter().map(|t| (t.adapter.addr(), t.weight)).collect();
        let address = |&(handle, weight): &(u32, f32)| (bench.store.get(handle).unwrap().address().addr(), weight);
        assert_eq!(found, wanted.unwrap_or(&[]).iter().map(address).collect::<Vec<_>>(), "terms of row {row}");
        let most_rank = wanted.unwrap_or(&[]).iter().map(|&(handle, _)| RANKS[handle as usize]).max().unwrap_or(0);
        most_h = most_h.max(most_rank * found.len());
        wanted_in_force.push(wanted.is_some());
    }
    if shape.bucket.is_none() {
        assert_eq!(shape.h_stride, most_h);
    }
    let tiles: Vec<Tile> = tables.array(step.tiles, counts.tiles);
    let long_tiles: Vec<Tile> = tables.array(step.long_tiles, counts.long_tiles);
    assert_eq!((shape.has_long, shape.query_tiles), (!long_tiles.is_empty(), query_tiles.len()));
    let covered = cover(&tiles, TILE_ROWS, &row_terms);
    let covered_long = cover(&long_tiles, LONG_TILE_ROWS, &row_terms);
    for row in 0..rows {
        assert_eq!(covered[row] + covered_long[row], i32::from(wanted_in_force[row]), "row {row} is in one tile, or it is a base row");
        let segment = batch.segment_indptr.windows(2).find(|pair| (pair[0] as usize..pair[1] as usize).contains(&row)).unwrap();
        let long = segment[1] - segment[0] >= LONG_TILE_ROWS as i32 / 2 && !query_tiles.is_empty();
        assert!(covered[row] == 0 || !long, "row {row} of a long segment is in a short tile");
        assert!(covered_long[row] == 0 || long, "row {row} of a short segment is in a long tile");
    }
    let head_tiles: Vec<Tile> = tables.array(step.head_tiles, counts.head_tiles);
    let covered = cover(&head_tiles, TILE_ROWS, &head_terms);
    for (at, &row) in batch.logits_rows.iter().enumerate() {
        let (found, wanted) = (&head_terms[at], &row_terms[row as usize]);
        assert_eq!((found.first_row, found.rows, found.terms), (at as i32, 1, wanted.terms));
        assert!(found.terms == 0 || found.first_term == wanted.first_term);
        assert_eq!(covered[at], i32::from(wanted.terms > 0), "logits row {at}");
    }
}

/// How often tiles cover each row; each tile within its bounds and of one segment's terms.
fn cover(tiles: &[Tile], most: usize, row_terms: &[Tile]) -> Vec<i32> {
    let mut covered = vec![0; row_terms.len()];
    for tile in tiles {
        assert!((1..=most as i32).contains(&tile.rows) && tile.terms >= 1, "{tile:?}");
        for row in tile.first_row..tile.first_row + tile.rows {
            covered[row as usize] += 1;
            let own = &row_terms[row as usize];
            assert_eq!((own.first_term, own.terms), (tile.first_term, tile.terms), "row {row}");
        }
    }
    covered
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn tables_are_what_the_batch_says(seed in any::<u64>()) {
        let Some(mut bench) = Bench::new() else { return Ok(()) };
        let buckets = Buckets::new(LIMITS.max_sequences, MOST_H);
        let mut rng = Rng(seed);
        let mut at_bucket = std::collections::BTreeMap::new();
        // One engine's tables serve many steps: what one leaves behind must not reach the next.
        for i in 0..40 {
            let single = i % 2 == 0;
            let batch = random_batch(&mut rng, single);
            let (shape, tables) = bench.step(&batch, (i % 4 < 3).then_some(&buckets));
            check(&bench, &batch, &shape, &tables);
            if let Some(bucket) = shape.bucket {
                prop_assert!(bucket >= batch.tokens.len() && (shape.rows, shape.logits_rows, shape.h_stride) == (bucket, bucket, MOST_H));
                prop_assert!(!shape.has_long && shape.query_tiles == 0);
                let same = at_bucket.entry(bucket).or_insert((tables.step, tables.tokens, tables.logits_rows));
                prop_assert_eq!(*same, (tables.step, tables.tokens, tables.logits_rows), "a bucket's addresses never change");
            } else {
                prop_assert_eq!((shape.rows, shape.logits_rows), (batch.tokens.len(), batch.logits_rows.len()));
            }
        }
        prop_assert!(!at_bucket.is_empty());
    }
}

/// `rows` sequences of one row each, all of them with `terms` adapters of the highest rank below.
fn decode(rows: usize, handles: &[u32]) -> StepBatch {
    StepBatch {
        tokens: vec![-1; rows],
        cu_seqlens: (0..=rows as i32).collect(),
        context_lens: vec![5; rows],
        block_tables: (0..rows as i32).collect(),
        max_blocks: 1,
        slot_mapping: (0..rows as i32).map(|n| n * BLOCK as i32 + 4).collect(),
        segment_indptr: vec![0, rows as i32],
        segment_adapters: vec![0],
        adapter_table: vec![handles.iter().map(|&handle| (handle, 1.0)).collect()],
        logits_rows: (0..rows as i32).collect(),
    }
}

#[test]
fn buckets_ascend_to_the_most_sequences() {
    assert_eq!(Buckets::new(64, 0).sizes(), [1, 2, 4, 8, 16, 24, 32, 48, 64]);
    assert_eq!(Buckets::new(100, 0).sizes(), [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 100]);
    assert_eq!(Buckets::new(256, 0).sizes()[8..], [64, 96, 128, 192, 256]);
    assert_eq!((Buckets::new(1, 0).sizes(), Buckets::new(3, 0).sizes()), (&[1][..], &[1, 2, 3][..]));
    let buckets = Buckets::new(100, 0);
    for rows in 1..=100 {
        let bucket = buckets.of(rows).unwrap();
        assert!(bucket >= rows && (rows == 1 || bucket <= 2 * (rows - 1).max(1)), "{rows} rows in a bucket of {bucket}");
    }
    assert_eq!(buckets.of(101), None);
}

#[test]
fn a_step_is_captured_when_its_sequences_have_one_row_and_its_adapters_fit() {
    let Some(mut bench) = Bench::new() else { return };
    let buckets = Buckets::new(LIMITS.max_sequences, MOST_H);
    let (shape, tables) = bench.step(&decode(33, &[3]), Some(&buckets));
    assert_eq!((shape.bucket, shape.rows, shape.has_long), (Some(40), 40, false), "one segment, yet no long tile");
    assert_eq!(tables.counts().tiles, 5);
    assert_eq!(bench.step(&decode(33, &[0, 1, 2]), Some(&buckets)).0.bucket, Some(40), "3 terms of rank 16 fit 64");
    assert_eq!(bench.step(&decode(33, &[0, 3]), Some(&buckets)).0.bucket, None, "2 terms of rank 40 do not");
    assert_eq!(bench.step(&decode(33, &[]), Some(&buckets)).0.bucket, Some(40), "no adapters at all");
    assert_eq!(bench.step(&decode(33, &[3]), None).0.bucket, None, "nothing is captured");
    assert_eq!(bench.step(&decode(1, &[0; TERMS_PER_ROW + 1]), Some(&buckets)).0.bucket, None, "more terms than a row has room for");
    let mut guess = decode(2, &[0]);
    (guess.cu_seqlens, guess.context_lens, guess.max_blocks) = (vec![0, 2], vec![6], 2);
    let (shape, tables) = bench.step(&guess, Some(&buckets));
    assert_eq!((shape.bucket, shape.query_tiles, tables.counts().query_tiles), (None, 1, 1), "two rows of one sequence");
}

#[test]
fn more_terms_than_there_is_room_for_are_refused() {
    let Some(mut bench) = Bench::new() else { return };
    let batch = decode(1, &vec![0; LIMITS.max_batch_tokens * TERMS_PER_ROW + 1]);
    let context = StepContext::build(&batch, &LIMITS, &bench.store).unwrap();
    let error = bench.tables.fill(&context, &batch, None).err().unwrap();
    assert!(error.code == Code::StepFailed && error.message.contains("at most 2400 adapters"), "{error}");
    // The next step is none the worse.
    let batch = decode(3, &[1]);
    let (shape, tables) = bench.step(&batch, None);
    check(&bench, &batch, &shape, &tables);
}

#[test]
fn limits_beyond_32_bits_are_refused() {
    let Some(device) = first_device() else { return };
    let limits = StepLimits { max_batch_tokens: 1 << 29, ..LIMITS };
    assert_eq!(StepTables::new(&device, &limits).err().unwrap().code, Code::Native);
}
