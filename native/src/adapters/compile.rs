//! From a checked file to a resident adapter: pack the factors, scan for NaN, fold DoRA.

use super::embedding::embedding_lora;
use super::pack::{pack_groups, pack_panels};
use super::quantise::{pack_a, pack_b};
use super::replace::{check_copy, replaced_norms, replaced_rows};
use super::resident::{Adapter, EmbeddingDelta, Part, ReplacedRows, SiteDelta, a_stride};
use super::safetensors::File;
use super::slab::SlabBuilder;
use super::tensor::{Values, invalid, read};
use crate::error::{Code, Error, Result};
use crate::kernels::lora::{PANEL, Stored};
use crate::kernels::simd::Dtype;
use crate::manifest::{Manifest, Site, SiteModule};
use crate::pace;
use crate::weights::Weights;
use serde::Deserialize;

/// Largest rank of one module.
pub const MAX_RANK: usize = 256;
/// Alignment and padding that a packed tensor may take on top of its bytes, as a guess.
const PIECE_OVERHEAD: usize = 64;

/// One module as the caller decided it from the adapter's configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModulePlan {
    pub site: usize,
    pub module: usize,
    pub a: String,
    pub b: String,
    /// Blocks that A, or B, is stored as; 1 = dense.
    #[serde(default = "dense")]
    pub a_blocks: usize,
    #[serde(default = "dense")]
    pub b_blocks: usize,
    pub magnitude: Option<String>,
    /// Bias of B, scaled like `B·A·x`.
    pub lora_bias: Option<String>,
    pub rank: usize,
    pub scaling: f64,
}

fn dense() -> usize {
    1
}

/// A bias of the file that takes the place of a module's own for rows of the adapter.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BiasPlan {
    pub site: usize,
    pub module: usize,
    pub tensor: String,
}

/// Everything that one adapter brings, as the caller decided it from the adapter's configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct AdapterPlan {
    pub modules: Vec<ModulePlan>,
    pub biases: Vec<BiasPlan>,
    /// Copies of base weights that must equal the base.
    pub copies: Vec<CopyPlan>,
    /// At most one of `embedding` and `embedding_rows`.
    pub embedding: Option<EmbeddingPlan>,
    pub embedding_rows: Option<RowsPlan>,
    pub head_rows: Option<RowsPlan>,
    pub norms: Vec<NormPlan>,
}

impl AdapterPlan {
    /// # Errors
    /// `ERR_NATIVE` for what is no plan: it is made by this project, never by a file.
    pub fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json).map_err(|e| Error::new(Code::Native, format!("adapter plan: {e}")))
    }
}

/// A weight that PEFT saves beside the factors of embedding or head.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CopyPlan {
    pub tensor: String,
    /// The site whose only module it is a copy of; None for the embedding.
    pub site: Option<usize>,
}

/// LoRA on the token embedding: A [rank, vocab], B [hidden, rank].
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EmbeddingPlan {
    pub a: String,
    pub b: String,
    pub magnitude: Option<String>,
    pub rank: usize,
    pub scaling: f64,
}

/// Rows of embedding or head: all of them, or those of `tokens` in the order of the tensor's rows.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RowsPlan {
    pub tensor: String,
    pub tokens: Option<Vec<u32>>,
}

/// A norm's weight in the place of the base's.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NormPlan {
    pub norm: usize,
    pub tensor: String,
}

/// How an engine keeps the factors of linear modules; all else that an adapter brings keeps the file's dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FactorStorage {
    /// As the file has them.
    File,
    /// Signed bytes with scales, see [`super::quantise`].
    Int8,
}

/// Builds the resident form of `file` for the model of `manifest`.
///
/// # Errors
/// `ERR_ADAPTER_INVALID` naming the tensor: missing, of another shape or dtype, NaN or infinite, a degenerate DoRA norm.
pub fn compile(
    handle: u32,
    file: &File,
    plan: &AdapterPlan,
    storage: FactorStorage,
    manifest: &Manifest,
    weights: &Weights,
) -> Result<Adapter> {
    // Nearly always the bytes of the file and some alignment.
    let mut slab = SlabBuilder::new(file.size() + file.tensors.len() * PIECE_OVERHEAD)?;
    let mut sites = Vec::with_capacity(manifest.sites.len());
    for (site, parts) in manifest.sites.iter().zip(parts_by_site(plan, &manifest.sites)?) {
        sites.push(if parts.is_empty() { None } else { Some(compile_site(file, site, &parts, storage, weights, &mut slab)?) });
    }
    for copy in &plan.copies {
        check_copy(file, copy, manifest, weights)?;
    }
    let embedding = match (&plan.embedding, &plan.embedding_rows) {
        (Some(_), Some(_)) => return Err(Error::new(Code::Native, "the plan both adds to the embedding and replaces rows of it")),
        (Some(lora), None) => Some(EmbeddingDelta::Lora(embedding_lora(file, lora, &manifest.embedding, weights, &mut slab)?)),
        (None, Some(rows)) => Some(EmbeddingDelta::Replaced(replaced_rows(file, rows, manifest, &mut slab)?)),
        (None, None) => None,
    };
    let head = plan.head_rows.as_ref().map(|rows| replaced_rows(file, rows, manifest, &mut slab)).transpose()?;
    let norms = replaced_norms(file, &plan.norms, manifest)?;
    let gains = sites.iter().flatten().flat_map(|site| &site.parts).filter(|part| part.gain.is_some()).count();
    let replaces = match &embedding {
        Some(EmbeddingDelta::Lora(lora)) => lora.gain.is_some(),
        Some(EmbeddingDelta::Replaced(_)) => true,
        None => false,
    };
    let bytes = sites.iter().flatten().map(SiteDelta::bytes).sum::<usize>()
        + embedding.as_ref().map_or(0, EmbeddingDelta::bytes)
        + head.as_ref().map_or(0, ReplacedRows::bytes)
        + norms.iter().flatten().map(|weight| weight.len() * 4).sum::<usize>();
    let stands_alone = gains > 0 || replaces || head.is_some() || !plan.norms.is_empty();
    Ok(Adapter { handle, slab: slab.finish(), sites, embedding, norms, head, bytes, stands_alone })
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

/// A and B of one module; every value finite.
struct Factors<'a> {
    plan: &'a ModulePlan,
    module: &'a SiteModule,
    a: Values<'a>,
    b: Values<'a>,
}

fn compile_site(
    file: &File,
    site: &Site,
    parts: &[ModuleParts<'_>],
    storage: FactorStorage,
    weights: &Weights,
    slab: &mut SlabBuilder,
) -> Result<SiteDelta> {
    let mut dtype = None;
    let mut factors = Vec::with_capacity(parts.len());
    for part in parts {
        let Some(plan) = part.factors else { continue };
        let module = &site.modules[plan.module];
        check_scale(file, &plan.a, plan.rank, plan.scaling)?;
        let a = Values::of_blocks(file, &plan.a, plan.rank, site.in_features, plan.a_blocks)?;
        let b = Values::of_blocks(file, &plan.b, module.out_features, plan.rank, plan.b_blocks)?;
        // One dtype a site: what all share, else float32, which holds each exactly.
        for found in [a.dtype, b.dtype] {
            dtype = Some(if dtype.is_none_or(|seen| seen == found) { found } else { Dtype::F32 });
        }
        factors.push(Factors { plan, module, a, b });
    }
    let stored = match storage {
        FactorStorage::File => Stored::Float(dtype.unwrap_or(Dtype::F32)),
        FactorStorage::Int8 => Stored::Int8,
    };
    let rank = factors.iter().map(|f| f.plan.rank).sum();
    let stride = a_stride(site.in_features);
    let (a, packed) = slab.reserve(rank * stride * stored.size())?;
    let steps = pack_stacked_a(stored, &factors, site.in_features, packed);
    let mut scale = Vec::with_capacity(rank);
    let mut compiled = Vec::with_capacity(parts.len());
    let mut factors = factors.iter();
    for part in parts {
        let module = &site.modules[part.module];
        let f = part.factors.and_then(|_| factors.next());
        let part_rank = f.map_or(0, |f| f.plan.rank);
        let (b, packed) = slab.reserve(module.out_features.div_ceil(PANEL) * part_rank * stored.panel_row_size())?;
        let rank_offset = scale.len();
        let mut gain = None;
        if let Some(f) = f {
            match stored {
                Stored::Float(dtype) => pack_panels(dtype, &f.b.in_dtype(dtype), part_rank, packed),
                Stored::Int8 => pack_b(&f.b.widen(), part_rank, packed),
            }
            #[allow(clippy::cast_possible_truncation)]
            let scaling = f.plan.scaling as f32;
            scale.extend((rank_offset..rank_offset + part_rank).map(|j| steps.as_ref().map_or(scaling, |steps| scaling * steps[j])));
            gain = dora_gain(file, f, site.in_features, weights)?;
        }
        compiled.push(Part {
            rank_offset,
            rank: part_rank,
            out_offset: module.out_offset,
            out_features: module.out_features,
            b,
            gain,
            offset: offset(file, part, module, weights)?,
        });
    }
    Ok(SiteDelta { stored, rank, a, a_stride: stride, scale, parts: compiled })
}

/// Packs the A of all modules, one below the other; returns what each row was divided by, if it was.
fn pack_stacked_a(stored: Stored, factors: &[Factors<'_>], width: usize, packed: &mut [u8]) -> Option<Vec<f32>> {
    match stored {
        Stored::Float(dtype) => {
            let stacked: Vec<_> = factors.iter().map(|f| f.a.in_dtype(dtype)).collect();
            let rows: Vec<&[u8]> = stacked.iter().flat_map(|a| a.chunks_exact(width * dtype.size())).collect();
            pack_groups(stored, &rows, a_stride(width), packed);
            None
        }
        Stored::Int8 => {
            let rows: Vec<f32> = factors.iter().flat_map(|f| f.a.widen()).collect();
            Some(pack_a(&rows, width, a_stride(width), packed))
        }
    }
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
fn dora_gain(file: &File, f: &Factors<'_>, in_features: usize, weights: &Weights) -> Result<Option<Vec<f32>>> {
    let Some(name) = &f.plan.magnitude else { return Ok(None) };
    let magnitude = read(file, name, &[f.module.out_features])?;
    let (a, b) = (f.a.widen(), f.b.widen());
    let mut gain = Vec::with_capacity(magnitude.len());
    let mut row = vec![0.0f32; in_features];
    let mut direction = vec![0.0f64; in_features];
    for (n, m) in magnitude.iter().enumerate() {
        // Each factor of rank is one pass over the row in double precision.
        pace::worked(f.plan.rank * in_features * size_of::<f64>());
        weights.read_row(&f.module.weight, n, &mut row)?;
        for (d, w) in direction.iter_mut().zip(&row) {
            *d = f64::from(*w);
        }
        for j in 0..f.plan.rank {
            let factor = f.plan.scaling * f64::from(b[n * f.plan.rank + j]);
            for (d, a) in direction.iter_mut().zip(&a[j * in_features..]) {
                *d += factor * f64::from(*a);
            }
        }
        let norm = direction.iter().map(|d| d * d).sum::<f64>().sqrt();
        gain.push(gain_of(file, name, &f.module.name, n, *m, norm)?);
    }
    Ok(Some(gain))
}
