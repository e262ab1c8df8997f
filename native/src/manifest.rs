//! The parts of a prepared model's manifest that native code reads. Written by `src/model/`; types beside
//! `src/core/model-manifest.ts`.

use crate::error::{Code, Error, Result};
use crate::kernels::quantised::BLOCK;
use crate::kernels::simd::Dtype;
use serde::Deserialize;

/// Bounds that keep every product of shapes far from overflow.
const MAX_LAYERS: usize = 1 << 12;
const MAX_HEADS: usize = 1 << 12;
const MAX_HEAD_DIM: usize = 1 << 10;
const MAX_FEATURES: usize = 1 << 24;

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub config: DecoderConfig,
    pub precision: Precision,
    pub sites: Vec<Site>,
    pub embedding: Embedding,
    pub norms: Vec<Norm>,
    pub graph: CacheFile,
    pub weights: CacheFile,
    pub tokenizer: CacheFile,
    pub eos_token_ids: Vec<u32>,
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

/// What the base's weights are, and how one of them is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    F32,
    /// Of a weight alone: `WeightRef` of `src/core/model-manifest.ts`.
    #[serde(rename = "f32-panels")]
    F32Panels,
    F16,
    Bf16,
    W8,
    W4,
    /// Of a weight alone.
    #[serde(rename = "w8-rows")]
    W8Rows,
    /// Of a weight alone.
    #[serde(rename = "w4-rows")]
    W4Rows,
}

impl Precision {
    /// Whether weights are stored in blocks with scales, and not number by number.
    #[must_use]
    pub fn is_quantised(self) -> bool {
        matches!(self, Self::W8 | Self::W4 | Self::W8Rows | Self::W4Rows)
    }

    /// Whether rows lie one behind the other, and not in panels: what a device computes with.
    #[must_use]
    pub fn is_row_major(self) -> bool {
        !matches!(self, Self::F32Panels | Self::W8 | Self::W4)
    }

    /// Of numbers that are stored one by one beside weights of this format: biases, and those weights if they are not
    /// quantised.
    #[must_use]
    pub fn dtype(self) -> Dtype {
        match self {
            Self::F32 | Self::F32Panels | Self::W8 | Self::W4 => Dtype::F32,
            Self::F16 | Self::W8Rows | Self::W4Rows => Dtype::F16,
            Self::Bf16 => Dtype::Bf16,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
pub struct CacheFile {
    pub file: String,
}

/// The token embedding [vocab, hidden]; never quantised.
#[derive(Debug, Clone, Deserialize)]
pub struct Embedding {
    pub name: String,
    pub weight: WeightRef,
}

/// An RMS norm; its place in the list is the `norm` of its `SegmentedNorm` node.
#[derive(Debug, Clone, Deserialize)]
pub struct Norm {
    pub name: String,
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
    /// Byte offset of the base's bias `[out_features]` in the format's dtype; None where it has none.
    pub bias_offset: Option<usize>,
}

/// Where a base weight lies in the weights file; offsets in bytes.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WeightRef {
    pub format: Precision,
    pub rows: usize,
    pub cols: usize,
    /// Row of the packed matrix that is row 0 of this module; 0 where weights are not in panels.
    pub first_row: usize,
    pub data_offset: usize,
    pub scales_offset: Option<usize>,
    pub mins_offset: Option<usize>,
}

impl Manifest {
    /// Of activations, embedding, norms, biases and logits.
    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.embedding.weight.format.dtype()
    }

    /// # Errors
    /// `ERR_MODEL_INVALID` when a field is missing or the shapes contradict each other.
    pub fn parse(json: &str) -> Result<Self> {
        let invalid = |what: String| Error::new(Code::ModelInvalid, format!("manifest.json: {what}"));
        let manifest: Self = serde_json::from_str(json).map_err(|e| invalid(e.to_string()))?;
        let c = &manifest.config;
        let within = |n: usize, most: usize| (1..=most).contains(&n);
        let grouped = within(c.heads, MAX_HEADS) && c.heads.checked_rem(c.kv_heads) == Some(0);
        if !grouped || !within(c.layers, MAX_LAYERS) || !within(c.head_dim, MAX_HEAD_DIM) || !within(c.vocab_size, MAX_FEATURES) {
            return Err(invalid(format!(
                "expected 1 to {MAX_LAYERS} layers, heads = k · kvHeads up to {MAX_HEADS}, headDim up to {MAX_HEAD_DIM} and vocabSize up to {MAX_FEATURES}, got {} layers, {} heads, {} kvHeads, headDim {}, vocabSize {}",
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
        if !c.rope_scale.is_finite() || !c.rope_inverse_frequencies.iter().all(|f| f.is_finite()) {
            return Err(invalid("expected finite rope frequencies and a finite rope scale".to_owned()));
        }
        let embedding = &manifest.embedding.weight;
        let is_plain = embedding.format.is_row_major() && !embedding.format.is_quantised();
        if embedding.rows != c.vocab_size || !within(embedding.cols, MAX_FEATURES) || !is_plain {
            return Err(invalid(format!(
                "embedding: expected {} rows of 1 to {MAX_FEATURES}, neither quantised nor in panels, got {} of {}",
                c.vocab_size, embedding.rows, embedding.cols
            )));
        }
        for (id, site) in manifest.sites.iter().enumerate() {
            if !within(site.in_features, MAX_FEATURES) || !within(site.out_features, MAX_FEATURES) {
                return Err(invalid(format!(
                    "site {id}: expected 1 to {MAX_FEATURES} features, got {} in and {} out",
                    site.in_features, site.out_features
                )));
            }
            site.check_modules().map_err(|what| invalid(format!("site {id}: {what}")))?;
        }
        Ok(manifest)
    }
}

impl Site {
    /// Each module inside the site, as large as its weight, and no two on the same columns: threads write them at once.
    fn check_modules(&self) -> std::result::Result<(), String> {
        let mut columns = Vec::with_capacity(self.modules.len());
        for m in &self.modules {
            let end = m.out_offset.checked_add(m.out_features).filter(|&end| end <= self.out_features && m.out_features > 0);
            let Some(end) = end.filter(|_| m.weight.rows == m.out_features && m.weight.cols == self.in_features) else {
                return Err(format!("module {} does not fit its site", m.name));
            };
            let (scales, mins) = (m.weight.scales_offset.is_some(), m.weight.mins_offset.is_some());
            if (scales, mins) != (m.weight.format.is_quantised(), m.weight.format == Precision::W4) {
                return Err(format!("module {}: expected scalesOffset beside quantised weights and minsOffset beside those of w4", m.name));
            }
            if m.weight.format.is_quantised() && !m.weight.cols.is_multiple_of(BLOCK) {
                return Err(format!("module {}: expected blocks of {BLOCK} quantised columns, got {}", m.name, m.weight.cols));
            }
            columns.push((m.out_offset, end));
        }
        columns.sort_unstable();
        match columns.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            Some(pair) => Err(format!("two modules share output column {}", pair[1].0)),
            None => Ok(()),
        }
    }
}
