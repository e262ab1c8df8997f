//! From a checked file to a resident adapter: pack the factors, scan for NaN, fold DoRA.

use super::resident::{Adapter, Part, SiteDelta, a_stride};
use super::safetensors::{File, Tensor};
use super::slab::SlabBuilder;
use crate::error::{Code, Error, Result};
use crate::kernels::lora::{GROUP, PANEL};
use crate::kernels::simd::{Dtype, LANES};
use crate::manifest::{Site, SiteModule};
use crate::weights::Weights;

/// Largest rank of one module.
pub const MAX_RANK: usize = 256;

/// One module as the caller decided it from the adapter's configuration.
#[derive(Debug, Clone)]
pub struct ModulePlan {
    pub site: usize,
    pub module: usize,
    pub a: String,
    pub b: String,
    pub magnitude: Option<String>,
    pub rank: usize,
    pub scaling: f64,
}

/// Builds the resident form of `file` for a model with `sites`.
///
/// # Errors
/// `ERR_ADAPTER_INVALID` naming the tensor: missing, of another shape or dtype, NaN or infinite, a degenerate DoRA norm.
pub fn compile(handle: u32, file: &File, plan: &[ModulePlan], sites: &[Site], weights: &Weights) -> Result<Adapter> {
    let mut by_site: Vec<Vec<&ModulePlan>> = vec![Vec::new(); sites.len()];
    for module in plan {
        let slot = by_site.get_mut(module.site).filter(|_| sites.get(module.site).is_some_and(|site| module.module < site.modules.len()));
        let Some(slot) = slot else {
            return Err(Error::new(
                Code::Native,
                format!("the plan names site {} module {}, which the model lacks", module.site, module.module),
            ));
        };
        if slot.iter().any(|other| other.module == module.module) {
            return Err(Error::new(Code::Native, format!("the plan names site {} module {} twice", module.site, module.module)));
        }
        slot.push(module);
    }
    let mut slab = SlabBuilder::default();
    let mut compiled = Vec::with_capacity(sites.len());
    for (site, modules) in sites.iter().zip(&mut by_site) {
        modules.sort_by_key(|module| module.module);
        compiled.push(if modules.is_empty() { None } else { Some(compile_site(file, site, modules, weights, &mut slab)?) });
    }
    let bytes = compiled.iter().flatten().map(SiteDelta::bytes).sum();
    let has_gain = compiled.iter().flatten().any(|site| site.parts.iter().any(|part| part.gain.is_some()));
    Ok(Adapter { handle, slab: slab.finish()?, sites: compiled, bytes, has_gain })
}

/// A and B of one module, widened; every value finite.
struct Factors<'a> {
    plan: &'a ModulePlan,
    module: &'a SiteModule,
    a: Vec<f32>,
    b: Vec<f32>,
}

fn compile_site(file: &File, site: &Site, plans: &[&ModulePlan], weights: &Weights, slab: &mut SlabBuilder) -> Result<SiteDelta> {
    let mut dtype = None;
    let mut factors = Vec::with_capacity(plans.len());
    for &plan in plans {
        let module = &site.modules[plan.module];
        if plan.rank == 0 || plan.rank > MAX_RANK {
            return Err(invalid(file, &plan.a, format!("expected a rank of 1 to {MAX_RANK}, got {}", plan.rank)));
        }
        #[allow(clippy::cast_possible_truncation)]
        let narrowed = plan.scaling as f32;
        if !narrowed.is_finite() {
            return Err(invalid(file, &plan.a, format!("expected a finite float32 scaling, got {}", plan.scaling)));
        }
        let (a, a_type) = read(file, &plan.a, &[plan.rank, site.in_features])?;
        let (b, b_type) = read(file, &plan.b, &[module.out_features, plan.rank])?;
        // One dtype a site: what all share, else float32, which holds each exactly.
        for found in [a_type, b_type] {
            dtype = Some(if dtype.is_none_or(|seen| seen == found) { found } else { Dtype::F32 });
        }
        factors.push(Factors { plan, module, a, b });
    }
    let dtype = dtype.unwrap_or(Dtype::F32);
    let rank = factors.iter().map(|f| f.plan.rank).sum();
    let stride = a_stride(site.in_features);
    let rows: Vec<&[f32]> = factors.iter().flat_map(|f| f.a.chunks_exact(site.in_features)).collect();
    let (a, packed) = slab.reserve(rank * stride * dtype.size());
    pack_groups(dtype, &rows, stride, packed);
    let mut scale = Vec::with_capacity(rank);
    let mut parts = Vec::with_capacity(factors.len());
    for f in &factors {
        let rank_offset = scale.len();
        let (b, packed) = slab.reserve(f.module.out_features.div_ceil(PANEL) * f.plan.rank * PANEL * dtype.size());
        pack_panels(dtype, &f.b, f.module.out_features, f.plan.rank, packed);
        #[allow(clippy::cast_possible_truncation)]
        scale.extend(std::iter::repeat_n(f.plan.scaling as f32, f.plan.rank));
        parts.push(Part {
            rank_offset,
            rank: f.plan.rank,
            out_offset: f.module.out_offset,
            out_features: f.module.out_features,
            b,
            gain: dora_gain(file, f, site.in_features, weights)?,
        });
    }
    Ok(SiteDelta { dtype, rank, a, a_stride: stride, scale, parts })
}

/// Groups of adapter rows whose vectors alternate (`Shrink::a`), from rows of f32 [in]; `packed` is zero.
fn pack_groups(dtype: Dtype, rows: &[&[f32]], stride: usize, packed: &mut [u8]) {
    for (g, group) in rows.chunks(GROUP).enumerate() {
        for (j, row) in group.iter().enumerate() {
            for (c, lanes) in row.chunks(LANES).enumerate() {
                let element = g * GROUP * stride + (c * group.len() + j) * LANES;
                pack(dtype, lanes, &mut packed[element * dtype.size()..]);
            }
        }
    }
}

/// `dtype` [panels, rank, PANEL] from f32 [out, rank]: what one panel of outputs needs lies together.
fn pack_panels(dtype: Dtype, b: &[f32], out: usize, rank: usize, packed: &mut [u8]) {
    let mut row = [0.0f32; PANEL];
    for panel in 0..out.div_ceil(PANEL) {
        for j in 0..rank {
            for (lane, value) in row.iter_mut().enumerate() {
                let n = panel * PANEL + lane;
                *value = if n < out { b[n * rank + j] } else { 0.0 };
            }
            pack(dtype, &row, &mut packed[(panel * rank + j) * PANEL * dtype.size()..]);
        }
    }
}

/// Narrows `values` to `dtype`; exact, because `dtype` is what they came as or wider.
fn pack(dtype: Dtype, values: &[f32], out: &mut [u8]) {
    match dtype {
        Dtype::F32 => out.as_chunks_mut::<4>().0.iter_mut().zip(values).for_each(|(o, v)| *o = v.to_le_bytes()),
        Dtype::F16 => out.as_chunks_mut::<2>().0.iter_mut().zip(values).for_each(|(o, v)| *o = half::f16::from_f32(*v).to_le_bytes()),
        Dtype::Bf16 => out.as_chunks_mut::<2>().0.iter_mut().zip(values).for_each(|(o, v)| *o = half::bf16::from_f32(*v).to_le_bytes()),
    }
}

/// `g_j = m_j / ‖W_j + s·B_j·A‖₂` per output row, in double precision. Source: DoRA (arXiv 2402.09353), as PEFT applies it.
fn dora_gain(file: &File, f: &Factors<'_>, in_features: usize, weights: &Weights) -> Result<Option<Vec<f32>>> {
    let Some(name) = &f.plan.magnitude else { return Ok(None) };
    let (magnitude, _) = read(file, name, &[f.module.out_features])?;
    let mut gain = Vec::with_capacity(magnitude.len());
    let mut row = vec![0.0f32; in_features];
    let mut direction = vec![0.0f64; in_features];
    for (n, m) in magnitude.iter().enumerate() {
        weights.read_row(&f.module.weight, n, &mut row)?;
        for (d, w) in direction.iter_mut().zip(&row) {
            *d = f64::from(*w);
        }
        for j in 0..f.plan.rank {
            let factor = f.plan.scaling * f64::from(f.b[n * f.plan.rank + j]);
            for (d, a) in direction.iter_mut().zip(&f.a[j * in_features..]) {
                *d += factor * f64::from(*a);
            }
        }
        let norm = direction.iter().map(|d| d * d).sum::<f64>().sqrt();
        #[allow(clippy::cast_possible_truncation)]
        let g = (f64::from(*m) / norm) as f32;
        if norm < 1e-12 || !g.is_finite() {
            return Err(invalid(
                file,
                name,
                format!("output row {n} of {} has a norm of {norm:e}: DoRA is undefined there", f.module.name),
            ));
        }
        gain.push(g);
    }
    Ok(Some(gain))
}

/// A tensor widened to float32, its shape and finiteness checked.
fn read(file: &File, name: &str, shape: &[usize]) -> Result<(Vec<f32>, Dtype)> {
    let tensor = file.find(name).ok_or_else(|| invalid(file, name, "expected this tensor, the file has none".to_owned()))?;
    if tensor.shape != shape {
        return Err(invalid(file, name, format!("expected shape {shape:?}, got {:?}", tensor.shape)));
    }
    let (values, dtype) = widen(file, tensor)?;
    if let Some(i) = values.iter().position(|v| !v.is_finite()) {
        return Err(invalid(
            file,
            name,
            format!("element {i} is {}: expected finite weights, train or export the adapter again", values[i]),
        ));
    }
    Ok((values, dtype))
}

fn widen(file: &File, tensor: &Tensor) -> Result<(Vec<f32>, Dtype)> {
    let bytes = file.data(tensor);
    Ok(match tensor.dtype.as_str() {
        "F32" => (bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(), Dtype::F32),
        "F16" => (bytes.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(), Dtype::F16),
        "BF16" => (bytes.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(), Dtype::Bf16),
        other => return Err(invalid(file, &tensor.name, format!("expected F32, F16 or BF16, got {other}"))),
    })
}

fn invalid(file: &File, tensor: &str, what: String) -> Error {
    Error::new(Code::AdapterInvalid, format!("{}: tensor {tensor}: {what}", file.label))
}
