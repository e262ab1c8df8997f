//! Adapters for the toy decoder: random factors, written as a real safetensors file.

use super::SITES;
use crate::common::{Rng, bytes_of, round_to};
use loramux_native::adapters::compile::{AdapterPlan, BiasPlan, ModulePlan};
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
}

impl Adapter {
    /// Ranks count up from `rank`, so that modules of one site differ.
    pub fn random(seed: u64, rank: usize, dtype: Dtype, dora: bool, chosen: &[(usize, usize)]) -> Self {
        let mut rng = Rng(seed);
        let module = |(i, &(site, module)): (usize, &(usize, usize))| {
            let (inputs, modules) = SITES[site % SITES.len()];
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
            m.lora_bias = Some(rng.floats(SITES[m.site % SITES.len()].1[m.module], 0.5));
        }
        let bias = |&(site, module): &(usize, usize)| Bias { site, module, values: rng.floats(SITES[site % SITES.len()].1[module], 1.0) };
        self.biases = chosen.iter().map(bias).collect();
        self
    }

    pub fn file(&self) -> File {
        let mut tensors = Vec::new();
        for m in &self.modules {
            let (inputs, modules) = SITES[m.site % SITES.len()];
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
                magnitude: m.magnitude.is_some().then(|| format!("{stem}.magnitude")),
                lora_bias: m.lora_bias.is_some().then(|| format!("{stem}.lora_bias")),
                rank: m.rank,
                scaling: m.scaling,
            }
        };
        let bias = |b: &Bias| BiasPlan { site: b.site, module: b.module, tensor: format!("{}.{}.bias", b.site, b.module) };
        AdapterPlan { modules: self.modules.iter().map(plan).collect(), biases: self.biases.iter().map(bias).collect() }
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
