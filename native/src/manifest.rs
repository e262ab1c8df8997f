//! The parts of a prepared model's manifest that native code reads. Written by `src/model/`; types beside
//! `src/core/model-manifest.ts`.

use crate::error::{Code, Error, Result};
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub config: DecoderConfig,
    pub precision: Precision,
    pub sites: Vec<Site>,
    pub graph: CacheFile,
    pub weights: CacheFile,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DecoderConfig {
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    pub rope_inverse_frequencies: Vec<f32>,
    pub rope_scale: f32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    F32,
    W8,
    W4,
}

#[derive(Debug, Clone, Deserialize)]
pub struct CacheFile {
    pub file: String,
}

/// A base matmul that adapters may add to.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Site {
    pub in_features: usize,
    pub out_features: usize,
    pub modules: Vec<SiteModule>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SiteModule {
    pub name: String,
    pub out_offset: usize,
    pub out_features: usize,
    pub weight: WeightRef,
}

/// Where a base weight lies in the weights file; offsets in bytes.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WeightRef {
    pub format: Precision,
    pub rows: usize,
    pub cols: usize,
    pub data_offset: usize,
    pub scales_offset: Option<usize>,
    pub mins_offset: Option<usize>,
}

impl Manifest {
    /// # Errors
    /// `ERR_MODEL_INVALID` when a field is missing or the shapes contradict each other.
    pub fn parse(json: &str) -> Result<Self> {
        let invalid = |what: String| Error::new(Code::ModelInvalid, format!("manifest.json: {what}"));
        let manifest: Self = serde_json::from_str(json).map_err(|e| invalid(e.to_string()))?;
        let c = &manifest.config;
        let groups = c.heads.checked_rem(c.kv_heads);
        if c.layers == 0 || c.head_dim == 0 || c.head_dim > 1024 || groups != Some(0) || c.vocab_size == 0 {
            return Err(invalid(format!(
                "expected layers, heads = k · kvHeads, 1 ≤ headDim ≤ 1024 and a vocabulary, got {} layers, {} heads, {} kvHeads, headDim {}, vocabSize {}",
                c.layers, c.heads, c.kv_heads, c.head_dim, c.vocab_size
            )));
        }
        if c.rope_inverse_frequencies.len() * 2 != c.head_dim {
            return Err(invalid(format!(
                "expected headDim / 2 = {} rope frequencies, got {}",
                c.head_dim / 2,
                c.rope_inverse_frequencies.len()
            )));
        }
        for (id, site) in manifest.sites.iter().enumerate() {
            for m in &site.modules {
                let fits = m.out_offset.checked_add(m.out_features).is_some_and(|end| end <= site.out_features);
                if !fits || m.weight.rows != m.out_features || m.weight.cols != site.in_features {
                    return Err(invalid(format!("site {id}: module {} does not fit its site", m.name)));
                }
            }
        }
        Ok(manifest)
    }
}
