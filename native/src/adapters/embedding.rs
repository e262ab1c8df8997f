//! LoRA on the token embedding.

use super::layout::EmbeddingValues;
use super::pack::pack;
use super::plan::EmbeddingPlan;
use super::read::{check_scale, gain_of};
use super::safetensors::File;
use super::tensor::{Values, read};
use crate::error::Result;
use crate::kernels::simd::Dtype;
use crate::manifest::Embedding;
use crate::pace;
use crate::weights::Weights;

/// # Errors
/// `ERR_ADAPTER_INVALID` naming the tensor.
pub fn embedding_lora<'a>(file: &'a File, plan: &EmbeddingPlan, embedding: &Embedding, weights: &Weights) -> Result<EmbeddingValues<'a>> {
    let (vocab, hidden, rank) = (embedding.weight.rows, embedding.weight.cols, plan.rank);
    let scale = check_scale(file, &plan.a, rank, plan.scaling)?;
    let (a, b) = (Values::of(file, &plan.a, &[rank, vocab])?, Values::of(file, &plan.b, &[hidden, rank])?);
    let dtype = if a.dtype == b.dtype { a.dtype } else { Dtype::F32 };
    let a = a.widen();
    let gain = match &plan.magnitude {
        Some(name) => Some(column_gain(file, name, plan, embedding, (&a, &b.widen()), weights)?),
        None => None,
    };
    Ok(EmbeddingValues { dtype, rank, scale, vocab, hidden, a, b, gain })
}

/// Writes A transposed, [vocab, rank] of the values' dtype: a token's column is one row.
pub fn pack_columns(lora: &EmbeddingValues<'_>, packed: &mut [u8]) {
    let mut column = vec![0.0f32; lora.rank];
    for (token, packed) in packed.chunks_exact_mut(lora.rank * lora.dtype.size()).enumerate() {
        pace::worked(packed.len());
        for (j, value) in column.iter_mut().enumerate() {
            *value = lora.a[j * lora.vocab + token];
        }
        pack(lora.dtype, &column, packed);
    }
}

/// `g_h = m_h / ‖(Eᵀ + s·B·A)_h‖₂` per hidden column over the whole vocabulary, in double precision.
fn column_gain(
    file: &File,
    name: &str,
    plan: &EmbeddingPlan,
    embedding: &Embedding,
    (a, b): (&[f32], &[f32]),
    weights: &Weights,
) -> Result<Vec<f32>> {
    let (vocab, hidden, rank) = (embedding.weight.rows, embedding.weight.cols, plan.rank);
    let magnitude = read(file, name, &[hidden])?;
    let mut squares = vec![0.0f64; hidden];
    let mut row = vec![0.0f32; hidden];
    let mut column = vec![0.0f64; rank];
    for token in 0..vocab {
        pace::worked(rank * hidden * size_of::<f64>());
        weights.read_row(&embedding.weight, token, &mut row)?;
        for (j, value) in column.iter_mut().enumerate() {
            *value = plan.scaling * f64::from(a[j * vocab + token]);
        }
        for ((square, e), factors) in squares.iter_mut().zip(&row).zip(b.chunks_exact(rank)) {
            let delta: f64 = factors.iter().zip(&column).map(|(b, a)| f64::from(*b) * a).sum();
            *square += (f64::from(*e) + delta).powi(2);
        }
    }
    let gain = |(h, (m, square)): (usize, (&f32, &f64))| gain_of(file, name, &embedding.name, h, *m, square.sqrt());
    magnitude.iter().zip(&squares).enumerate().map(gain).collect()
}
