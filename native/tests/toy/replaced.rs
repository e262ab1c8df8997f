//! What adapters do to embedding, head and norms, in float64, the way PEFT defines it.

use super::adapter::{Adapter, Rows};
use super::{HIDDEN, VOCAB, wide};

/// `E + s·(B·A)ᵀ`, its columns rescaled with DoRA, or the adapter's rows in it.
pub fn embedding(base: &[f32], terms: &[(&Adapter, f32)]) -> Vec<f64> {
    let mut full = wide(base);
    for (adapter, strength) in terms {
        if let Some(lora) = &adapter.embedding {
            for (token, row) in full.chunks_exact_mut(HIDDEN).enumerate() {
                for (h, value) in row.iter_mut().enumerate() {
                    let product = |j: usize| f64::from(lora.b[h * lora.rank + j]) * f64::from(lora.a[j * VOCAB + token]);
                    *value += f64::from(*strength) * lora.scaling * (0..lora.rank).map(product).sum::<f64>();
                }
            }
            for (h, m) in lora.magnitude.iter().flatten().enumerate() {
                let norm = (0..VOCAB).map(|t| full[t * HIDDEN + h].powi(2)).sum::<f64>().sqrt();
                (0..VOCAB).for_each(|t| full[t * HIDDEN + h] *= f64::from(*m) / norm);
            }
        }
        replace(&mut full, adapter.embedding_rows.as_ref());
    }
    full
}

pub fn head(mut full: Vec<f64>, terms: &[(&Adapter, f32)]) -> Vec<f64> {
    for (adapter, _) in terms {
        replace(&mut full, adapter.head_rows.as_ref());
    }
    full
}

fn replace(full: &mut [f64], rows: Option<&Rows>) {
    let Some(rows) = rows else { return };
    for (i, row) in rows.values.chunks_exact(HIDDEN).enumerate() {
        let token = rows.tokens.as_ref().map_or(i, |tokens| tokens[i] as usize);
        full[token * HIDDEN..][..HIDDEN].copy_from_slice(&wide(row));
    }
}

/// The weight of norm `norm`: the base's are all 1.
pub fn norm(norm: usize, terms: &[(&Adapter, f32)]) -> Vec<f64> {
    let own = terms.iter().flat_map(|(adapter, _)| &adapter.norms).find(|(n, _)| *n == norm);
    own.map_or(vec![1.0; HIDDEN], |(_, weight)| wide(weight))
}
