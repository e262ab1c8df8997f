//! From adapter bytes to resident factors: hostile files, exact packing, DoRA gains, patterns.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    clippy::float_cmp,
    reason = "test code: a failure is a panic, sizes are small"
)]

mod common;
mod toy;

use common::packed::{Packed, half_bytes};
use common::panels::Panels;
use common::{Rng, TempDir, bytes_of, round_to};
use loramux_native::adapters::compile::{FactorStorage, compile};
use loramux_native::adapters::pack::{pack_panels, pack_rows};
use loramux_native::adapters::patterns::first_matches;
use loramux_native::adapters::plan::{AdapterPlan, BiasPlan, CopyPlan, EmbeddingPlan, ModulePlan, NormPlan, RowsPlan};
use loramux_native::adapters::read::MAX_RANK;
use loramux_native::adapters::resident::{Adapter, EmbeddingDelta};
use loramux_native::adapters::safetensors::File;
use loramux_native::adapters::tensor::Values;
use loramux_native::adapters::{nibbles, quantise};
use loramux_native::error::{Code, Error};
use loramux_native::kernels::ahead::Jump;
use loramux_native::kernels::dispatch::available;
use loramux_native::kernels::lora::{Expand, GROUP, PANEL, Shrink, Stored};
use loramux_native::kernels::nibbles::{CHUNK, STEP, block_inputs, group_size, panel_size};
use loramux_native::kernels::quantised::Bits;
use loramux_native::kernels::simd::{Dtype, LANES};
use loramux_native::manifest::{Manifest, Precision, Site, SiteModule, WeightRef};
use loramux_native::weights::Weights;
use proptest::prelude::*;
use std::path::Path;
use toy::adapter::{safetensors, with_header};
use toy::{HEAD_SITE, NORMS, Toy, VOCAB, WIDTH};

fn parse(bytes: Vec<u8>) -> Result<File, Error> {
    File::parse("a.safetensors".to_owned(), bytes)
}

fn small_file() -> Vec<u8> {
    let tensor =
        |name: &str, shape: &[usize]| (name.to_owned(), Dtype::F16, shape.to_vec(), vec![0u8; shape.iter().product::<usize>() * 2]);
    safetensors(&[tensor("a", &[2, 3]), tensor("b", &[4]), tensor("empty", &[0, 7]), tensor("c", &[])])
}

#[test]
fn a_good_file_is_read_as_it_is() {
    let bytes = small_file();
    let file = parse(bytes.clone()).unwrap();
    let names: Vec<_> = file.tensors.iter().map(|t| (t.name.as_str(), t.shape.clone(), file.data(t).len())).collect();
    assert_eq!(file.size(), bytes.len());
    assert_eq!(file.sha256.len(), 64);
    assert!(names.contains(&("a", vec![2, 3], 12)) && names.contains(&("empty", vec![0, 7], 0)) && names.contains(&("c", vec![], 2)));
    assert!(parse(with_header("{}   ", &[])).unwrap().tensors.is_empty(), "padding spaces are part of the format");
}

#[test]
fn broken_files_are_refused_with_what_is_wrong() {
    let one = |entry: &str, data: usize| with_header(&format!(r#"{{"t":{entry}}}"#), &vec![0; data]);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "a file of 0 bytes"),
        (vec![1; 7], "a file of 7 bytes"),
        (u64::MAX.to_le_bytes().to_vec(), "header length 18446744073709551615"),
        ([(100u64 << 20).to_le_bytes().to_vec(), vec![b' '; 64]].concat(), "header length 104857600"),
        ([(9u64 << 20).to_le_bytes().to_vec(), vec![b' '; (9 << 20) + 8]].concat(), "the limit is 8388608"),
        (with_header("[]", &[]), "not a JSON object"),
        (with_header("{", &[]), "header:"),
        (with_header("{}x", &[]), "header:"),
        (with_header("{}", &[0]), "cover 0 of 1"),
        (one(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#, 3), "lie outside the data of 3 bytes"),
        (one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0,4]}"#, 4), "does not take the 4 bytes"),
        (one(r#"{"dtype":"F99","shape":[1],"data_offsets":[0,4]}"#, 4), "unknown dtype F99"),
        (one(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,0]}"#, 4), "lie outside"),
        (one(r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}"#, 4), "header:"),
        (one(r#"{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}"#, 4), "header:"),
        (one(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}"#, 0), "does not take"),
        (one(r#"{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}"#, 4), "at most 8 dimensions"),
        (one(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4],"extra":1}"#, 4), "unknown field `extra`"),
        (one(r#"{"dtype":"F32","shape":[1]}"#, 4), "missing field"),
        (one(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#, 8), "gap or overlap"),
        (two((0, 4), (4, 8), 12), "cover 8 of 12"),
        (two((0, 4), (2, 6), 6), "gap or overlap"),
        (two((0, 4), (6, 10), 10), "gap or overlap"),
        (two((0, 4), (0, 4), 4), "gap or overlap"),
        (
            with_header(
                r#"{"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#,
                &[],
            ),
            "duplicate key t",
        ),
        (with_header(r#"{"__metadata__":{"a":1}}"#, &[]), "header:"),
        (with_header(r#"{"__metadata__":{},"__metadata__":{}}"#, &[]), "duplicate key __metadata__"),
        (many_tensors(20_001), "at most 20000 tensors"),
    ];
    for (i, (bytes, what)) in cases.into_iter().enumerate() {
        let error = parse(bytes).err().unwrap_or_else(|| unreachable!("case {i} ({what}) was accepted"));
        assert_eq!(error.code, Code::AdapterInvalid, "case {i}");
        assert!(error.message.contains(what) && error.message.starts_with("a.safetensors: "), "case {i}: expected {what} in: {error}");
    }
}

fn two(first: (usize, usize), second: (usize, usize), data: usize) -> Vec<u8> {
    let entry = |(start, end)| format!(r#"{{"dtype":"U8","shape":[{}],"data_offsets":[{start},{end}]}}"#, end - start);
    with_header(&format!(r#"{{"a":{},"b":{}}}"#, entry(first), entry(second)), &vec![0; data])
}

fn many_tensors(count: usize) -> Vec<u8> {
    let entries: Vec<_> = (0..count).map(|i| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#)).collect();
    with_header(&format!("{{{}}}", entries.join(",")), &[])
}

#[test]
fn files_are_opened_within_their_limit_and_only_if_regular() {
    let directory = TempDir::new();
    let path = directory.path().join("adapter_model.safetensors");
    let bytes = small_file();
    assert_eq!(File::open(&path, 1 << 20).err().unwrap().code, Code::AdapterNotFound);
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(File::open(&path, bytes.len() as u64).unwrap().label, "adapter_model.safetensors");
    assert_eq!(File::open(&path, bytes.len() as u64 - 1).err().unwrap().code, Code::AdapterTooLarge);
    let error = File::open(directory.path(), 1 << 20).err().unwrap();
    assert!(error.message.contains("expected a regular file"), "{error}");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), length in any::<u16>()) {
        let _ = parse(bytes.clone());
        let mut headed = u64::from(length % 400).to_le_bytes().to_vec();
        headed.extend(bytes);
        let _ = parse(headed);
    }

    #[test]
    fn flipped_and_truncated_files_are_refused_or_stay_within_bounds(at in any::<usize>(), bit in 0..8u32, keep in any::<usize>()) {
        let mut bytes = small_file();
        let length = bytes.len();
        bytes[at % length] ^= 1u8 << bit;
        if let Ok(file) = parse(bytes) {
            let total: usize = file.tensors.iter().map(|t| file.data(t).len()).sum();
            prop_assert!(total < length);
        }
        let mut short = small_file();
        short.truncate(keep % length);
        prop_assert!(parse(short).is_err());
    }
}

/// A site of 5 → 40 + 3 columns whose base weights lie in `path`.
struct Base {
    site: Site,
    weights: Weights,
    rows: Vec<f32>,
    directory: TempDir,
}

const INPUTS: usize = 5;
const OUTS: [usize; 2] = [40, 3];

fn base() -> Base {
    let rows = Rng(1).floats((OUTS[0] + OUTS[1]) * INPUTS, 1.0);
    let directory = TempDir::new();
    let path = directory.path().join("weights.bin");
    std::fs::write(&path, bytes_of(Dtype::F32, &rows)).unwrap();
    let module = |name: &str, out_offset: usize, out_features: usize| SiteModule {
        name: name.to_owned(),
        out_offset,
        out_features,
        weight: WeightRef {
            format: Precision::F32,
            rows: out_features,
            cols: INPUTS,
            first_row: 0,
            data_offset: out_offset * INPUTS * 4,
            scales_offset: None,
            mins_offset: None,
        },
        bias_offset: None,
    };
    let modules = vec![module("first", 0, OUTS[0]), module("second", OUTS[0], OUTS[1])];
    let site = Site { in_features: INPUTS, out_features: OUTS[0] + OUTS[1], modules };
    Base { site, weights: Weights::open(&path).unwrap(), rows, directory }
}

fn plan(module: usize, rank: usize) -> ModulePlan {
    let name = |part: &str| format!("{module}.{part}");
    ModulePlan {
        site: 0,
        module,
        a: name("a"),
        b: name("b"),
        a_blocks: 1,
        b_blocks: 1,
        magnitude: None,
        lora_bias: None,
        rank,
        scaling: 0.5,
    }
}

type Tensor = (String, Dtype, Vec<usize>, Vec<f32>);

fn tensor(name: &str, dtype: Dtype, shape: &[usize], rng: &mut Rng) -> Tensor {
    let values = rng.floats(shape.iter().product(), 1.0).iter().map(|&v| round_to(dtype, v)).collect();
    (name.to_owned(), dtype, shape.to_vec(), values)
}

fn file_of(tensors: &[Tensor]) -> File {
    let raw: Vec<_> = tensors.iter().map(|(name, dtype, shape, v)| (name.clone(), *dtype, shape.clone(), bytes_of(*dtype, v))).collect();
    parse(safetensors(&raw)).unwrap()
}

/// Factors of both modules at ranks 3 and 2.
fn factors(dtypes: [Dtype; 4]) -> Vec<Tensor> {
    let mut rng = Rng(2);
    vec![
        tensor("0.a", dtypes[0], &[3, INPUTS], &mut rng),
        tensor("0.b", dtypes[1], &[OUTS[0], 3], &mut rng),
        tensor("1.a", dtypes[2], &[2, INPUTS], &mut rng),
        tensor("1.b", dtypes[3], &[OUTS[1], 2], &mut rng),
    ]
}

fn compiled(base: &Base, tensors: &[Tensor], plans: &[ModulePlan]) -> Result<Adapter, Error> {
    compile(0, &file_of(tensors), &factors_only(plans), FactorStorage::File, &manifest_of(&base.site), &base.weights)
}

fn factors_only(modules: &[ModulePlan]) -> AdapterPlan {
    AdapterPlan { modules: modules.to_vec(), ..AdapterPlan::default() }
}

/// A manifest of one site.
fn manifest_of(site: &Site) -> Manifest {
    Manifest { sites: vec![site.clone()], ..Toy::manifest() }
}

fn unpack(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        Dtype::F16 => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
        Dtype::Bf16 => bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect(),
    }
}

#[test]
fn factors_are_packed_exactly_and_a_mixed_site_widens() {
    use Dtype::{Bf16, F16, F32};
    let base = base();
    for (dtypes, held) in [([F32; 4], F32), ([F16; 4], F16), ([Bf16; 4], Bf16), ([F16, F16, F16, Bf16], F32), ([F32, F16, Bf16, F16], F32)]
    {
        let tensors = factors(dtypes);
        // The plan may name modules in any order.
        let adapter = compiled(&base, &tensors, &[plan(1, 2), plan(0, 3)]).unwrap();
        let site = adapter.sites[0].as_ref().unwrap();
        assert_eq!((site.stored, site.rank, site.width, &site.scale), (Stored::Float(held), 5, INPUTS, &vec![0.5; 5]));
        assert!(!adapter.stands_alone);
        let slab = adapter.slab.bytes();
        let a = unpack(held, &slab[site.a..][..5 * LANES * held.size()]);
        // Groups of four adapter rows, vectors alternating; five inputs are one vector a row, so rows follow each other.
        let rows = tensors[0].3.chunks_exact(INPUTS).chain(tensors[2].3.chunks_exact(INPUTS));
        for (packed, row) in a.chunks_exact(LANES).zip(rows) {
            assert_eq!(packed[..INPUTS], *row);
            assert_eq!(packed[INPUTS..], [0.0; LANES - INPUTS]);
        }
        let mut bytes = 5 * LANES * held.size() + 5 * 4;
        for (part, (b, rank)) in site.parts.iter().zip([(&tensors[1].3, 3), (&tensors[3].3, 2)]) {
            let size = part.panels() * rank * PANEL * held.size();
            let panels = unpack(held, &slab[part.b..][..size]);
            for n in 0..part.panels() * PANEL {
                for j in 0..rank {
                    let wanted = if n < part.out_features { b[n * rank + j] } else { 0.0 };
                    assert_eq!(panels[(n / PANEL * rank + j) * PANEL + n % PANEL], wanted);
                }
            }
            bytes += size;
        }
        assert_eq!(adapter.bytes, bytes);
    }
}

#[test]
fn subnormal_and_extreme_halves_survive() {
    let base = base();
    for (dtype, values) in [(Dtype::F16, [6e-8f32, -65504.0, 6.1e-5, 0.0, -0.0]), (Dtype::Bf16, [1e-40, -3.3e38, 1e-38, 0.0, -0.0])] {
        let mut tensors = factors([dtype; 4]);
        tensors[0].3[..5].copy_from_slice(&values.map(|v| round_to(dtype, v)));
        let adapter = compiled(&base, &tensors, &[plan(0, 3)]).unwrap();
        let a = unpack(dtype, &adapter.slab.bytes()[adapter.sites[0].as_ref().unwrap().a..][..16 * dtype.size()]);
        assert_eq!(common::bits(&a[..5]), common::bits(&tensors[0].3[..5]));
    }
}

#[test]
fn factors_as_bytes_are_off_by_at_most_half_a_step() {
    let base = base();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        let mut tensors = factors([dtype; 4]);
        // Scales must cover what is alone in its row or panel, large, tiny, too small for a scale, and zero.
        tensors[0].3[..INPUTS].copy_from_slice(&[60000.0, 0.0, -60000.0, 1.0, 230.0].map(|v| round_to(dtype, v)));
        tensors[0].3[INPUTS..2 * INPUTS].fill(0.0);
        tensors[1].3[..3].copy_from_slice(&[-3e4, 1e-4, 0.0].map(|v| round_to(dtype, v)));
        if dtype != Dtype::F16 {
            tensors[2].3[..INPUTS].fill(round_to(dtype, 1e-35));
        }
        let plans = [plan(0, 3), plan(1, 2)];
        let storage = FactorStorage::Int8;
        let adapter = compile(0, &file_of(&tensors), &factors_only(&plans), storage, &manifest_of(&base.site), &base.weights).unwrap();
        let site = adapter.sites[0].as_ref().unwrap();
        assert_eq!((site.stored, site.rank), (Stored::Int8, 5));
        let slab = adapter.slab.bytes();
        let element = |at: usize| f32::from(slab[at].cast_signed());
        // The scale of an adapter row holds what its elements were divided by, times the module's scaling of a half.
        let rows = tensors[0].3.chunks_exact(INPUTS).chain(tensors[2].3.chunks_exact(INPUTS));
        for (j, row) in rows.enumerate() {
            let step = site.scale[j] / 0.5;
            assert!(step.is_finite());
            for (c, value) in row.iter().enumerate() {
                let found = element(site.a + j * LANES + c) * step;
                assert!((found - value).abs() <= 0.5001 * step + 1e-30, "A row {j}: {value} became {found}, {step} a step");
            }
        }
        let mut bytes = 5 * LANES + 5 * 4;
        for (part, (b, rank)) in site.parts.iter().zip([(&tensors[1].3, 3), (&tensors[3].3, 2)]) {
            for n in 0..part.panels() * PANEL {
                let panel = part.b + n / PANEL * Stored::Int8.panel_size(rank);
                for j in 0..rank {
                    let step = unpack(Dtype::Bf16, &slab[panel + 2 * j..][..2])[0];
                    let found = element(panel + 2 * rank + j * PANEL + n % PANEL) * step;
                    let wanted = if n < part.out_features { b[n * rank + j] } else { 0.0 };
                    assert!((found - wanted).abs() <= 0.5001 * step, "B of {n}, {j}: {wanted} became {found}, {step} a step");
                }
            }
            bytes += part.panels() * rank * (PANEL + 2);
        }
        assert_eq!(adapter.bytes, bytes);
    }
}

#[test]
fn factors_in_nibbles_are_nearer_than_sevenths_of_the_largest() {
    let mut rng = Rng(11);
    for (rank, inputs, outputs) in [(1usize, 5usize, 1usize), (3, 33, 40), (4, 576, 64), (6, 600, 33), (17, 1536, 100)] {
        // Every width of numbers: rows of tiny ones, of large ones, a lone large one, zeros.
        let mut rows: Vec<f32> = rng.floats(rank * inputs, 1.0);
        for (j, row) in rows.chunks_exact_mut(inputs).enumerate() {
            let size = [1.0, 1e-25, 1e30, 0.0, 1e-33][j % 5];
            for value in row.iter_mut() {
                *value *= size;
            }
            row[0] *= 20.0;
        }
        let mut a = vec![0xff; Stored::Int4.a_size(rank, inputs)];
        nibbles::pack_a(&rows, inputs, &mut a);
        let mut b = vec![0xff; Stored::Int4.b_size(outputs, rank)];
        let columns = rng.floats(outputs * rank, 3.0);
        let sizes = nibbles::pack_b(&columns, rank, &mut b);
        let scale_at = |bytes: &[u8], at: usize| unpack(Dtype::Bf16, &bytes[at..][..2])[0];
        let code = |byte: u8, high: bool| f32::from(if high { byte >> 4 } else { byte & 15 }) - 8.0;
        for (j, row) in rows.chunks_exact(inputs).enumerate() {
            let block = block_inputs(inputs);
            for lane in 0..4 {
                let mut place = j / GROUP * group_size(inputs);
                for start in (0..inputs).step_by(block) {
                    let end = inputs.min(start + block);
                    let scale = scale_at(&a, place + (j % GROUP * 4 + lane) * 2);
                    let steps = place + LANES * 2;
                    // Inputs of the lane: four of every 16.
                    let pairs = (start..end).filter(|c| (c - start) % LANES / 4 == lane).map(|c| {
                        let (step, at) = ((c - start) / STEP, (c - start) % STEP);
                        let byte = a[steps + step * 64 + j % GROUP * LANES + at % LANES];
                        (row[c], scale * code(byte, at >= LANES))
                    });
                    nearer_than_sevenths(pairs.collect());
                    place = steps + (end - start).div_ceil(STEP) * 64;
                }
            }
        }
        for (panel, outputs) in columns.chunks(PANEL * rank).enumerate() {
            let mut place = panel * panel_size(rank);
            for first in (0..rank).step_by(CHUNK) {
                let count = CHUNK.min(rank - first);
                for lane in 0..LANES {
                    let scale = scale_at(&b, place + 2 * lane);
                    // Columns of the lane: two of the panel's.
                    let columns = outputs.chunks_exact(rank).enumerate().filter(|(n, _)| n % LANES == lane);
                    let pairs = columns.flat_map(|(n, row)| {
                        let (b, sizes) = (&b, &sizes);
                        (0..count).map(move |j| {
                            let byte = b[place + 32 + j / 4 * 64 + lane * 4 + j % 4];
                            (row[first + j] / sizes[first + j], scale * code(byte, n >= LANES))
                        })
                    });
                    nearer_than_sevenths(pairs.collect());
                }
                place += 32 + count.div_ceil(4) * 64;
            }
        }
    }
}

/// One group's numbers and what became of them.
fn nearer_than_sevenths(group: Vec<(f32, f32)>) {
    let largest = group.iter().fold(0f32, |top, (value, _)| top.max(value.abs()));
    if largest < 1e-30 {
        assert!(group.iter().all(|(_, found)| *found == 0.0), "{group:?}");
        return;
    }
    let step = f64::from(largest) / 7.0;
    let plain: f64 =
        group.iter().map(|(value, _)| (f64::from(*value) / step).round() * step - f64::from(*value)).map(|off| off * off).sum();
    let off: f64 = group.iter().map(|(value, found)| f64::from(found - value).powi(2)).sum();
    // What the plain scale would lose in bfloat16 comes on top: 2⁻⁸ of each number.
    let rounding: f64 = group.iter().map(|(value, _)| (f64::from(*value) / 256.0).powi(2)).sum();
    assert!(off.sqrt() <= plain.sqrt() + rounding.sqrt(), "{off} against {plain}: {group:?}");
}

/// Of the demo adapters, trained ones: ‖B̂Â − BA‖ / ‖BA‖ of every module, as the kernels multiply what is held.
#[test]
fn rounded_deltas_of_trained_adapters_stay_near() {
    for (stored, most) in [(Stored::Int8, 0.015), (Stored::Int4, 0.13)] {
        let mut errors = Vec::new();
        for name in ["pirate", "sentiment", "sql", "support-json"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/adapters").join(name).join("adapter_model.safetensors");
            let file = File::open(&path, 1 << 30).unwrap();
            for a in file.tensors.iter().filter(|tensor| tensor.name.contains("lora_A")).step_by(7) {
                let b = file.find(&a.name.replace("lora_A", "lora_B")).unwrap();
                assert_eq!((a.dtype.as_str(), b.dtype.as_str()), ("F16", "F16"));
                let (rank, inputs, outputs) = (a.shape[0], a.shape[1], b.shape[0]);
                let (a, b) = (unpack(Dtype::F16, file.data(a)), unpack(Dtype::F16, file.data(b)));
                let exact = delta(Stored::Float(Dtype::F32), &a, &b, rank, inputs, outputs);
                let found = delta(stored, &a, &b, rank, inputs, outputs);
                let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
                let off = norm(&mut found.iter().zip(&exact).map(|(found, exact)| found - exact));
                errors.push(off / norm(&mut exact.iter().copied()));
            }
        }
        errors.sort_by(f64::total_cmp);
        let (middle, worst) = (errors[errors.len() / 2], errors[errors.len() - 1]);
        println!("{stored:?}: deltas of {} modules are off by {middle:.4} of their norm in the median, {worst:.4} at most", errors.len());
        assert!(worst < most && errors[0] > 1e-4, "{stored:?}: {errors:?}");
    }
}

/// (B·A)ᵀ [inputs, outputs]: what the kernels make of the unit vectors, in strips of rows.
fn delta(stored: Stored, a: &[f32], b: &[f32], rank: usize, inputs: usize, outputs: usize) -> Vec<f32> {
    let mut packed_a = vec![0; stored.a_size(rank, inputs)];
    let mut packed_b = vec![0; stored.b_size(outputs, rank)];
    let mut scale = vec![1.0; rank];
    match stored {
        Stored::Float(dtype) => {
            let bytes = bytes_of(dtype, a);
            pack_rows(dtype, &bytes.chunks_exact(inputs * dtype.size()).collect::<Vec<_>>(), inputs, &mut packed_a);
            pack_panels(dtype, &bytes_of(dtype, b), rank, &mut packed_b);
        }
        Stored::Int8 => {
            scale = quantise::pack_a(a, inputs, &mut packed_a);
            quantise::pack_b(b, rank, &mut packed_b);
        }
        Stored::Int4 => {
            nibbles::pack_a(a, inputs, &mut packed_a);
            scale = nibbles::pack_b(b, rank, &mut packed_b);
        }
    }
    let unit: Vec<f32> = (0..inputs * inputs).map(|at| if at / inputs == at % inputs { 1.0 } else { 0.0 }).collect();
    let (mut h, mut y) = (vec![0.0; inputs * rank], vec![0.0; inputs * outputs]);
    let set = available()[0];
    let shrink = Shrink {
        x: unit.as_ptr(),
        x_stride: inputs,
        rows: inputs,
        width: inputs,
        a: packed_a.as_ptr(),
        stored,
        ranks: (0, rank),
        scale: scale.as_ptr(),
        strength: 1.0,
        h: h.as_mut_ptr(),
        h_stride: rank,
    };
    // SAFETY: the buffers have the shapes that are said; `available` gave the set.
    unsafe { (set.shrink)(&shrink) };
    let expand = Expand {
        h: h.as_ptr(),
        h_stride: rank,
        rows: inputs,
        rank,
        b: packed_b.as_ptr(),
        stored,
        jump: Jump::NONE,
        panels: (0, outputs.div_ceil(PANEL)),
        width: outputs,
        y: y.as_mut_ptr(),
        y_stride: outputs,
        gain: std::ptr::null(),
        offset: std::ptr::null(),
        strength: 1.0,
    };
    // SAFETY: as above.
    unsafe { (set.expand)(&expand) };
    y
}

#[test]
fn an_adapter_in_nibbles_takes_the_bytes_it_says() {
    let base = base();
    let tensors = factors([Dtype::F16; 4]);
    let adapter = compile(
        0,
        &file_of(&tensors),
        &factors_only(&[plan(0, 3), plan(1, 2)]),
        FactorStorage::Int4,
        &manifest_of(&base.site),
        &base.weights,
    )
    .unwrap();
    let site = adapter.sites[0].as_ref().unwrap();
    assert_eq!((site.stored, site.rank, site.scale.len()), (Stored::Int4, 5, 5));
    // Two groups of a step and a vector of scales each; a panel holds a vector of scales and one quad of adapter rows.
    let panels: usize = site.parts.iter().map(|part| part.panels() * (32 + 64)).sum();
    assert_eq!(adapter.bytes, 2 * (64 + 32) + 5 * 4 + panels);
}

type SpoilPlan = fn(&mut Vec<Tensor>, &mut ModulePlan);

#[test]
fn bad_adapters_are_refused_naming_the_tensor() {
    let base = base();
    let magnitude = |plan: ModulePlan| ModulePlan { magnitude: Some("m".to_owned()), ..plan };
    let cases: [(&str, &str, SpoilPlan); 12] = [
        ("0.a", "the file has none", |t, _| drop(t.remove(0))),
        ("0.b", "the file has none", |t, _| drop(t.remove(1))),
        ("0.a", "expected shape [4, 5], got [3, 5]", |_, p| p.rank = 4),
        ("0.b", "expected shape [40, 3], got [3, 40]", |t, _| t[1].2 = vec![3, 40]),
        ("0.a", "expected shape [3, 5], got [15]", |t, _| t[0].2 = vec![15]),
        ("0.a", "element 7 is NaN", |t, _| t[0].3[7] = f32::NAN),
        ("0.b", "element 119 is -inf", |t, _| t[1].3[119] = f32::NEG_INFINITY),
        ("0.a", "a rank of 1 to 256, got 0", |_, p| p.rank = 0),
        ("0.a", "a rank of 1 to 256, got 257", |_, p| p.rank = MAX_RANK + 1),
        ("0.a", "a finite float32 scaling, got NaN", |_, p| p.scaling = f64::NAN),
        ("0.a", "a finite float32 scaling, got 1", |_, p| p.scaling = 1e39),
        ("m", "the file has none", |_, p| p.magnitude = Some("m".to_owned())),
    ];
    for (i, (name, what, spoil)) in cases.iter().enumerate() {
        let (mut tensors, mut plan) = (factors([Dtype::F32; 4]), plan(0, 3));
        spoil(&mut tensors, &mut plan);
        let error = compiled(&base, &tensors, &[plan]).err().unwrap();
        assert_eq!(error.code, Code::AdapterInvalid, "case {i}");
        assert!(
            error.message.contains(&format!("tensor {name}: ")) && error.message.contains(what),
            "case {i}: expected {what} in: {error}"
        );
    }
    for magnitudes in [vec![1.0f32; 39], vec![f32::NAN; 40]] {
        let mut tensors = factors([Dtype::F32; 4]);
        tensors.push(("m".to_owned(), Dtype::F32, vec![magnitudes.len()], magnitudes));
        let error = compiled(&base, &tensors, &[magnitude(plan(0, 3))]).err().unwrap();
        assert!(error.message.contains("tensor m: "), "{error}");
    }
    for plans in [vec![plan(0, 3), plan(0, 3)], vec![plan(2, 3)], vec![ModulePlan { site: 1, ..plan(0, 3) }]] {
        assert_eq!(compiled(&base, &factors([Dtype::F32; 4]), &plans).err().unwrap().code, Code::Native);
    }
    let header = r#"{"0.a":{"dtype":"I32","shape":[3,5],"data_offsets":[0,60]}}"#;
    let integers = parse(with_header(header, &[0; 60])).unwrap();
    let error =
        compile(0, &integers, &factors_only(&[plan(0, 3)]), FactorStorage::File, &manifest_of(&base.site), &base.weights).err().unwrap();
    assert!(error.message.contains("expected F32, F16, BF16 or F64, got I32"), "{error}");
}

#[test]
fn blocks_stand_on_the_diagonal_of_a_dense_factor() {
    let stored: Vec<f32> = (1..=12).map(|v| v as f32).collect();
    let file = file_of(&[("a".to_owned(), Dtype::F16, vec![4, 3], stored)]);
    let dense = Values::of_blocks(&file, "a", 4, 6, 2).unwrap();
    assert_eq!(dense.dtype, Dtype::F16);
    #[rustfmt::skip]
    assert_eq!(dense.widen(), [
        1., 2., 3., 0., 0., 0.,
        4., 5., 6., 0., 0., 0.,
        0., 0., 0., 7., 8., 9.,
        0., 0., 0., 10., 11., 12.,
    ]);
    assert_eq!(Values::of_blocks(&file, "a", 4, 3, 1).unwrap().widen().len(), 12, "one block is the whole");
    for blocks in [0, 3, 4] {
        assert_eq!(Values::of_blocks(&file, "a", 4, 6, blocks).err().unwrap().code, Code::Native, "{blocks} blocks");
    }
    assert!(Values::of_blocks(&file, "a", 4, 12, 2).err().unwrap().message.contains("expected shape [4, 6], got [4, 3]"));
}

/// `m / ‖W + s·B·A‖` of one output row.
fn gain(w: &[f32], a: &[f32], b: &[f32], scaling: f64, m: f32) -> f64 {
    let column = |c: usize| {
        let delta: f64 = b.iter().enumerate().map(|(j, b)| f64::from(*b) * f64::from(a[j * w.len() + c])).sum();
        f64::from(w[c]) + scaling * delta
    };
    f64::from(m) / (0..w.len()).map(column).map(|v| v * v).sum::<f64>().sqrt()
}

#[test]
fn dora_gains_match_the_formula_on_float32_and_quantised_bases() {
    let base = base();
    let mut tensors = factors([Dtype::Bf16; 4]);
    tensors.push(tensor("m", Dtype::F32, &[OUTS[1]], &mut Rng(3)));
    let adapter = compiled(&base, &tensors, &[plan(0, 3), ModulePlan { magnitude: Some("m".to_owned()), ..plan(1, 2) }]).unwrap();
    assert!(adapter.stands_alone);
    let parts = &adapter.sites[0].as_ref().unwrap().parts;
    assert!(parts[0].gain.is_none());
    for (n, found) in parts[1].gain.as_ref().unwrap().iter().enumerate() {
        let w = &base.rows[(OUTS[0] + n) * INPUTS..][..INPUTS];
        let wanted = gain(w, &tensors[2].3, &tensors[3].3[n * 2..][..2], 0.5, tensors[4].3[n]);
        assert!((f64::from(*found) - wanted).abs() < 1e-6 * wanted.abs(), "row {n}: {found}, expected {wanted}");
    }
    // A quantised base: the norm is that of what the graph multiplies by.
    let mut rng = Rng(5);
    // One panel of 16 rows, one block of 32 columns.
    let quants: Vec<u8> = (0..16 * 32).map(|_| rng.bits() as u8).collect();
    let path = base.directory.path().join("quantised.bin");
    std::fs::write(&path, [quants, bytes_of(Dtype::F16, &rng.floats(32, 0.1))].concat()).unwrap();
    let weights = Weights::open(&path).unwrap();
    for format in [Precision::W8, Precision::W4] {
        let mins_offset = (format == Precision::W4).then_some(544);
        let weight = WeightRef { format, rows: OUTS[1], cols: 32, first_row: 5, data_offset: 0, scales_offset: Some(512), mins_offset };
        let modules =
            vec![SiteModule { name: "only".to_owned(), out_offset: 0, out_features: OUTS[1], weight: weight.clone(), bias_offset: None }];
        let site = Site { in_features: 32, out_features: OUTS[1], modules };
        let tensors = [
            tensor("0.a", Dtype::F16, &[4, 32], &mut rng),
            tensor("0.b", Dtype::F16, &[OUTS[1], 4], &mut rng),
            tensor("m", Dtype::F16, &[OUTS[1]], &mut rng),
        ];
        let plan = ModulePlan { magnitude: Some("m".to_owned()), ..plan(0, 4) };
        let adapter = compile(0, &file_of(&tensors), &factors_only(&[plan]), FactorStorage::File, &manifest_of(&site), &weights).unwrap();
        let mut w = [0.0; 32];
        for (n, found) in adapter.sites[0].as_ref().unwrap().parts[0].gain.as_ref().unwrap().iter().enumerate() {
            weights.read_row(&weight, n, &mut w).unwrap();
            let wanted = gain(&w, &tensors[0].3, &tensors[1].3[n * 4..][..4], 0.5, tensors[2].3[n]);
            assert!((f64::from(*found) - wanted).abs() <= 1e-6 * wanted.abs(), "{format:?} row {n}: {found}, expected {wanted}");
        }
    }
}

#[test]
fn biases_become_what_is_added_to_the_base() {
    let base = base();
    let mut rng = Rng(6);
    let mut tensors = factors([Dtype::F16; 4]);
    tensors.push(tensor("lora_bias", Dtype::Bf16, &[OUTS[0]], &mut rng));
    tensors.push(tensor("first.bias", Dtype::F32, &[OUTS[0]], &mut rng));
    tensors.push(tensor("second.bias", Dtype::F32, &[OUTS[1]], &mut rng));
    let mut site = base.site.clone();
    // The first weights of the file stand in for the second module's bias.
    site.modules[1].bias_offset = Some(0);
    let bias = |module: usize, tensor: &str| BiasPlan { site: 0, module, tensor: tensor.to_owned() };
    let plan = AdapterPlan {
        modules: vec![ModulePlan { lora_bias: Some("lora_bias".to_owned()), ..plan(0, 3) }],
        biases: vec![bias(1, "second.bias"), bias(0, "first.bias")],
        ..AdapterPlan::default()
    };
    let compiled = |plan: &AdapterPlan| compile(0, &file_of(&tensors), plan, FactorStorage::File, &manifest_of(&site), &base.weights);
    let adapter = compiled(&plan).unwrap();
    let parts = &adapter.sites[0].as_ref().unwrap().parts;
    let close = |found: f32, wanted: f32| assert!((found - wanted).abs() < 1e-6, "{found}, expected {wanted}");
    for (n, &found) in parts[0].offset.as_ref().unwrap().iter().enumerate() {
        close(found, 0.5 * tensors[4].3[n] + tensors[5].3[n]);
    }
    assert_eq!((parts[1].rank, parts[1].panels()), (0, 1));
    for (n, &found) in parts[1].offset.as_ref().unwrap().iter().enumerate() {
        close(found, tensors[6].3[n] - base.rows[n]);
    }
    let without = compiled(&factors_only(&plan.modules[..1])).unwrap();
    assert_eq!(adapter.bytes - without.bytes, OUTS[1] * 4, "a module's two biases are one vector");
    let twice = AdapterPlan { biases: vec![bias(0, "first.bias"), bias(0, "first.bias")], ..AdapterPlan::default() };
    assert_eq!(compiled(&twice).err().unwrap().code, Code::Native);
    let wide = AdapterPlan { biases: vec![bias(1, "first.bias")], ..AdapterPlan::default() };
    assert!(compiled(&wide).err().unwrap().message.contains("tensor first.bias: expected shape [3], got [40]"));
}

#[test]
fn float64_is_narrowed_and_what_float32_cannot_hold_is_refused() {
    let base = base();
    for (value, fits) in [(1.0 / 3.0, true), (1e300, false)] {
        let header =
            r#"{"a":{"dtype":"F64","shape":[1,5],"data_offsets":[0,40]},"b":{"dtype":"F64","shape":[40,1],"data_offsets":[40,360]}}"#;
        let file = parse(with_header(header, &[value; 45].map(f64::to_le_bytes).concat())).unwrap();
        let plan = ModulePlan { a: "a".to_owned(), b: "b".to_owned(), ..plan(0, 1) };
        let found = compile(0, &file, &factors_only(&[plan]), FactorStorage::File, &manifest_of(&base.site), &base.weights);
        if fits {
            let adapter = found.unwrap();
            assert_eq!(unpack(Dtype::F32, &adapter.slab.bytes()[..20]), [1.0f32 / 3.0; 5]);
        } else {
            assert!(found.err().unwrap().message.contains("tensor a: element 0 is inf"));
        }
    }
}

/// A model of one float32 matrix [VOCAB, WIDTH], which is both embedding and head.
fn tied_base(directory: &TempDir, values: &[f32]) -> (Manifest, Weights) {
    let path = directory.path().join("tied.bin");
    std::fs::write(&path, bytes_of(Dtype::F32, values)).unwrap();
    let mut manifest = Toy::manifest();
    manifest.embedding.weight.data_offset = 0;
    manifest.sites[HEAD_SITE].modules[0].weight.data_offset = 0;
    (manifest, Weights::open(&path).unwrap())
}

#[test]
fn copies_of_the_base_are_compared_at_their_own_precision() {
    let directory = TempDir::new();
    let values = Rng(7).floats(VOCAB * WIDTH, 1.0);
    let (manifest, weights) = tied_base(&directory, &values);
    let copy = |site| AdapterPlan { copies: vec![CopyPlan { tensor: "copy".to_owned(), site }], ..AdapterPlan::default() };
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16] {
        let rounded: Vec<f32> = values.iter().map(|&v| round_to(dtype, v)).collect();
        for site in [None, Some(HEAD_SITE)] {
            let file = |values: &[f32]| file_of(&[("copy".to_owned(), dtype, vec![VOCAB, WIDTH], values.to_vec())]);
            let adapter = compile(0, &file(&rounded), &copy(site), FactorStorage::File, &manifest, &weights).unwrap();
            assert_eq!((adapter.bytes, adapter.stands_alone), (0, false), "an equal copy is dropped");
            let mut other = rounded.clone();
            other[3 * WIDTH + 5] = round_to(dtype, other[3 * WIDTH + 5] * 1.01 + 0.01);
            let error = compile(0, &file(&other), &copy(site), FactorStorage::File, &manifest, &weights).err().unwrap();
            assert!(error.message.contains("tensor copy: expected a copy of the base's weight, row 3 column 5"), "{error}");
        }
    }
    let file = file_of(&[("copy".to_owned(), Dtype::F32, vec![VOCAB, WIDTH], values)]);
    for site in [0, 99] {
        assert_eq!(compile(0, &file, &copy(Some(site)), FactorStorage::File, &manifest, &weights).err().unwrap().code, Code::Native);
    }
}

#[test]
fn replaced_rows_are_held_by_token_and_counted() {
    let directory = TempDir::new();
    let (manifest, weights) = tied_base(&directory, &vec![1.0; VOCAB * WIDTH]);
    let mut rng = Rng(8);
    let tensors = [
        tensor("rows", Dtype::F16, &[6, WIDTH], &mut rng),
        tensor("matrix", Dtype::Bf16, &[VOCAB, WIDTH], &mut rng),
        tensor("norm", Dtype::F16, &[WIDTH], &mut rng),
    ];
    let file = file_of(&tensors);
    let rows = |name: &str, tokens: Option<&[u32]>| Some(RowsPlan { tensor: name.to_owned(), tokens: tokens.map(<[u32]>::to_vec) });
    let plan = AdapterPlan {
        embedding_rows: rows("rows", Some(&[9, 2, 49, 2, 0, 5])),
        head_rows: rows("matrix", None),
        norms: vec![NormPlan { norm: NORMS - 1, tensor: "norm".to_owned() }],
        ..AdapterPlan::default()
    };
    let adapter = compile(0, &file, &plan, FactorStorage::File, &manifest, &weights).unwrap();
    let row_bytes = WIDTH.next_multiple_of(LANES) * 2;
    assert_eq!(adapter.bytes, 5 * (row_bytes + 4) + VOCAB * row_bytes + WIDTH * 4);
    assert!(adapter.stands_alone);
    let mut row = vec![0.0; WIDTH];
    let Some(EmbeddingDelta::Replaced(held)) = &adapter.embedding else { unreachable!("rows were planned") };
    for (token, wanted) in [(9, 0), (2, 3), (49, 2), (0, 4), (5, 5)] {
        held.rows.unpack(adapter.slab.bytes(), held.row_of(token).unwrap(), &mut row);
        assert_eq!(row, tensors[0].3[wanted * WIDTH..][..WIDTH], "token {token}");
    }
    assert_eq!((held.row_of(1), held.row_of(50)), (None, None));
    let head = adapter.head.as_ref().unwrap();
    head.rows.unpack(adapter.slab.bytes(), head.row_of(49).unwrap(), &mut row);
    assert_eq!(row, tensors[1].3[49 * WIDTH..]);
    assert_eq!(head.row_of(VOCAB), None);

    let norm = |norm: usize, name: &str| AdapterPlan { norms: vec![NormPlan { norm, tensor: name.to_owned() }], ..AdapterPlan::default() };
    let lora = EmbeddingPlan { a: "rows".to_owned(), b: "rows".to_owned(), magnitude: None, rank: 6, scaling: 1.0 };
    let cases = [
        (AdapterPlan { head_rows: rows("rows", Some(&[])), ..AdapterPlan::default() }, "1 to 4096 tokens, got 0"),
        (AdapterPlan { head_rows: rows("rows", Some(&[0, 1, 2, 3, 4, 50])), ..AdapterPlan::default() }, "tokens below 50, got 50"),
        (AdapterPlan { head_rows: rows("rows", Some(&[1])), ..AdapterPlan::default() }, "expected shape [1, 24], got [6, 24]"),
        (AdapterPlan { head_rows: rows("rows", None), ..AdapterPlan::default() }, "expected shape [50, 24]"),
        (AdapterPlan { embedding: Some(lora.clone()), ..AdapterPlan::default() }, "expected shape [6, 50], got [6, 24]"),
        (AdapterPlan { embedding: Some(lora), embedding_rows: rows("matrix", None), ..AdapterPlan::default() }, "both adds"),
        (norm(NORMS, "norm"), "norm 5, which the model lacks"),
        (norm(0, "rows"), "expected shape [24], got [6, 24]"),
    ];
    for (plan, what) in cases {
        let error = compile(0, &file, &plan, FactorStorage::File, &manifest, &weights).err().unwrap();
        assert!(error.message.contains(what), "expected {what} in: {error}");
    }
}

#[test]
fn a_norm_of_zero_is_refused() {
    let mut base = base();
    // W = −s·B·A row by row: the sum vanishes.
    let tensors = [
        ("1.a".to_owned(), Dtype::F32, vec![1, INPUTS], vec![1.0; INPUTS]),
        ("1.b".to_owned(), Dtype::F32, vec![OUTS[1], 1], vec![-2.0; OUTS[1]]),
        ("m".to_owned(), Dtype::F32, vec![OUTS[1]], vec![1.0; OUTS[1]]),
    ];
    let path = base.directory.path().join("ones.bin");
    std::fs::write(&path, bytes_of(Dtype::F32, &[1.0; 43 * INPUTS])).unwrap();
    base.weights = Weights::open(&path).unwrap();
    let error = compiled(&base, &tensors, &[ModulePlan { magnitude: Some("m".to_owned()), ..plan(1, 1) }]).err().unwrap();
    assert!(error.message.contains("tensor m: output row 0 of second has a norm of 0e0"), "{error}");
}

#[test]
fn weight_rows_are_read_in_every_format_and_never_past_the_file() {
    const COLS: usize = 64;
    const ROWS: usize = 37;
    let mut rng = Rng(4);
    let directory = TempDir::new();
    let path = directory.path().join("weights.bin");
    let mut out = vec![0.0; COLS];
    for (format, bits) in [(Precision::W8, Bits::Eight), (Precision::W4, Bits::Four)] {
        let packed = Packed::random(&mut rng, bits, ROWS, COLS);
        let blob = [packed.quants.clone(), half_bytes(&packed.scales), half_bytes(&packed.mins)].concat();
        std::fs::write(&path, &blob).unwrap();
        let weights = Weights::open(&path).unwrap();
        let scales_offset = Some(packed.quants.len());
        let mins_offset = (bits == Bits::Four).then_some(packed.quants.len() + packed.scales.len() * 2);
        // A module that begins in the middle of a panel.
        let weight = WeightRef { format, rows: ROWS - 7, cols: COLS, first_row: 7, data_offset: 0, scales_offset, mins_offset };
        let mut steps = vec![0.0; COLS];
        for row in 0..weight.rows {
            weights.read_row(&weight, row, &mut out).unwrap();
            weights.read_steps(&weight, row, &mut steps).unwrap();
            for c in 0..COLS {
                let (wanted, step) = (packed.value(7 + row, c), packed.scale(7 + row, c));
                assert!((f64::from(out[c]) - wanted).abs() < 1e-5, "{format:?} row {row} column {c}: {}, expected {wanted}", out[c]);
                assert_eq!(f64::from(steps[c]), step.abs(), "{format:?} row {row} column {c}");
            }
        }
        let error = weights.read_row(&weight, 41, &mut out).err().unwrap();
        assert!(error.code == Code::ModelInvalid && error.message.contains("weights.bin"), "{error}");
    }
    for (format, bits) in [(Precision::W8Rows, 8), (Precision::W4Rows, 4)] {
        let quants: Vec<u8> = (0..ROWS * COLS * bits / 8).map(|_| rng.bits() as u8).collect();
        let scales: Vec<f32> = rng.floats(ROWS * COLS / 32, 0.1).iter().map(|&v| half::f16::from_f32(v).to_f32()).collect();
        std::fs::write(&path, [quants.clone(), bytes_of(Dtype::F16, &scales)].concat()).unwrap();
        let weights = Weights::open(&path).unwrap();
        // A module whose rows begin behind another's.
        let (data_offset, scales_offset) = (7 * COLS * bits / 8, Some(quants.len() + 7 * COLS / 32 * 2));
        let weight = WeightRef { format, rows: ROWS - 7, cols: COLS, first_row: 0, data_offset, scales_offset, mins_offset: None };
        let mut steps = vec![0.0; COLS];
        for row in 0..weight.rows {
            weights.read_row(&weight, row, &mut out).unwrap();
            weights.read_steps(&weight, row, &mut steps).unwrap();
            for c in 0..COLS {
                let at = (7 + row) * COLS + c;
                let quant = if bits == 8 { f32::from(quants[at]) - 128.0 } else { f32::from(quants[at / 2] >> (4 * (at % 2)) & 15) - 8.0 };
                assert_eq!((out[c], steps[c]), (quant * scales[at / 32], scales[at / 32].abs()), "{format:?} row {row} column {c}");
            }
        }
        assert!(weights.read_row(&weight, ROWS - 7, &mut out).is_err(), "{format:?}");
    }
    for (format, dtype) in [(Precision::F32, Dtype::F32), (Precision::F16, Dtype::F16), (Precision::Bf16, Dtype::Bf16)] {
        let values: Vec<f32> = rng.floats(4 * COLS, 1.0).iter().map(|&v| half::bf16::from_f32(v).to_f32()).collect();
        std::fs::write(&path, bytes_of(dtype, &values)).unwrap();
        let weights = Weights::open(&path).unwrap();
        let data_offset = COLS * dtype.size();
        let weight = WeightRef { format, rows: 3, cols: COLS, first_row: 0, data_offset, scales_offset: None, mins_offset: None };
        weights.read_row(&weight, 2, &mut out).unwrap();
        assert_eq!(out, values[3 * COLS..], "{format:?}");
        assert_eq!(weights.read_bias(data_offset, format, COLS).unwrap(), values[COLS..2 * COLS], "{format:?}");
        assert!(weights.read_row(&weight, 3, &mut out).is_err(), "{format:?}");
    }
    let panels = Panels::random(&mut rng, ROWS, COLS);
    std::fs::write(&path, bytes_of(Dtype::F32, &panels.values)).unwrap();
    let weights = Weights::open(&path).unwrap();
    let within = |first_row, data_offset| WeightRef {
        format: Precision::F32Panels,
        rows: 1,
        cols: COLS,
        first_row,
        data_offset,
        scales_offset: None,
        mins_offset: None,
    };
    for row in 0..ROWS - 7 {
        weights.read_row(&within(7, 0), row, &mut out).unwrap();
        assert!((0..COLS).all(|c| out[c] == panels.value(7 + row, c)), "row {row}");
    }
    let outside = [
        (within(7, 0), 41),
        (within(0, 4), 47),
        (within(usize::MAX, 0), 0),
        (within(usize::MAX, 0), usize::MAX),
        (within(0, usize::MAX), 16),
    ];
    for (weight, row) in outside {
        let error = weights.read_row(&weight, row, &mut out).err().unwrap();
        assert!(error.code == Code::ModelInvalid && error.message.contains("weights.bin"), "{error}");
    }
    let blob = bytes_of(Dtype::F32, &rng.floats(144, 1.0));
    std::fs::write(&path, &blob).unwrap();
    let weights = Weights::open(&path).unwrap();
    let float = |data_offset| WeightRef {
        format: Precision::F32,
        rows: 1,
        cols: COLS,
        first_row: 0,
        data_offset,
        scales_offset: None,
        mins_offset: None,
    };
    for (weight, row) in [(float(0), 3), (float(usize::MAX), 0), (float(usize::MAX - 8), 1), (float(4), usize::MAX), (float(blob.len()), 0)]
    {
        let error = weights.read_row(&weight, row, &mut out).err().unwrap();
        assert!(error.code == Code::ModelInvalid && error.message.contains("weights.bin"), "{error}");
    }
    assert!(Weights::open(&directory.path().join("none")).err().unwrap().message.contains("none"));
}

#[test]
fn manifests_whose_shapes_contradict_each_other_are_refused() {
    let parse = |spoil: &dyn Fn(&mut serde_json::Value)| {
        let mut json = Toy::manifest_json();
        spoil(&mut json);
        Manifest::parse(&json.to_string())
    };
    parse(&|_| ()).unwrap();
    let cases: [(&str, &str, serde_json::Value); 16] = [
        ("embedding: expected 50 rows", "/embedding/weight/rows", 49.into()),
        ("embedding: expected 50 rows", "/embedding/weight/cols", 0.into()),
        ("heads = k", "/config/kvHeads", 3.into()),
        ("heads = k", "/config/kvHeads", 0.into()),
        ("heads = k", "/config/heads", (1u64 << 60).into()),
        ("layers", "/config/layers", 0.into()),
        ("headDim", "/config/headDim", 2048.into()),
        ("rope frequencies, got 4", "/config/headDim", 16.into()),
        ("vocabSize", "/config/vocabSize", 0.into()),
        ("finite rope", "/config/ropeScale", 1e300.into()),
        ("site 0: expected 1 to", "/sites/0/inFeatures", 0.into()),
        ("site 0: module 0.0.2 does not fit", "/sites/0/modules/2/outOffset", u64::MAX.into()),
        ("site 0: two modules share output column 31", "/sites/0/modules/1/outOffset", 31.into()),
        ("site 1: module 0.1.0 does not fit", "/sites/1/modules/0/weight/cols", 1.into()),
        ("site 0: module 0.0.0: expected scalesOffset", "/sites/0/modules/0/weight/format", "w4".into()),
        ("unknown variant", "/precision", "w3".into()),
    ];
    for (what, at, value) in cases {
        let error = parse(&|json| *json.pointer_mut(at).unwrap() = value.clone()).err().unwrap();
        assert!(error.code == Code::ModelInvalid && error.message.contains(what), "{at}: expected {what} in: {error}");
    }
}

#[test]
fn patterns_match_whole_names_and_the_first_wins() {
    let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let names = owned(&["model.layers.0.self_attn.q_proj", "model.layers.10.mlp.down_proj", "lm_head", ""]);
    let matches = |patterns: &[&str]| first_matches(&owned(patterns), &names).unwrap();
    assert_eq!(matches(&[r".*\.(q|v)_proj", r"model\..*"]), [0, 1, -1, -1]);
    assert_eq!(matches(&["q_proj", "model", "head"]), [-1; 4], "a part of a name is no match");
    assert_eq!(matches(&[r"model\.layers\.\d\..*", "lm_head|x", ""]), [0, -1, 1, 2]);
    assert_eq!(matches(&["(?i)LM_HEAD", "a|lm_hea|lm_head"]), [-1, -1, 0, -1]);
    assert_eq!(matches(&[]), [-1; 4]);
    let refused = [
        ("(?=x)y", "look-around"),
        (r"(a)\1", "backreferences"),
        ("(", "unclosed group"),
        ("a)|(?:.*", "unopened group"),
        ("((a{100}){100}){100}", "size limit"),
        (&"x".repeat(601), "has 601 bytes"),
    ];
    for (pattern, what) in refused {
        let error = first_matches(&owned(&[".*", pattern]), &names).err().unwrap();
        assert!(error.code == Code::AdapterInvalid && error.message.contains(what), "expected {what} in: {error}");
    }
    assert!(first_matches(&vec!["a".to_owned(); 10_001], &names).is_err());
}

#[test]
fn patterns_that_backtrack_elsewhere_are_fast_here() {
    let started = std::time::Instant::now();
    let names = vec!["a".repeat(2000) + "!"];
    assert_eq!(first_matches(&["(a+)+".to_owned(), "(a|aa)+".to_owned(), "(.*)*b".to_owned()], &names).unwrap(), [-1]);
    assert!(started.elapsed().as_secs() < 5);
}
