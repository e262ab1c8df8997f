//! A decoder of two small layers: its ONNX graph and files, and the same model in scalar float64.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "test code; no file uses all of it"
)]

pub mod adapter;
pub mod blocks;
#[cfg(any(feature = "cuda", feature = "cuda-emulated"))]
pub mod device;
pub mod onnx;
pub mod replaced;
pub mod steps;

use crate::common::panels::Panels;
use crate::common::{Rng, TempDir, bytes_of, round_to, skipped};
use adapter::Adapter;
use blocks::{Blocks, rounded_to};
use loramux_native::adapters::compile::FactorStorage;
use loramux_native::kernels::quantised::{BLOCK, Bits};
use loramux_native::kernels::simd::{Dtype, LANES};
use loramux_native::manifest::Manifest;
use loramux_native::session::context::StepLimits;
use loramux_native::session::engine::{Engine, EngineOptions};
use loramux_native::session::runtime;
use onnx::{Attribute, Graph};
use std::path::{Path, PathBuf};

pub const VOCAB: usize = 50;
pub const LAYERS: usize = 2;
pub const WINDOW: usize = 20;
const HIDDEN: usize = 24;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 8;
const INNER: usize = 40;
const EPSILON: f32 = 1e-5;

/// Per layer: input features and the output features of each module of qkv, o, gate|up, down.
pub const SITES: [(usize, &[usize]); 4] =
    [(HIDDEN, &[HEADS * DIM, KV_HEADS * DIM, KV_HEADS * DIM]), (HEADS * DIM, &[HIDDEN]), (HIDDEN, &[INNER, INNER]), (INNER, &[HIDDEN])];

/// The head's site, behind those of the layers.
pub const HEAD_SITE: usize = LAYERS * SITES.len();
/// Two a layer, then the last.
pub const NORMS: usize = LAYERS * 2 + 1;
pub const WIDTH: usize = HIDDEN;

/// Input features and the output features of each module.
pub fn site_shape(site: usize) -> (usize, &'static [usize]) {
    if site == HEAD_SITE { (HIDDEN, &[VOCAB]) } else { SITES[site % SITES.len()] }
}

pub const LIMITS: StepLimits = StepLimits { max_batch_tokens: 256, max_sequences: 32, max_model_len: 128, kv_pages: 64 };

/// ONNX Runtime's library as npm installed it, opened; or why this machine cannot run these tests.
pub fn runtime_ready() -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (os, name) = match std::env::consts::OS {
        "macos" => ("darwin", "libonnxruntime.1.30.0.dylib"),
        "windows" => ("win32", "onnxruntime.dll"),
        _ => ("linux", "libonnxruntime.so.1"),
    };
    let arch = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "x64" };
    let library = root.join("node_modules/onnxruntime-node/bin/napi-v6").join(os).join(arch).join(name);
    if !library.exists() {
        return skipped(&format!("{} is not there, run `node scripts/build.mjs packages` first", library.display()));
    }
    runtime::open(&library).unwrap();
    true
}

/// Weights [out, in] of one layer's sites, in order; the first site (qkv) has a bias.
struct Layer {
    sites: Vec<Vec<f32>>,
    bias: Vec<f32>,
}

pub struct Toy {
    embedding: Vec<f32>,
    layers: Vec<Layer>,
    head: Vec<f32>,
    directory: TempDir,
    dtype: Dtype,
    bits: Option<Bits>,
}

/// How a test's model departs from the plain one.
#[derive(Clone, Copy)]
pub struct Variant {
    /// The head's site does not say that rows were dropped before it: no valid graph.
    pub forgetful_head: bool,
    /// The weights of the CPU's matmuls have an input column more than there are.
    pub misfit: bool,
    /// Of the graph, and what weights are rounded to.
    pub dtype: Dtype,
    /// Matrices whose inputs are whole blocks, those of the o sites, are quantised, for `MatMulNBits`.
    pub bits: Option<Bits>,
}

impl Default for Variant {
    fn default() -> Self {
        Self { forgetful_head: false, misfit: false, dtype: Dtype::F32, bits: None }
    }
}

/// Whose operators a graph has. On a device matmuls and norms are the runtime's own, and adapters have operators of theirs.
#[derive(Clone, Copy, PartialEq)]
enum Runs {
    OnCpu,
    OnDevice,
}

/// `out = x · Wᵀ` adapted as `site`, the weight [rows, inputs] being an initializer. `head`: of the rows that reach the head.
fn linear(
    g: &mut Graph,
    (variant, runs): (Variant, Runs),
    x: &str,
    (weight, inputs): (&[f32], usize),
    (site, head): (usize, bool),
    out: &str,
) {
    use Attribute::Int;
    let (rows, name) = (weight.len() / inputs, format!("{out}.weight"));
    let (site, gathered) = (("site", Int(site as i64)), Int(i64::from(head && !variant.forgetful_head)));
    if runs == Runs::OnCpu {
        let mut panels = Panels::of(weight, inputs);
        panels.cols += usize::from(variant.misfit);
        let shape = [rows.div_ceil(LANES), panels.cols, LANES];
        panels.values.resize(shape.iter().product(), 0.0);
        g.initializer(&name, &shape, &panels.values);
        g.node("loramux", "DenseMatMul", &[x, &name], &[out], &[("rows", Int(rows as i64)), site, ("head", gathered)]);
        return;
    }
    let product = format!("{out}.base");
    if let Some(blocks) = Blocks::of(variant.bits, weight, inputs) {
        let (quants, scales) = (format!("{name}.quants"), format!("{name}.scales"));
        g.bytes(&quants, &[rows, inputs / BLOCK, blocks.quants.len() * BLOCK / weight.len()], &blocks.quants);
        g.initializer(&scales, &[rows, inputs / BLOCK], &blocks.scales);
        let attributes =
            [("K", inputs), ("N", rows), ("bits", blocks.bits()), ("block_size", BLOCK)].map(|(name, n)| (name, Int(n as i64)));
        g.node("com.microsoft", "MatMulNBits", &[x, &quants, &scales], &[&product], &attributes);
    } else {
        g.initializer(&name, &[rows, inputs], weight);
        g.node("", "Gemm", &[x, &name], &[&product], &[("transB", Int(1))]);
    }
    let adapted = if head { format!("{out}.adapted") } else { out.to_owned() };
    g.node("loramux", "SegmentedLora", &[&product, x], &[&adapted], &[site, ("logits_rows", gathered)]);
    if head {
        g.node("loramux", "SegmentedHead", &[&adapted, x], &[out], &[]);
    }
}

/// `sum = stream + delta` where there is a delta, and `out` its norm `norm`. The name of the sum.
fn norm(g: &mut Graph, runs: Runs, (stream, delta): (&str, Option<&str>), norm: i64, out: &str) -> String {
    use Attribute::{Float, Int};
    let sum = delta.map_or_else(|| stream.to_owned(), |_| format!("{out}.sum"));
    let (norm, epsilon) = (("norm", Int(norm)), ("epsilon", Float(EPSILON)));
    if runs == Runs::OnCpu {
        match delta {
            None => g.node("loramux", "ResidualNorm", &[stream, "gamma"], &[out], &[norm, epsilon]),
            // The last sum is not asked for: nothing reads it.
            Some(delta) if out == "final" => g.node("loramux", "ResidualNorm", &[stream, "gamma", delta], &[out], &[norm, epsilon]),
            Some(delta) => g.node("loramux", "ResidualNorm", &[stream, "gamma", delta], &[out, &sum], &[norm, epsilon]),
        }
        return sum;
    }
    let base = format!("{out}.base");
    if let Some(delta) = delta {
        g.node("", "Add", &[stream, delta], &[&sum], &[]);
    }
    g.node("", "SimplifiedLayerNormalization", &[&sum, "gamma"], &[&base], &[("axis", Int(-1)), epsilon]);
    g.node("loramux", "SegmentedNorm", &[&base, &sum], &[out], &[norm, epsilon]);
    sum
}

impl Toy {
    pub fn new(variant: Variant) -> Self {
        let mut rng = Rng(7);
        let rounded = |values: Vec<f32>| -> Vec<f32> { values.into_iter().map(|v| round_to(variant.dtype, v)).collect() };
        let mut weight = |out: usize, inputs: usize| rounded(rng.floats(out * inputs, 1.7 / (inputs as f32).sqrt()));
        let embedding = weight(VOCAB, HIDDEN).iter().map(|v| v * 4.0).collect();
        let mut layer = || Layer {
            sites: SITES.iter().map(|(inputs, modules)| rounded_to(variant.bits, weight(modules.iter().sum(), *inputs), *inputs)).collect(),
            bias: rounded(weight(SITES[0].1.iter().sum(), 1).iter().map(|v| v * 0.3).collect()),
        };
        let layers = vec![layer(), layer()];
        let head = weight(VOCAB, HIDDEN);
        let toy = Self { embedding, layers, head, directory: TempDir::new(), dtype: variant.dtype, bits: variant.bits };
        toy.write(variant);
        toy
    }

    fn write(&self, variant: Variant) {
        for (file, runs) in [("model.onnx", Runs::OnCpu), ("device.onnx", Runs::OnDevice)] {
            std::fs::write(self.directory.path().join(file), self.graph(variant, runs)).unwrap();
        }
        let layers = self.layers.iter().flat_map(|layer| layer.sites.iter().chain([&layer.bias]).flatten());
        let values: Vec<f32> = layers.chain(&self.head).chain(&self.embedding).copied().collect();
        let mut file = bytes_of(self.dtype, &values);
        for layer in &self.layers {
            for (weight, (inputs, _)) in layer.sites.iter().zip(SITES) {
                if let Some(blocks) = Blocks::of(variant.bits, weight, inputs) {
                    file.extend(blocks.quants.iter().copied().chain(bytes_of(Dtype::F16, &blocks.scales)));
                }
            }
        }
        std::fs::write(self.directory.path().join("weights.bin"), file).unwrap();
    }

    fn graph(&self, variant: Variant, runs: Runs) -> Vec<u8> {
        use Attribute::{Float, Int};
        let mut g = Graph::of(self.dtype);
        g.input("input_ids", "T");
        g.input("logits_rows", "L");
        g.output("logits", "L", VOCAB);
        g.initializer("embedding", &[VOCAB, HIDDEN], &self.embedding);
        g.initializer("gamma", &[HIDDEN], &[1.0; HIDDEN]);
        g.node("", "Gather", &["embedding", "input_ids"], &["embedded"], &[("axis", Int(0))]);
        g.node("loramux", "SegmentedEmbedding", &["embedded", "input_ids"], &["x0"], &[]);
        let (mut stream, mut delta) = ("x0".to_owned(), None);
        for (l, layer) in self.layers.iter().enumerate() {
            let name = |part: &str| format!("l{l}.{part}");
            let matmul = |g: &mut Graph, which: usize, x: &str, out: &str| {
                let weight = (&*layer.sites[which], SITES[which].0);
                linear(g, (variant, runs), x, weight, (l * SITES.len() + which, false), out);
            };
            stream = norm(&mut g, runs, (&stream, delta.as_deref()), 2 * l as i64, &name("norm"));
            matmul(&mut g, 0, &name("norm"), &name("qkv.unbiased"));
            g.initializer(&name("bias"), &[layer.bias.len()], &layer.bias);
            g.node("", "Add", &[&name("qkv.unbiased"), &name("bias")], &[&name("qkv")], &[]);
            let window = if l == 1 { WINDOW as i64 } else { -1 };
            let attributes = [
                ("layer", Int(l as i64)),
                ("num_heads", Int(HEADS as i64)),
                ("kv_num_heads", Int(KV_HEADS as i64)),
                ("head_dim", Int(DIM as i64)),
                ("scale", Float(1.0 / (DIM as f32).sqrt())),
                ("local_window", Int(window)),
            ];
            g.node("loramux", "PagedAttention", &[&name("qkv")], &[&name("attended")], &attributes);
            matmul(&mut g, 1, &name("attended"), &name("o"));
            stream = norm(&mut g, runs, (&stream, Some(&name("o"))), 2 * l as i64 + 1, &name("post"));
            matmul(&mut g, 2, &name("post"), &name("gate_up"));
            g.node("loramux", "GatedSilu", &[&name("gate_up")], &[&name("act")], &[]);
            matmul(&mut g, 3, &name("act"), &name("down"));
            delta = Some(name("down"));
        }
        norm(&mut g, runs, (&stream, delta.as_deref()), NORMS as i64 - 1, "final");
        g.node("", "Gather", &["final", "logits_rows"], &["selected"], &[("axis", Int(0))]);
        linear(&mut g, (variant, runs), "selected", (&self.head, HIDDEN), (HEAD_SITE, true), "logits");
        g.model()
    }

    pub fn manifest() -> Manifest {
        Manifest::parse(&Self::manifest_json().to_string()).unwrap()
    }

    /// Of this toy on a device, whatever its element type.
    pub fn own_manifest(&self) -> Manifest {
        let mut json = manifest_json_in(self.dtype, self.bits);
        json["graph"]["file"] = "device.onnx".into();
        Manifest::parse(&json.to_string()).unwrap()
    }

    pub fn manifest_json() -> serde_json::Value {
        manifest_json_in(Dtype::F32, None)
    }

    pub fn options(&self, threads: usize) -> EngineOptions {
        EngineOptions {
            directory: PathBuf::from(self.directory.path()),
            threads,
            limits: LIMITS,
            token_count: VOCAB,
            factors: FactorStorage::File,
            kv_dtype: Dtype::F32,
            cuda: None,
        }
    }

    pub fn engine(&self, threads: usize) -> Engine {
        Engine::open(Self::manifest(), &self.options(threads)).unwrap()
    }

    /// float64 logits [T][V] of one whole sequence with `terms` in force.
    pub fn reference(&self, tokens: &[i32], terms: &[(&Adapter, f32)]) -> Vec<Vec<f64>> {
        let embedding = replaced::embedding(&self.embedding, terms);
        let mut x: Vec<Vec<f64>> = tokens.iter().map(|&t| embedding[t as usize * HIDDEN..][..HIDDEN].to_vec()).collect();
        for (l, layer) in self.layers.iter().enumerate() {
            let linear = |rows: &[Vec<f64>], which: usize| -> Vec<Vec<f64>> {
                let site = l * SITES.len() + which;
                let weight = adapted(&layer.sites[which], site, terms);
                let bias = adapted_bias(if which == 0 { &layer.bias } else { &[] }, site, terms);
                let biased = |row: &Vec<f64>| times(&weight, row).iter().zip(&bias).map(|(y, b)| y + b).collect();
                rows.iter().map(biased).collect()
            };
            let qkv = linear(&x.iter().map(|r| rms_norm(r, &replaced::norm(2 * l, terms))).collect::<Vec<_>>(), 0);
            let attended = attention(qkv, if l == 1 { WINDOW } else { usize::MAX });
            for (row, delta) in x.iter_mut().zip(linear(&attended, 1)) {
                row.iter_mut().zip(delta).for_each(|(x, d)| *x += d);
            }
            let gate_up = linear(&x.iter().map(|r| rms_norm(r, &replaced::norm(2 * l + 1, terms))).collect::<Vec<_>>(), 2);
            let silu = |row: &Vec<f64>| (0..INNER).map(|c| row[c] / (1.0 + (-row[c]).exp()) * row[INNER + c]).collect();
            let activated: Vec<Vec<f64>> = gate_up.iter().map(silu).collect();
            for (row, delta) in x.iter_mut().zip(linear(&activated, 3)) {
                row.iter_mut().zip(delta).for_each(|(x, d)| *x += d);
            }
        }
        let head = replaced::head(adapted(&self.head, HEAD_SITE, terms), terms);
        let bias = adapted_bias(&[], HEAD_SITE, terms);
        let last = replaced::norm(NORMS - 1, terms);
        let logits = |row: &Vec<f64>| times(&head, &rms_norm(row, &last)).iter().zip(&bias).map(|(y, b)| y + b).collect();
        x.iter().map(logits).collect()
    }
}

/// A toy's manifest with its weights in `dtype`, or quantised.
fn manifest_json_in(dtype: Dtype, bits: Option<Bits>) -> serde_json::Value {
    let size = dtype.size();
    let format = match dtype {
        Dtype::F32 => "f32",
        Dtype::F16 => "f16",
        Dtype::Bf16 => "bf16",
    };
    let mut offset = 0;
    let mut sites = Vec::new();
    let layer_floats: usize = SITES.iter().map(|(inputs, modules)| inputs * modules.iter().sum::<usize>()).sum();
    for l in 0..LAYERS {
        let biases = offset + layer_floats * size;
        for (s, (inputs, modules)) in SITES.iter().enumerate() {
            let mut first = 0;
            let mut listed = Vec::new();
            for (m, &out) in modules.iter().enumerate() {
                let weight = serde_json::json!({ "format": format, "rows": out, "cols": inputs, "firstRow": 0, "dataOffset": offset });
                listed.push(serde_json::json!({
                    "name": format!("{l}.{s}.{m}"), "outOffset": first, "outFeatures": out, "weight": weight,
                    "biasOffset": (s == 0).then_some(biases + first * size),
                }));
                first += out;
                offset += out * inputs * size;
            }
            sites.push(serde_json::json!({ "inFeatures": inputs, "outFeatures": first, "modules": listed }));
        }
        offset = biases + SITES[0].1.iter().sum::<usize>() * size;
    }
    let matrix = |at: usize| serde_json::json!({ "format": format, "rows": VOCAB, "cols": HIDDEN, "firstRow": 0, "dataOffset": at });
    let module = serde_json::json!({ "name": "head", "outOffset": 0, "outFeatures": VOCAB, "weight": matrix(offset) });
    sites.push(serde_json::json!({ "inFeatures": HIDDEN, "outFeatures": VOCAB, "modules": [module] }));
    let embedding = serde_json::json!({ "name": "embedding", "weight": matrix(offset + VOCAB * HIDDEN * size) });
    offset += 2 * VOCAB * HIDDEN * size;
    for (site, shape) in sites.iter_mut().zip((0..LAYERS).flat_map(|_| SITES)) {
        if let (Some(bits), (inputs, &[rows])) = (bits.filter(|_| shape.0 % BLOCK == 0), shape) {
            let (format, quants) = blocks::stored(bits, rows * inputs);
            site["modules"][0]["weight"] = serde_json::json!({
                "format": format, "rows": rows, "cols": inputs, "firstRow": 0, "dataOffset": offset, "scalesOffset": offset + quants,
            });
            offset += quants + rows * inputs / BLOCK * size_of::<u16>();
        }
    }
    let norms: Vec<_> = (0..NORMS).map(|n| serde_json::json!({ "name": format!("norm.{n}") })).collect();
    serde_json::json!({
        "config": {
            "layers": LAYERS, "heads": HEADS, "kvHeads": KV_HEADS, "headDim": DIM, "vocabSize": VOCAB,
            "ropeInverseFrequencies": frequencies(), "ropeScale": 1.0,
        },
        "precision": format,
        "sites": sites,
        "embedding": embedding,
        "norms": norms,
        "graph": { "file": "model.onnx" },
        "weights": { "file": "weights.bin" },
        "tokenizer": { "file": "tokenizer.json" },
        "eosTokenIds": [VOCAB - 1],
    })
}

fn frequencies() -> Vec<f32> {
    (0..DIM / 2).map(|i| 100f32.powf(-(i as f32) / (DIM / 2) as f32)).collect()
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&v| f64::from(v)).collect()
}

/// `W · x` with W [out, in] row-major.
fn times(weight: &[f64], x: &[f64]) -> Vec<f64> {
    weight.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
}

fn rms_norm(x: &[f64], weight: &[f64]) -> Vec<f64> {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    x.iter().zip(weight).map(|(v, w)| v / (mean + f64::from(EPSILON)).sqrt() * w).collect()
}

/// `g ⊙ (W + Σ w·s·B·A)` of a site, the way PEFT defines it.
fn adapted(weight: &[f32], site: usize, terms: &[(&Adapter, f32)]) -> Vec<f64> {
    let mut full = wide(weight);
    let (inputs, modules) = site_shape(site);
    for (adapter, strength) in terms {
        for m in adapter.modules.iter().filter(|m| m.site == site) {
            let first: usize = modules[..m.module].iter().sum();
            for n in 0..modules[m.module] {
                let row = &mut full[(first + n) * inputs..][..inputs];
                for j in 0..m.rank {
                    let factor = f64::from(*strength) * m.scaling * f64::from(m.b[n * m.rank + j]);
                    for (w, a) in row.iter_mut().zip(&m.a[j * inputs..]) {
                        *w += factor * f64::from(*a);
                    }
                }
                if let Some(magnitude) = &m.magnitude {
                    let norm = row.iter().map(|w| w * w).sum::<f64>().sqrt();
                    let gain = f64::from(magnitude[n]) / norm;
                    for w in row.iter_mut() {
                        *w *= gain;
                    }
                }
            }
        }
    }
    full
}

/// The base's bias (none when empty) with what the adapters put in its place and add to it.
fn adapted_bias(bias: &[f32], site: usize, terms: &[(&Adapter, f32)]) -> Vec<f64> {
    let modules = site_shape(site).1;
    let first = |module: usize| modules[..module].iter().sum::<usize>();
    let base = |n: usize| bias.get(n).map_or(0.0, |&b| f64::from(b));
    let mut full: Vec<f64> = (0..first(modules.len())).map(base).collect();
    for (adapter, strength) in terms {
        for m in adapter.modules.iter().filter(|m| m.site == site) {
            for (n, b) in m.lora_bias.iter().flatten().enumerate() {
                full[first(m.module) + n] += f64::from(*strength) * m.scaling * f64::from(*b);
            }
        }
        for b in adapter.biases.iter().filter(|b| b.site == site) {
            for (n, value) in b.values.iter().enumerate() {
                let n = first(b.module) + n;
                full[n] += f64::from(*strength) * (f64::from(*value) - base(n));
            }
        }
    }
    full
}

/// Causal attention with rotary positions within the last `window` positions, one sequence.
fn attention(mut qkv: Vec<Vec<f64>>, window: usize) -> Vec<Vec<f64>> {
    for (position, row) in qkv.iter_mut().enumerate() {
        for head in row[..(HEADS + KV_HEADS) * DIM].chunks_exact_mut(DIM) {
            let (low, high) = head.split_at_mut(DIM / 2);
            for (r, frequency) in frequencies().iter().enumerate() {
                let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
                (low[r], high[r]) = (low[r] * cos - high[r] * sin, high[r] * cos + low[r] * sin);
            }
        }
    }
    let mut out = Vec::with_capacity(qkv.len());
    for t in 0..qkv.len() {
        let mut row = Vec::with_capacity(HEADS * DIM);
        for head in 0..HEADS {
            let kv = head / (HEADS / KV_HEADS);
            let q = &qkv[t][head * DIM..][..DIM];
            let visible = (t + 1).saturating_sub(window)..t + 1;
            let dot = |s: usize| q.iter().zip(&qkv[s][(HEADS + kv) * DIM..]).map(|(q, k)| q * k).sum::<f64>();
            let weights: Vec<f64> = visible.clone().map(|s| (dot(s) / (DIM as f64).sqrt()).exp()).collect();
            let total: f64 = weights.iter().sum();
            let value = |d: usize| {
                let column = (HEADS + KV_HEADS + kv) * DIM + d;
                visible.clone().zip(&weights).map(|(s, w)| w * qkv[s][column]).sum::<f64>() / total
            };
            row.extend((0..DIM).map(value));
        }
        out.push(row);
    }
    out
}
