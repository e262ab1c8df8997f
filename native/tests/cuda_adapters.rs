//! Adapters on the device, read back through their tables: what the CPU's compile gives, number by number.
#![cfg(any(feature = "cuda", feature = "cuda-emulated"))]
#![allow(clippy::unwrap_used, clippy::cast_sign_loss, clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "test code")]

mod common;
mod toy;

use common::device::first_device;
use common::{Rng, bits};
use loramux_native::adapters::compile::{FactorStorage, compile};
use loramux_native::adapters::read::read_adapter;
use loramux_native::adapters::resident::{Adapter as Packed, EmbeddingDelta, PackedRows, ReplacedRows};
use loramux_native::adapters::store::{AdapterStore, Resident};
use loramux_native::cuda::abi;
use loramux_native::cuda::device::Device;
use loramux_native::cuda::fit::Fit;
use loramux_native::cuda::host_tier::HostTier;
use loramux_native::cuda::image::{FixUp, ImageMap, Placement};
use loramux_native::cuda::image_builder::ImageBuilder;
use loramux_native::cuda::loader::{DeviceAdapter, Loader, MAX_SPARE_PINNED};
use loramux_native::cuda::memory::DeviceBuffer;
use loramux_native::cuda::pages::PagePool;
use loramux_native::cuda::pool::PinnedPool;
use loramux_native::cuda::slab::{PAGE, Pages, Slab};
use loramux_native::cuda::staging::{Run, Staging};
use loramux_native::error::{Code, Error, Result};
use loramux_native::idle::Keeper;
use loramux_native::kernels::lora::{PANEL, Stored};
use loramux_native::kernels::simd::Dtype;
use loramux_native::manifest::Manifest;
use loramux_native::weights::Weights;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use toy::adapter::{Adapter, Rows};
use toy::steps::pages_from;
use toy::{HEAD_SITE, NORMS, Toy, VOCAB, Variant, WIDTH};

struct Bench {
    toy: Toy,
    manifest: Manifest,
    weights: Weights,
    device: Device,
    pages: Arc<PagePool>,
    loader: Loader,
}

/// Of 4 KiB each.
const PAGES: usize = 512;
const PAGE_BYTES: usize = 4096;

impl Bench {
    fn new() -> Option<Self> {
        let device = first_device()?;
        let toy = Toy::new(Variant::default());
        let weights = Weights::open(&toy.options(1).directory.join("weights.bin")).unwrap();
        let pages = PagePool::new(&device, &device.stream(0).unwrap(), PAGES, PAGE_BYTES).unwrap();
        let loader = Loader::new(&device, &pages, FactorStorage::File).unwrap();
        Some(Self { toy, manifest: Toy::manifest(), weights, device, pages, loader })
    }

    fn load(&self, adapter: &Adapter) -> DeviceAdapter {
        let image = self.loader.read(&adapter.file(), &adapter.plan(), &self.manifest, &self.weights).unwrap();
        self.place(image, 0).unwrap()
    }

    /// In scattered pages from `first` on.
    fn place(&self, image: loramux_native::cuda::image::Image, first: usize) -> Result<DeviceAdapter> {
        let pages = pages_from(self.loader.fit(image.map()).runs(), first);
        self.loader.place(7, image, &pages)
    }

    fn compile(&self, adapter: &Adapter) -> Packed {
        compile(7, &adapter.file(), &adapter.plan(), FactorStorage::File, &self.manifest, &self.weights).unwrap()
    }

    fn image(&self, adapter: &DeviceAdapter) -> Image {
        self.read_back(adapter.memory())
    }

    fn read_back(&self, memory: &Arc<DeviceBuffer>) -> Image {
        let mut staging = Staging::new(&self.device, memory.len()).unwrap();
        staging.copy_out(memory, 0, memory.len(), &self.device.stream(0).unwrap()).unwrap();
        Image { base: memory.ptr().addr(), bytes: staging.bytes().unwrap().to_vec() }
    }

    fn build(&self, adapter: &Adapter) -> loramux_native::cuda::image::Image {
        let (file, plan) = (adapter.file(), adapter.plan());
        let mut builder =
            ImageBuilder::begin(self.loader.pool(), &plan, FactorStorage::File, &self.manifest, file.size(), file.tensors.len()).unwrap();
        read_adapter(&file, &plan, &self.manifest, &self.weights, &mut builder).unwrap();
        builder.finish().unwrap()
    }
}

/// An adapter's device memory, copied back.
struct Image {
    base: usize,
    bytes: Vec<u8>,
}

impl Image {
    /// `count` entries at a device address, which must lie within, aligned.
    fn array<T: Copy, P>(&self, pointer: *const P, count: usize) -> Vec<T> {
        let at = pointer.addr().checked_sub(self.base).unwrap();
        assert!(at.is_multiple_of(16), "an array at byte {at}");
        let bytes = &self.bytes[at..at + count * size_of::<T>()];
        // SAFETY: as many bytes; plain numbers and addresses, which are only looked at.
        (0..count).map(|i| unsafe { bytes.as_ptr().cast::<T>().add(i).read_unaligned() }).collect()
    }

    fn floats<P>(&self, dtype: i32, pointer: *const P, count: usize) -> Vec<f32> {
        match dtype {
            0 => self.array(pointer, count),
            1 => self.array::<half::f16, P>(pointer, count).iter().map(|v| v.to_f32()).collect(),
            2 => self.array::<half::bf16, P>(pointer, count).iter().map(|v| v.to_f32()).collect(),
            other => unreachable!("dtype {other}"),
        }
    }

    fn vector(&self, pointer: *const f32, count: usize) -> Option<Vec<f32>> {
        (!pointer.is_null()).then(|| self.floats(0, pointer, count))
    }
}

fn size(n: i32) -> usize {
    usize::try_from(n).unwrap()
}

fn packed_rows(slab: &[u8], rows: &PackedRows) -> Vec<f32> {
    let mut values = vec![0.0; rows.count * rows.width];
    values.chunks_exact_mut(rows.width).enumerate().for_each(|(row, out)| rows.unpack(slab, row, out));
    values
}

/// B [out, rank] from panels.
fn panels(slab: &[u8], dtype: Dtype, at: usize, out: usize, rank: usize) -> Vec<f32> {
    let one = |n: usize, j: usize| {
        let mut value = [0.0];
        let element = (n / PANEL * rank + j) * PANEL + n % PANEL;
        loramux_native::adapters::pack::unpack(dtype, &slab[at + element * dtype.size()..], &mut value);
        value[0]
    };
    (0..out).flat_map(|n| (0..rank).map(move |j| one(n, j))).collect()
}

/// Every number of the image is the CPU's.
fn assert_same(bench: &Bench, adapter: &Adapter, what: &str) {
    let (device, packed) = (bench.load(adapter), bench.compile(adapter));
    assert_eq!((device.handle(), device.stands_alone()), (7, packed.stands_alone), "{what}");
    let most_rank = packed.sites.iter().flatten().map(|site| site.rank).max().unwrap_or(0);
    assert_eq!(device.most_rank(), most_rank, "{what}");
    assert_numbers(bench, &bench.image(&device), device.address(), &packed, what);
}

/// Every number that is reached from the table at `address` is the CPU's.
fn assert_numbers(bench: &Bench, image: &Image, address: *const abi::Adapter, packed: &Packed, what: &str) {
    let slab = packed.slab.bytes();
    let table: abi::Adapter = image.array(address, 1)[0];
    let most_rank = packed.sites.iter().flatten().map(|site| site.rank).max().unwrap_or(0);
    assert_eq!(size(table.most_rank), most_rank, "{what}");

    let sites: Vec<abi::SiteDelta> = image.array(table.sites, bench.manifest.sites.len());
    for (id, (found, wanted)) in sites.iter().zip(&packed.sites).enumerate() {
        let Some(wanted) = wanted else {
            assert_eq!((found.part_count, found.rank), (0, 0), "{what}: site {id}");
            continue;
        };
        let Stored::Float(dtype) = wanted.stored else { unreachable!("factors are stored as in the file") };
        assert_eq!((size(found.rank), found.dtype), (wanted.rank, abi::dtype(dtype)), "{what}: site {id}");
        let width = bench.manifest.sites[id].in_features;
        if wanted.rank > 0 {
            let a = packed_rows(slab, &PackedRows { dtype, count: wanted.rank, width, offset: wanted.a });
            assert_eq!(bits(&image.floats(found.dtype, found.a, a.len())), bits(&a), "{what}: A of site {id}");
            assert_eq!(image.vector(found.scale, wanted.rank).unwrap(), wanted.scale, "{what}: scale of site {id}");
        }
        let parts: Vec<abi::Part> = image.array(found.parts, size(found.part_count));
        assert_eq!(parts.len(), wanted.parts.len(), "{what}: parts of site {id}");
        for (found, wanted) in parts.iter().zip(&wanted.parts) {
            let place = [found.rank_offset, found.rank, found.out_offset, found.out_features].map(size);
            assert_eq!(place, [wanted.rank_offset, wanted.rank, wanted.out_offset, wanted.out_features], "{what}: a part of site {id}");
            if wanted.rank > 0 {
                let b = panels(slab, dtype, wanted.b, wanted.out_features, wanted.rank);
                assert_eq!(bits(&image.floats(abi::dtype(dtype), found.b, b.len())), bits(&b), "{what}: B of site {id}");
            } else {
                assert!(found.b.is_null(), "{what}: B of site {id}");
            }
            assert!(found.b_scale.is_null(), "{what}: B of site {id}");
            assert_eq!(image.vector(found.gain, wanted.out_features), wanted.gain, "{what}: gain of site {id}");
            assert_eq!(image.vector(found.offset, wanted.out_features), wanted.offset, "{what}: offset of site {id}");
        }
    }
    let norms: Vec<*const f32> = image.array(table.norms, NORMS);
    let norms: Vec<_> = norms.iter().map(|&norm| image.vector(norm, WIDTH)).collect();
    assert_eq!(norms, packed.norms, "{what}: norms");
    assert_same_rows(image, &table.head_rows, packed.head.as_ref(), slab, what);
    let (lora, rows) = match &packed.embedding {
        None => (None, None),
        Some(EmbeddingDelta::Lora(lora)) => (Some(lora), None),
        Some(EmbeddingDelta::Replaced(rows)) => (None, Some(rows)),
    };
    assert_same_rows(image, &table.embedding_rows, rows, slab, what);
    let found = &table.embedding;
    assert_eq!(size(found.rank), lora.map_or(0, |lora| lora.rank), "{what}: rank of the embedding");
    if let Some(lora) = lora {
        assert_eq!((size(found.vocab), found.dtype, found.scale), (VOCAB, abi::dtype(lora.dtype), lora.scale), "{what}");
        let mut a = vec![0.0; VOCAB * lora.rank];
        loramux_native::adapters::pack::unpack(lora.dtype, &slab[lora.a..], &mut a);
        assert_eq!(bits(&image.floats(found.dtype, found.a, a.len())), bits(&a), "{what}: A of the embedding");
        let b = panels(slab, lora.dtype, lora.b, WIDTH, lora.rank);
        assert_eq!(bits(&image.floats(found.dtype, found.b, b.len())), bits(&b), "{what}: B of the embedding");
        assert_eq!(image.vector(found.gain, WIDTH), lora.gain, "{what}: gain of the embedding");
    }
}

fn assert_same_rows(image: &Image, found: &abi::ReplacedRows, wanted: Option<&ReplacedRows>, slab: &[u8], what: &str) {
    assert_eq!(size(found.count), wanted.map_or(0, |rows| rows.rows.count), "{what}: replaced rows");
    let Some(wanted) = wanted else { return };
    let rows = packed_rows(slab, &wanted.rows);
    assert_eq!(found.dtype, abi::dtype(wanted.rows.dtype), "{what}");
    assert_eq!(bits(&image.floats(found.dtype, found.rows, rows.len())), bits(&rows), "{what}: replaced rows");
    let tokens = (!found.tokens.is_null()).then(|| image.array::<u32, _>(found.tokens, size(found.count)));
    assert_eq!(tokens, wanted.tokens, "{what}: their tokens");
}

const ALL: [(usize, usize); 8] = [(0, 0), (0, 2), (1, 0), (2, 1), (2, 0), (3, 0), (5, 0), (HEAD_SITE, 0)];

#[test]
fn factors_gains_and_biases_are_the_cpus() {
    let Some(bench) = Bench::new() else { return };
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        for rank in [1, 3, 8, 17, 64] {
            for dora in [false, true] {
                let what = format!("{dtype:?} rank {rank} dora {dora}");
                assert_same(&bench, &Adapter::random(rank as u64, rank, dtype, dora, &ALL), &what);
                let biased = Adapter::random(rank as u64, rank, dtype, dora, &ALL[..3]).with_biases(3, &[(0, 1), (0, 0), (7, 0)]);
                assert_same(&bench, &biased, &format!("{what}, biases"));
            }
        }
    }
}

#[test]
fn factors_as_bytes_are_within_half_a_step_of_the_files() {
    let Some(mut bench) = Bench::new() else { return };
    bench.loader = Loader::new(&bench.device, &bench.pages, FactorStorage::Int8).unwrap();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        for rank in [1, 8, 17] {
            let mut adapter = Adapter::random(rank as u64, rank, dtype, true, &ALL).with_embedding(5, 7, dtype, false).with_norms(6, &[3]);
            // Rows that are large, and nothing but zeros, keep to themselves.
            adapter.modules[0].a[..WIDTH].iter_mut().for_each(|v| *v *= 512.0);
            adapter.modules[1].b[..rank].fill(0.0);
            let (device, packed) = (bench.load(&adapter), bench.compile(&adapter));
            let image = bench.image(&device);
            let table: abi::Adapter = image.array(device.address(), 1)[0];
            let sites: Vec<abi::SiteDelta> = image.array(table.sites, bench.manifest.sites.len());
            let near = |byte: i8, step: f32, value: f32| (f32::from(byte) * step - value).abs() <= 0.5001 * step && byte != i8::MIN;
            for (id, (found, wanted)) in sites.iter().zip(&packed.sites).enumerate() {
                let Some(wanted) = wanted else { continue };
                let Stored::Float(dtype) = wanted.stored else { unreachable!("as in the file") };
                assert_eq!((size(found.rank), found.dtype), (wanted.rank, abi::I8), "site {id}");
                let width = bench.manifest.sites[id].in_features;
                let rows = PackedRows { dtype, count: wanted.rank, width, offset: wanted.a };
                let scale = image.vector(found.scale, wanted.rank).unwrap();
                for (at, (byte, value)) in
                    image.array::<i8, _>(found.a, wanted.rank * width).iter().zip(packed_rows(packed.slab.bytes(), &rows)).enumerate()
                {
                    let step = scale[at / width] / wanted.scale[at / width];
                    assert!(near(*byte, step, value), "A of site {id}, {at}: {value} became {byte} steps of {step}");
                }
                for (found, wanted) in image.array::<abi::Part, _>(found.parts, size(found.part_count)).iter().zip(&wanted.parts) {
                    let steps = image.vector(found.b_scale, wanted.out_features).unwrap();
                    let b = panels(packed.slab.bytes(), dtype, wanted.b, wanted.out_features, wanted.rank);
                    for (at, (byte, value)) in image.array::<i8, _>(found.b, b.len()).iter().zip(&b).enumerate() {
                        let step = steps[at / wanted.rank];
                        assert!(near(*byte, step, *value), "B of site {id}, {at}: {value} became {byte} steps of {step}");
                    }
                    assert_eq!(image.vector(found.gain, wanted.out_features), wanted.gain, "gain of site {id}");
                }
            }
            assert_eq!((table.embedding.dtype, size(table.embedding.rank)), (abi::dtype(dtype), 7), "the embedding keeps its dtype");
        }
    }
}

#[test]
fn a_site_of_several_dtypes_widens_and_one_of_biases_alone_has_no_factors() {
    let Some(bench) = Bench::new() else { return };
    let mut mixed = Adapter::random(1, 5, Dtype::F16, true, &ALL);
    mixed.modules[0].dtype = Dtype::F32;
    assert_same(&bench, &mixed, "mixed");
    assert_same(&bench, &Adapter::default().with_biases(2, &[(0, 0), (0, 2), (HEAD_SITE, 0)]), "biases alone");
    assert_same(&bench, &Adapter::default(), "nothing");
}

#[test]
fn embeddings_heads_and_norms_are_the_cpus() {
    let Some(bench) = Bench::new() else { return };
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        for dora in [false, true] {
            let adapter = Adapter::random(4, 3, dtype, dora, &ALL).with_embedding(5, 7, dtype, dora).with_norms(6, &[0, 3, NORMS - 1]);
            assert_same(&bench, &adapter, &format!("{dtype:?} embedding, dora {dora}"));
        }
        for tokens in [None, Some(&[9u32, 2, 49, 2, 0][..])] {
            let adapter = Adapter {
                embedding_rows: Some(Rows::random(8, dtype, tokens, 1.0)),
                head_rows: Some(Rows::random(9, dtype, tokens, 1.0)),
                ..Adapter::random(4, 2, Dtype::F16, false, &ALL[..2])
            };
            assert_same(&bench, &adapter, &format!("{dtype:?} rows of {tokens:?}"));
        }
    }
}

#[test]
fn what_the_host_kept_comes_back_as_the_same_numbers() {
    let Some(bench) = Bench::new() else { return };
    let host = HostTier::new(&bench.device, Slab::new(&bench.device, 64 * PAGE)).unwrap();
    let adapters: Vec<_> = (0..4)
        .map(|seed| Adapter {
            head_rows: Some(Rows::random(9, Dtype::F32, Some(&[9u32, 2, 49]), 1.0)),
            ..Adapter::random(seed, 17, Dtype::F16, true, &ALL).with_embedding(5, 7, Dtype::F32, true).with_norms(6, &[0, 3])
        })
        .collect();
    let keep = |adapter: &Adapter| host.keep(&bench.load(adapter)).unwrap().unwrap();
    let images: Vec<_> = adapters.iter().map(keep).collect();
    assert_eq!(host.used(), images.iter().map(|(_, bytes)| bytes).sum::<usize>());
    // Backwards, all at once, twice: none lies where it lay.
    for round in 0..2 {
        let restore = |(i, &(image, _)): (usize, &(u32, usize))| {
            let image = host.get(image).unwrap();
            let pages = pages_from(bench.loader.fit(image.map()).runs(), 1 + i * 120);
            bench.loader.restore(9, &image, &pages).unwrap()
        };
        let back: Vec<_> = images.iter().rev().enumerate().map(restore).collect();
        for (i, (device, adapter)) in back.iter().zip(adapters.iter().rev()).enumerate() {
            let packed = bench.compile(adapter);
            assert_eq!((device.handle(), device.stands_alone()), (9, packed.stands_alone));
            let what = format!("round {round}, adapter {i}");
            assert_numbers(&bench, &bench.image(device), device.address(), &packed, &what);
        }
    }
    for (image, _) in images {
        host.discard(image);
        assert_eq!(host.get(image).err().unwrap().code, Code::Native);
    }
    assert_eq!(host.used(), 0);
}

#[test]
fn a_host_without_room_keeps_nothing() {
    let Some(bench) = Bench::new() else { return };
    let adapter = bench.load(&Adapter::random(1, 64, Dtype::F32, true, &ALL));
    let pages = adapter.map().bytes().div_ceil(PAGE);
    let host = HostTier::new(&bench.device, Slab::new(&bench.device, pages * PAGE + PAGE - 1)).unwrap();
    let (first, bytes) = host.keep(&adapter).unwrap().unwrap();
    assert_eq!((bytes, host.used()), (pages * PAGE, pages * PAGE));
    assert!(host.keep(&adapter).unwrap().is_none());
    // A load that reads it holds its pages.
    let read = host.get(first).unwrap();
    host.discard(first);
    assert!(host.keep(&adapter).unwrap().is_none());
    drop(read);
    assert!(host.keep(&adapter).unwrap().is_some());
    host.clear();
    assert_eq!(host.used(), 0);
}

#[test]
fn pages_stay_within_their_budget_and_hold_what_was_copied_to_them() {
    let Some(device) = first_device() else { return };
    let slab = Slab::new(&device, 300 * PAGE);
    let stream = device.stream(0).unwrap();
    let mut rng = Rng(3);
    let mut held: Vec<(Pages, Arc<DeviceBuffer>, Vec<u8>)> = Vec::new();
    for round in 0..60u8 {
        let bytes = 1 + rng.below(if round % 7 == 0 { 260 * PAGE } else { 9 * PAGE });
        let used: usize = held.iter().map(|(pages, ..)| pages.bytes()).sum();
        assert_eq!(slab.used(), used);
        let Some(mut pages) = slab.take(bytes) else {
            assert!(used + bytes > 299 * PAGE, "{bytes} refused beside {used}");
            held.swap_remove(rng.below(held.len()));
            continue;
        };
        // In pieces of any length, with a gap on the device between them.
        let mut staging = Staging::new(&device, bytes.min(3 * PAGE) + 8).unwrap();
        let len = bytes.min(3 * PAGE);
        staging.bytes_mut().unwrap().iter_mut().enumerate().for_each(|(i, byte)| *byte = (i / 251) as u8 ^ round);
        let memory = Arc::new(device.alloc(len + 8).unwrap());
        staging.copy_in(len + 8, &memory, 0, &stream).unwrap();
        let wanted = staging.bytes().unwrap().to_vec();
        let cut = rng.below(len);
        let base = memory.ptr().addr();
        let runs = [Run { from: 0, to: base, len: cut }, Run { from: cut, to: base + cut + 8, len: len - cut }];
        pages.copy_out(&runs, &memory, &stream).unwrap();
        stream.zero(&memory).unwrap();
        held.push((pages, memory, [&wanted[..cut], &wanted[cut + 8..]].concat()));
        for (pages, memory, wanted) in &mut held {
            let run = [Run { from: 0, to: memory.ptr().addr(), len: wanted.len() }];
            pages.copy_in(&run, memory, &stream).unwrap();
            let mut back = Staging::new(&device, wanted.len()).unwrap();
            back.copy_out(memory, 0, wanted.len(), &stream).unwrap();
            assert_eq!(back.bytes().unwrap(), &wanted[..], "round {round}");
        }
        if held.len() > 5 {
            held.swap_remove(rng.below(5));
        }
    }
    let (mut pages, memory, _) = held.swap_remove(0);
    let (base, all) = (memory.ptr().addr(), pages.bytes());
    for run in [
        Run { from: all - 4, to: base, len: 5 },
        Run { from: usize::MAX, to: base, len: 5 },
        Run { from: 0, to: base - 1, len: 5 },
        Run { from: 0, to: base + memory.len() - 4, len: 5 },
    ] {
        assert_eq!(pages.copy_in(&[run], &memory, &stream).err().unwrap().code, Code::Native);
    }
    assert_eq!(pages.put(all - 4, 1).err().unwrap().code, Code::Native);
    assert_eq!(pages.put(usize::MAX, 1).err().unwrap().code, Code::Native);
    drop((held, pages));
    assert_eq!(slab.used(), 0);
}

#[test]
fn a_slab_without_more_pinned_memory_lives_on_with_what_it_has() {
    let Some(device) = first_device() else { return };
    let asked = Arc::new(AtomicUsize::new(0));
    let (from, count) = (device.clone(), asked.clone());
    let source = move |bytes| {
        if count.fetch_add(1, Ordering::Relaxed) > 0 {
            return Err(Error::new(Code::Device, "no more"));
        }
        from.pinned(bytes)
    };
    let slab = Slab::of(1 << 40, Box::new(source));
    let first = slab.take(100 * PAGE).unwrap();
    assert!(slab.take(200 * PAGE).is_none(), "the second piece was refused");
    let second = slab.take(100 * PAGE).unwrap();
    assert!(slab.take(200 * PAGE).is_none());
    assert_eq!(asked.load(Ordering::Relaxed), 2, "it is not asked for again");
    drop((first, second));
    assert!(slab.take(200 * PAGE).is_some());
}

#[test]
fn memory_that_nobody_wanted_for_a_while_is_given_back() {
    let Some(bench) = Bench::new() else { return };
    drop(bench.load(&Adapter::random(1, 8, Dtype::F16, false, &ALL)));
    let spare = bench.loader.pool().spare();
    let before = spare.bytes();
    assert!(before > 0);
    spare.trim(Duration::from_hours(1));
    assert_eq!(spare.bytes(), before, "it was just used");
    spare.trim(Duration::ZERO);
    assert_eq!(spare.bytes(), 0);
}

/// Arrays in random order and distance, some of them neighbours as in the image; the bytes that this takes.
fn scatter(rng: &mut Rng, map: &ImageMap, base: usize) -> (Placement, usize) {
    let mut addresses = vec![0; map.arrays().len()];
    let mut order: Vec<usize> = (0..addresses.len()).collect();
    (1..order.len()).rev().for_each(|i| order.swap(i, rng.below(i + 1)));
    let mut end = 0usize;
    for array in order {
        if addresses[array] != 0 {
            continue;
        }
        let most = if rng.below(2) == 0 { 1 } else { 4 };
        let offset = end.next_multiple_of(64) + 64 * rng.below(5);
        let run: Vec<usize> = (array..addresses.len()).take(most).take_while(|&next| addresses[next] == 0).collect();
        for next in run {
            let at = offset + map.arrays()[next].start - map.arrays()[array].start;
            addresses[next] = base + at;
            end = at + map.arrays()[next].len();
        }
    }
    (Placement::of(addresses), end)
}

#[test]
fn an_image_is_the_same_adapter_wherever_its_arrays_lie() {
    let Some(bench) = Bench::new() else { return };
    let stream = bench.device.stream(0).unwrap();
    let mut rng = Rng(5);
    for seed in 0..12 {
        let adapter = Adapter {
            head_rows: Some(Rows::random(9, Dtype::F32, Some(&[9u32, 2, 49]), 1.0)),
            ..Adapter::random(seed, 5, Dtype::F16, seed % 2 == 0, &ALL).with_embedding(5, 7, Dtype::F32, true).with_norms(6, &[0, 3])
        };
        let image = bench.build(&adapter);
        let map = image.map().clone();
        let memory = Arc::new(bench.device.alloc(4 * map.bytes() + 64 * 4 * map.arrays().len()).unwrap());
        let (placement, bytes) = scatter(&mut rng, &map, memory.ptr().addr());
        assert!(bytes <= memory.len() && map.runs(&placement).unwrap().len() > map.arrays().len() / 4);
        image.upload(&placement, &memory, &stream).unwrap();
        let address = std::ptr::without_provenance(placement.table());
        assert_numbers(&bench, &bench.read_back(&memory), address, &bench.compile(&adapter), &format!("scattered, seed {seed}"));
    }
}

#[test]
fn a_placement_outside_of_its_memory_or_of_another_image_is_refused() {
    let Some(bench) = Bench::new() else { return };
    let stream = bench.device.stream(0).unwrap();
    let adapter = Adapter::random(1, 4, Dtype::F16, false, &ALL);
    let map = bench.build(&adapter).map().clone();
    let memory = Arc::new(bench.device.alloc(map.bytes()).unwrap());
    let base = memory.ptr().addr();
    assert_eq!(map.runs(&Placement::contiguous(&map, base)).unwrap().len(), 1, "one copy");
    let short = Arc::new(bench.device.alloc(map.bytes() - 1).unwrap());
    for (to, placement) in [
        (&memory, Placement::of(vec![base])),
        (&memory, Placement::contiguous(&map, base + 1)),
        (&memory, Placement::contiguous(&map, base - 64)),
        (&short, Placement::contiguous(&map, short.ptr().addr())),
    ] {
        let error = bench.build(&adapter).upload(&placement, to, &stream).err().unwrap();
        assert_eq!(error.code, Code::Native, "{error}");
    }
    let fix = |at, array| vec![FixUp { at, array }];
    assert!(ImageMap::new(vec![0..64, 64..80], fix(72, 1), 0, false).is_ok());
    for (arrays, fix_ups) in [
        (vec![0..64, 64..80], fix(73, 1)),
        (vec![0..64, 64..80], fix(usize::MAX, 1)),
        (vec![0..64, 64..80], fix(0, 2)),
        (vec![0..65, 64..80], fix(0, 0)),
    ] {
        assert_eq!(ImageMap::new(arrays, fix_ups, 0, false).err().unwrap().code, Code::Native);
    }
}

#[test]
fn what_the_cpu_refuses_is_refused_and_leaves_nothing() {
    let Some(bench) = Bench::new() else { return };
    let mut adapter = Adapter::random(1, 4, Dtype::F32, false, &ALL);
    adapter.modules[3].b[5] = f32::NAN;
    let error = bench.loader.read(&adapter.file(), &adapter.plan(), &bench.manifest, &bench.weights).err().unwrap();
    assert!(error.code == Code::AdapterInvalid && error.message.contains("element 5 is NaN"), "{error}");
    assert_eq!(bench.device.allocated_bytes(), PAGES * PAGE_BYTES);
    assert!(bench.loader.pool().spare().bytes() > 0, "its pinned memory waits for the next");
    drop(bench.toy);
}

/// An image of arrays of these lengths.
fn map_of(lengths: &[usize]) -> ImageMap {
    let mut at: usize = 0;
    let arrays = lengths.iter().map(|len| {
        let start = at.next_multiple_of(64);
        at = start + len;
        start..at
    });
    ImageMap::new(arrays.collect(), Vec::new(), 0, false).unwrap()
}

#[test]
fn arrays_lie_whole_in_runs_of_pages_each_one_copy() {
    let mut rng = Rng(11);
    for _ in 0..300 {
        let page = 1 << (10 + rng.below(5));
        let lengths: Vec<usize> = (0..=rng.below(60))
            .map(|_| {
                let most = if rng.below(6) == 0 { 5 * page } else { page / 2 };
                rng.below(most)
            })
            .collect();
        let map = map_of(&lengths);
        let fit = Fit::of(&map, page);
        assert!(fit.runs().is_sorted_by(|a, b| a >= b) && fit.runs().iter().all(|&run| run > 0));
        let pages: usize = fit.runs().iter().sum();
        // Runs far from each other.
        let mut addresses = Vec::new();
        let mut base = 1 << 30;
        for &run in fit.runs() {
            base -= 3 * page * (run + 1);
            addresses.extend((0..run).map(|i| base + i * page));
        }
        let placement = fit.place(&addresses).unwrap();
        let copies = map.runs(&placement).unwrap();
        assert!(copies.len() <= fit.runs().len(), "a run is one copy");
        for (&at, &len) in placement.addresses().iter().zip(&lengths) {
            let first = addresses.iter().position(|&page_at| at >= page_at && at < page_at + page).unwrap();
            let held = addresses[first..].iter().enumerate().take_while(|(i, page_at)| **page_at == addresses[first] + i * page).count();
            assert!(at + len <= addresses[first] + held * page, "an array leaves its run");
        }
        // Where no array is longer than half a page, pages are at least half full, save the last.
        if lengths.iter().all(|&len| len <= page / 2) {
            assert!((pages - 1) * page <= 2 * map.bytes(), "{pages} pages for {} bytes", map.bytes());
        }
        assert_eq!(fit.place(&addresses[1..]).err().unwrap().code, Code::Native);
    }
}

#[test]
fn pages_are_one_adapters_or_a_steps_and_free_once_the_last_holder_is_gone() {
    let Some(bench) = Bench::new() else { return };
    let store = AdapterStore::<DeviceAdapter>::default();
    let build = |seed: u64| bench.build(&Adapter::random(seed, 8, Dtype::F16, false, &ALL));
    let runs = bench.loader.fit(build(1).map()).runs().to_vec();
    let pages = pages_from(&runs, 3);
    store.insert(Arc::new(bench.place(build(1), 3).unwrap()));
    let bytes = runs.iter().sum::<usize>() * PAGE_BYTES;
    assert_eq!(store.memory(), (bytes, 1));
    let refused = |image, pages: &[i32]| bench.loader.place(7, image, pages).err().unwrap();
    let held_by_a_step = store.get(7).unwrap();
    drop(store.release(7));
    let error = refused(build(2), &pages);
    assert!(error.code == Code::Native && error.message.contains("is an adapter's already"), "{error}");
    let error = bench.pages.begin_step([0, pages[2] as usize].into_iter()).err().unwrap();
    assert!(error.code == Code::StepFailed && error.message.contains("holds an adapter"), "{error}");
    drop(held_by_a_step);
    assert_eq!(store.memory(), (0, 0));

    let steps = [0, 1].map(|_| bench.pages.begin_step([pages[2] as usize, 200, pages[2] as usize].into_iter()).unwrap());
    for step in steps {
        let error = refused(build(2), &pages);
        assert!(error.message.contains("a KV block of a step in flight"), "{error}");
        drop(step);
    }
    let again = bench.loader.place(7, build(2), &pages).unwrap();
    assert_eq!((again.bytes(), bench.device.allocated_bytes()), (bytes, PAGES * PAGE_BYTES));
}

#[test]
fn pages_that_are_none_or_no_neighbours_are_refused_and_nothing_is_taken() {
    let Some(bench) = Bench::new() else { return };
    // Rows of the head in float32 are longer than a page.
    let adapter = Adapter { head_rows: Some(Rows::random(9, Dtype::F32, None, 1.0)), ..Adapter::random(3, 4, Dtype::F16, false, &ALL) };
    let runs = bench.loader.fit(bench.build(&adapter).map()).runs().to_vec();
    assert!(runs[0] > 1 && runs.len() > 2, "{runs:?}");
    let good = pages_from(&runs, 0);
    let changed = |at: usize, page: i32| {
        let mut pages = good.clone();
        pages[at] = page;
        pages
    };
    let last = good.len() - 1;
    for pages in [
        Vec::new(),
        good[1..].to_vec(),
        [&good[..], &[499]].concat(),
        changed(last, -1),
        changed(last, i32::MIN),
        changed(last, PAGES as i32),
        changed(last, i32::MAX),
        changed(last, good[0]),
        changed(1, good[0]),
        changed(1, 400),
    ] {
        let error = bench.loader.place(7, bench.build(&adapter), &pages).err().unwrap();
        assert_eq!(error.code, Code::Native, "{error}");
    }
    assert!(bench.pages.begin_step([PAGES].into_iter()).is_err());
    bench.loader.place(7, bench.build(&adapter), &good).unwrap();
}

#[test]
fn an_adapter_outlives_its_loader() {
    let Some(bench) = Bench::new() else { return };
    let resident = bench.load(&Adapter::random(1, 4, Dtype::F16, false, &ALL));
    let Bench { device, pages, loader, toy, .. } = bench;
    drop((loader, pages, toy));
    assert_eq!(device.allocated_bytes(), PAGES * PAGE_BYTES);
    drop(resident);
    assert_eq!(device.allocated_bytes(), 0);
}

#[test]
fn loads_use_pinned_memory_again() {
    let Some(bench) = Bench::new() else { return };
    for seed in 0..20 {
        drop(bench.load(&Adapter::random(seed, 8, Dtype::F32, false, &ALL)));
    }
    // One load at a time: one pinned buffer serves them all.
    let spare = bench.loader.pool().spare().bytes();
    assert!(spare > 0 && spare <= 1 << 20 && spare <= MAX_SPARE_PINNED, "{spare} bytes");
}

#[test]
fn a_pool_keeps_no_more_than_its_bound_and_gives_the_smallest_that_fits() {
    const MIB: usize = 1 << 20;
    let Some(device) = first_device() else { return };
    let pool = PinnedPool::new(&device, 8 * MIB);
    let taken: Vec<_> = [1, 2, 4, 6].map(|mib| pool.take(mib * MIB - 5).unwrap()).into_iter().collect();
    assert_eq!(taken.iter().map(|b| b.len() / MIB).collect::<Vec<_>>(), [1, 2, 4, 6]);
    assert_eq!(pool.spare().bytes(), 0);
    // Given back in this order: 1, 2, 4 fit, 6 drives out the oldest.
    drop(taken);
    assert_eq!(pool.spare().bytes(), 6 * MIB);
    assert_eq!(pool.take(100).unwrap().len(), 6 * MIB, "the smallest that fits");
    drop([pool.take(6 * MIB).unwrap(), pool.take(2 * MIB).unwrap()]);
    assert_eq!(pool.spare().bytes(), 8 * MIB);
    assert_eq!(pool.take(2 * MIB).unwrap().len(), 2 * MIB);
    drop(pool.take(9 * MIB).unwrap());
    assert_eq!(pool.spare().bytes(), 0, "larger than the bound: all go");
    // Random traffic.
    let mut rng = Rng(1);
    let mut held = Vec::new();
    for _ in 0..300 {
        if rng.below(2) == 0 || held.is_empty() {
            let len = 1 + rng.below(3 * MIB);
            let buffer = pool.take(len).unwrap();
            assert!(buffer.len() >= len);
            held.push(buffer);
        } else {
            drop(held.swap_remove(rng.below(held.len())));
        }
        held.truncate(6);
        assert!(pool.spare().bytes() <= 8 * MIB);
    }
}
