//! What an adapter brings, as the caller decided it from the adapter's configuration.

use crate::error::{Code, Error, Result};
use serde::Deserialize;

/// One module's factors.
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

/// Everything that one adapter brings.
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

    /// Rescales (DoRA) or replaces something of the base: such an adapter cannot be summed with others.
    #[must_use]
    pub fn stands_alone(&self) -> bool {
        let rescales = self.modules.iter().any(|module| module.magnitude.is_some())
            || self.embedding.as_ref().is_some_and(|embedding| embedding.magnitude.is_some());
        rescales || self.embedding_rows.is_some() || self.head_rows.is_some() || !self.norms.is_empty()
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
