//! Adapters for the toy decoder: random factors, written as a real safetensors file.

use super::{HIDDEN, VOCAB, site_shape};
use crate::common::{Rng, bytes_of, round_to};
use loramux_native::adapters::plan::{AdapterPlan, BiasPlan, EmbeddingPlan, ModulePlan, NormPlan, RowsPlan};
use loramux_native::adapters::safetensors::File;
use loramux_native::kernels::simd::Dtype;

/// One module's factors: `a` f32 [rank, in], `b` f32 [out, rank], exact in `dtype`.
pub struct Factors {
    pub site: usize,
    pub module: usize,
    pub rank: usize,
    pub scaling: f64,
    pub dtype: Dtype,
    pub a: Vec<f32>,
    pub b: Vec<f32>,
    pub magnitude: Option<Vec<f32>>,
    /// Bias of B, f32 [out].
    pub lora_bias: Option<Vec<f32>>,
}

/// A bias f32 [out] in the place of the base's.
pub struct Bias {
    pub site: usize,
    pub module: usize,
    pub values: Vec<f32>,
}

#[derive(Default)]
pub struct Adapter {
    pub modules: Vec<Factors>,
    pub biases: Vec<Bias>,
    pub embedding: Option<EmbeddingFactors>,
    pub embedding_rows: Option<Rows>,
    pub head_rows: Option<Rows>,
    /// (norm, f32 [hidden]).
    pub norms: Vec<(usize, Vec<f32>)>,
}

/// LoRA on the embedding: `a` f32 [rank, vocab], `b` f32 [hidden, rank], exact in `dtype`.
pub struct EmbeddingFactors {
    pub rank: usize,
    pub scaling: f64,
    pub dtype: Dtype,
    pub a: Vec<f32>,
    pub b: Vec<f32>,
    pub magnitude: Option<Vec<f32>>,
}

/// Rows [n, hidden] of single tokens, or of all; exact in `dtype`.
pub struct Rows {
    pub dtype: Dtype,
    pub tokens: Option<Vec<u32>>,
    pub values: Vec<f32>,
}

impl Rows {
    pub fn random(seed: u64, dtype: Dtype, tokens: Option<&[u32]>, size: f32) -> Self {
        let count = tokens.map_or(VOCAB, <[u32]>::len) * HIDDEN;
        let values = Rng(seed).floats(count, size).iter().map(|&v| round_to(dtype, v)).collect();
        Self { dtype, tokens: tokens.map(<[u32]>::to_vec), values }
    }
}

impl Adapter {
    /// Ranks count up from `rank`, so that modules of one site differ.
    pub fn random(seed: u64, rank: usize, dtype: Dtype, dora: bool, chosen: &[(usize, usize)]) -> Self {
        let mut rng = Rng(seed);
        let module = |(i, &(site, module)): (usize, &(usize, usize))| {
            let (inputs, modules) = site_shape(site);
            let (out, rank) = (modules[module], rank + i % 2);
            let mut exact = |n: usize, size: f32| -> Vec<f32> { rng.floats(n, size).iter().map(|&v| round_to(dtype, v)).collect() };
            let a = exact(rank * inputs, 0.4);
            let b = exact(out * rank, 0.6 / (rank as f32).sqrt());
            let magnitude = dora.then(|| exact(out, 1.0).iter().map(|m: &f32| round_to(dtype, 1.5 + m)).collect());
            Factors { site, module, rank, scaling: 1.5, dtype, a, b, magnitude, lora_bias: None }
        };
        Self { modules: chosen.iter().enumerate().map(module).collect(), ..Self::default() }
    }

    /// Gives every B a bias, and each module of `chosen` a bias of its own.
    pub fn with_biases(mut self, seed: u64, chosen: &[(usize, usize)]) -> Self {
        let mut rng = Rng(seed);
        for m in &mut self.modules {
            m.lora_bias = Some(rng.floats(site_shape(m.site).1[m.module], 0.5));
        }
        let bias = |&(site, module): &(usize, usize)| Bias { site, module, values: rng.floats(site_shape(site).1[module], 1.0) };
        self.biases = chosen.iter().map(bias).collect();
        self
    }

    pub fn with_embedding(mut self, seed: u64, rank: usize, dtype: Dtype, dora: bool) -> Self {
        let mut rng = Rng(seed);
        let mut exact = |n: usize, size: f32| -> Vec<f32> { rng.floats(n, size).iter().map(|&v| round_to(dtype, v)).collect() };
        let (a, b) = (exact(rank * VOCAB, 0.8), exact(HIDDEN * rank, 0.8));
        let magnitude = dora.then(|| exact(HIDDEN, 1.0).iter().map(|m| round_to(dtype, 12.0 + 4.0 * m)).collect());
        self.embedding = Some(EmbeddingFactors { rank, scaling: 1.25, dtype, a, b, magnitude });
        self
    }

    pub fn with_norms(mut self, seed: u64, norms: &[usize]) -> Self {
        let mut rng = Rng(seed);
        self.norms = norms.iter().map(|&n| (n, rng.floats(HIDDEN, 0.5).iter().map(|v| 1.0 + v).collect())).collect();
        self
    }

    pub fn file(&self) -> File {
        let mut tensors = Vec::new();
        for m in &self.modules {
            let (inputs, modules) = site_shape(m.site);
            let out = modules[m.module];
            let stem = format!("{}.{}", m.site, m.module);
            tensors.push((format!("{stem}.lora_A"), m.dtype, vec![m.rank, inputs], bytes_of(m.dtype, &m.a)));
            tensors.push((format!("{stem}.lora_B"), m.dtype, vec![out, m.rank], bytes_of(m.dtype, &m.b)));
            if let Some(magnitude) = &m.magnitude {
                tensors.push((format!("{stem}.magnitude"), m.dtype, vec![out], bytes_of(m.dtype, magnitude)));
            }
            if let Some(bias) = &m.lora_bias {
                tensors.push((format!("{stem}.lora_bias"), Dtype::F32, vec![out], bytes_of(Dtype::F32, bias)));
            }
        }
        for b in &self.biases {
            tensors.push((format!("{}.{}.bias", b.site, b.module), Dtype::F32, vec![b.values.len()], bytes_of(Dtype::F32, &b.values)));
        }
        let mut push = |name: &str, dtype: Dtype, shape: &[usize], values: &[f32]| {
            tensors.push((name.to_owned(), dtype, shape.to_vec(), bytes_of(dtype, values)));
        };
        if let Some(e) = &self.embedding {
            push("embedding_A", e.dtype, &[e.rank, VOCAB], &e.a);
            push("embedding_B", e.dtype, &[HIDDEN, e.rank], &e.b);
            e.magnitude.iter().for_each(|m| push("embedding_magnitude", e.dtype, &[HIDDEN], m));
        }
        for (name, rows) in [("embedding_rows", &self.embedding_rows), ("head_rows", &self.head_rows)] {
            if let Some(r) = rows {
                push(name, r.dtype, &[r.values.len() / HIDDEN, HIDDEN], &r.values);
            }
        }
        self.norms.iter().for_each(|(n, weight)| push(&format!("norm.{n}"), Dtype::F32, &[HIDDEN], weight));
        File::parse("adapter_model.safetensors".to_owned(), safetensors(&tensors)).unwrap()
    }

    pub fn plan(&self) -> AdapterPlan {
        let plan = |m: &Factors| {
            let stem = format!("{}.{}", m.site, m.module);
            ModulePlan {
                site: m.site,
                module: m.module,
                a: format!("{stem}.lora_A"),
                b: format!("{stem}.lora_B"),
                a_blocks: 1,
                b_blocks: 1,
                magnitude: m.magnitude.is_some().then(|| format!("{stem}.magnitude")),
                lora_bias: m.lora_bias.is_some().then(|| format!("{stem}.lora_bias")),
                rank: m.rank,
                scaling: m.scaling,
            }
        };
        let bias = |b: &Bias| BiasPlan { site: b.site, module: b.module, tensor: format!("{}.{}.bias", b.site, b.module) };
        let embedding = |e: &EmbeddingFactors| EmbeddingPlan {
            a: "embedding_A".to_owned(),
            b: "embedding_B".to_owned(),
            magnitude: e.magnitude.is_some().then(|| "embedding_magnitude".to_owned()),
            rank: e.rank,
            scaling: e.scaling,
        };
        let rows =
            |name: &str, rows: &Option<Rows>| rows.as_ref().map(|rows| RowsPlan { tensor: name.to_owned(), tokens: rows.tokens.clone() });
        AdapterPlan {
            modules: self.modules.iter().map(plan).collect(),
            biases: self.biases.iter().map(bias).collect(),
            copies: Vec::new(),
            embedding: self.embedding.as_ref().map(embedding),
            embedding_rows: rows("embedding_rows", &self.embedding_rows),
            head_rows: rows("head_rows", &self.head_rows),
            norms: self.norms.iter().map(|(norm, _)| NormPlan { norm: *norm, tensor: format!("norm.{norm}") }).collect(),
        }
    }
}

/// Bytes of a safetensors file with `tensors` (name, dtype, shape, data) in order.
pub fn safetensors(tensors: &[(String, Dtype, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let dtype = match dtype {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
        };
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name.clone(), serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }));
        data.extend(bytes);
    }
    with_header(&serde_json::Value::Object(header).to_string(), &data)
}

pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}
