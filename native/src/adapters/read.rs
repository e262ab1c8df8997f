//! From a checked file and its plan to a layout: find the tensors, check shapes and numbers, fold DoRA and biases.

use super::embedding::embedding_lora;
use super::layout::{Factors, Layout, PartValues, SiteValues};
use super::plan::{AdapterPlan, BiasPlan, ModulePlan};
use super::replace::{check_copy, replaced_norms, replaced_rows};
use super::safetensors::File;
use super::tensor::{Values, invalid, read};
use crate::error::{Code, Error, Result};
use crate::kernels::simd::Dtype;
use crate::manifest::{Manifest, Site, SiteModule};
use crate::pace;
use crate::weights::Weights;

/// Largest rank of one module.
pub const MAX_RANK: usize = 256;

/// Hands the parts of `file` that `plan` names to `layout`.
///
/// # Errors
/// `ERR_ADAPTER_INVALID` naming the tensor: missing, of another shape or dtype, NaN or infinite, a degenerate DoRA norm; what
/// the layout refuses.
pub fn read_adapter(file: &File, plan: &AdapterPlan, manifest: &Manifest, weights: &Weights, layout: &mut impl Layout) -> Result<()> {
    for (id, (site, parts)) in manifest.sites.iter().zip(parts_by_site(plan, &manifest.sites)?).enumerate() {
        if !parts.is_empty() {
            layout.site(id, read_site(file, site, &parts, weights)?)?;
        }
    }
    for copy in &plan.copies {
        check_copy(file, copy, manifest, weights)?;
    }
    match (&plan.embedding, &plan.embedding_rows) {
        (Some(_), Some(_)) => return Err(Error::new(Code::Native, "the plan both adds to the embedding and replaces rows of it")),
        (Some(lora), None) => layout.embedding_lora(embedding_lora(file, lora, &manifest.embedding, weights)?)?,
        (None, Some(rows)) => layout.embedding_rows(replaced_rows(file, rows, manifest)?)?,
        (None, None) => {}
    }
    if let Some(rows) = &plan.head_rows {
        layout.head_rows(replaced_rows(file, rows, manifest)?)?;
    }
    layout.norms(replaced_norms(file, &plan.norms, manifest)?)
}

/// What the plan says of one module: factors, a bias, or both.
#[derive(Clone, Copy)]
struct ModuleParts<'a> {
    module: usize,
    factors: Option<&'a ModulePlan>,
    bias: Option<&'a BiasPlan>,
}

/// For each site its modules that the plan names, ascending.
fn parts_by_site<'a>(plan: &'a AdapterPlan, sites: &[Site]) -> Result<Vec<Vec<ModuleParts<'a>>>> {
    let mut by_site: Vec<Vec<ModuleParts<'a>>> = vec![Vec::new(); sites.len()];
    let mut enter = |site: usize, module: usize, factors: Option<&'a ModulePlan>, bias: Option<&'a BiasPlan>| {
        let fault = |what: &str| Error::new(Code::Native, format!("the plan names site {site} module {module}{what}"));
        let known = sites.get(site).is_some_and(|site| module < site.modules.len());
        let parts = by_site.get_mut(site).filter(|_| known).ok_or_else(|| fault(", which the model lacks"))?;
        let Some(part) = parts.iter_mut().find(|part| part.module == module) else {
            parts.push(ModuleParts { module, factors, bias });
            return Ok(());
        };
        if (part.factors.is_some() && factors.is_some()) || (part.bias.is_some() && bias.is_some()) {
            return Err(fault(" twice"));
        }
        part.factors = part.factors.or(factors);
        part.bias = part.bias.or(bias);
        Ok(())
    };
    for module in &plan.modules {
        enter(module.site, module.module, Some(module), None)?;
    }
    for bias in &plan.biases {
        enter(bias.site, bias.module, None, Some(bias))?;
    }
    for parts in &mut by_site {
        parts.sort_by_key(|part| part.module);
    }
    Ok(by_site)
}

fn read_site<'a>(file: &'a File, site: &Site, parts: &[ModuleParts<'_>], weights: &Weights) -> Result<SiteValues<'a>> {
    let mut dtype = None;
    let mut factors = Vec::with_capacity(parts.len());
    for part in parts {
        let Some(plan) = part.factors else {
            factors.push(None);
            continue;
        };
        let module = &site.modules[plan.module];
        let scale = check_scale(file, &plan.a, plan.rank, plan.scaling)?;
        let a = Values::of_blocks(file, &plan.a, plan.rank, site.in_features, plan.a_blocks)?;
        let b = Values::of_blocks(file, &plan.b, module.out_features, plan.rank, plan.b_blocks)?;
        // One dtype a site.
        for found in [a.dtype, b.dtype] {
            dtype = Some(if dtype.is_none_or(|seen| seen == found) { found } else { Dtype::F32 });
        }
        factors.push(Some(Factors { rank: plan.rank, scale, a, b }));
    }
    let values = |(part, factors): (&ModuleParts<'_>, Option<Factors<'a>>)| {
        let module = &site.modules[part.module];
        let gain = match (part.factors, &factors) {
            (Some(plan), Some(f)) => dora_gain(file, (plan, module), f, site.in_features, weights)?,
            _ => None,
        };
        Ok(PartValues {
            out_offset: module.out_offset,
            out_features: module.out_features,
            factors,
            gain,
            offset: offset(file, part, module, weights)?,
        })
    };
    let parts = parts.iter().zip(factors).map(values).collect::<Result<_>>()?;
    Ok(SiteValues { in_features: site.in_features, dtype: dtype.unwrap_or(Dtype::F32), parts })
}

/// The scaling as float32, after checking it and the rank; `tensor` is what an error names.
///
/// # Errors
/// `ERR_ADAPTER_INVALID` when either is out of bounds.
pub fn check_scale(file: &File, tensor: &str, rank: usize, scaling: f64) -> Result<f32> {
    if rank == 0 || rank > MAX_RANK {
        return Err(invalid(file, tensor, format!("expected a rank of 1 to {MAX_RANK}, got {rank}")));
    }
    #[allow(clippy::cast_possible_truncation)]
    let narrowed = scaling as f32;
    if narrowed.is_finite() {
        Ok(narrowed)
    } else {
        Err(invalid(file, tensor, format!("expected a finite float32 scaling, got {scaling}")))
    }
}

/// `m / norm`, DoRA's gain of output `row` of `module`; `tensor` is the magnitude.
///
/// # Errors
/// `ERR_ADAPTER_INVALID` where the norm vanishes.
pub fn gain_of(file: &File, tensor: &str, module: &str, row: usize, m: f32, norm: f64) -> Result<f32> {
    #[allow(clippy::cast_possible_truncation)]
    let g = (f64::from(m) / norm) as f32;
    if norm < 1e-12 || !g.is_finite() {
        return Err(invalid(file, tensor, format!("output row {row} of {module} has a norm of {norm:e}: DoRA is undefined there")));
    }
    Ok(g)
}

/// What is added to the module's output whatever its input: `s · b_B`, and the file's bias less the base's.
fn offset(file: &File, part: &ModuleParts<'_>, module: &SiteModule, weights: &Weights) -> Result<Option<Vec<f32>>> {
    let lora_bias = part.factors.and_then(|plan| plan.lora_bias.as_ref().map(|name| (name, plan.scaling)));
    if lora_bias.is_none() && part.bias.is_none() {
        return Ok(None);
    }
    let mut sum = vec![0.0f64; module.out_features];
    if let Some((name, scaling)) = lora_bias {
        let values = read(file, name, &[module.out_features])?;
        sum.iter_mut().zip(values).for_each(|(sum, v)| *sum += scaling * f64::from(v));
    }
    if let Some(plan) = part.bias {
        let values = read(file, &plan.tensor, &[module.out_features])?;
        let base = match module.bias_offset {
            Some(at) => weights.read_bias(at, module.weight.format, module.out_features)?,
            None => vec![0.0; module.out_features],
        };
        sum.iter_mut().zip(values.iter().zip(base)).for_each(|(sum, (v, base))| *sum += f64::from(*v) - f64::from(base));
    }
    #[allow(clippy::cast_possible_truncation)]
    let narrowed: Vec<f32> = sum.iter().map(|&v| v as f32).collect();
    match narrowed.iter().position(|v| !v.is_finite()) {
        Some(row) => {
            let name = lora_bias.map(|(name, _)| name).or(part.bias.map(|plan| &plan.tensor)).map_or("", String::as_str);
            Err(invalid(file, name, format!("element {row} leaves float32 once scaled: expected a smaller bias or alpha")))
        }
        None => Ok(Some(narrowed)),
    }
}

/// `g_j = m_j / ‖W_j + s·B_j·A‖₂` per output row, in double precision. Source: DoRA (arXiv 2402.09353), as PEFT applies it.
fn dora_gain(
    file: &File,
    (plan, module): (&ModulePlan, &SiteModule),
    f: &Factors<'_>,
    in_features: usize,
    weights: &Weights,
) -> Result<Option<Vec<f32>>> {
    let Some(name) = &plan.magnitude else { return Ok(None) };
    let magnitude = read(file, name, &[module.out_features])?;
    let (a, b) = (f.a.widen(), f.b.widen());
    let mut gain = Vec::with_capacity(magnitude.len());
    let mut row = vec![0.0f32; in_features];
    let mut direction = vec![0.0f64; in_features];
    for (n, m) in magnitude.iter().enumerate() {
        // Each factor of rank is one pass over the row in double precision.
        pace::worked(f.rank * in_features * size_of::<f64>());
        weights.read_row(&module.weight, n, &mut row)?;
        for (d, w) in direction.iter_mut().zip(&row) {
            *d = f64::from(*w);
        }
        for j in 0..f.rank {
            let factor = plan.scaling * f64::from(b[n * f.rank + j]);
            for (d, a) in direction.iter_mut().zip(&a[j * in_features..]) {
                *d += factor * f64::from(*a);
            }
        }
        let norm = direction.iter().map(|d| d * d).sum::<f64>().sqrt();
        gain.push(gain_of(file, name, &module.name, n, *m, norm)?);
    }
    Ok(Some(gain))
}
