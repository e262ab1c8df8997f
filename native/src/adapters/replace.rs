//! What an adapter puts in the place of the base's: rows of embedding and head, norms. And copies that must equal it.

use super::layout::RowValues;
use super::pack::{pack, unpack};
use super::plan::{CopyPlan, NormPlan, RowsPlan};
use super::safetensors::File;
use super::tensor::{Values, invalid, read};
use crate::error::{Code, Error, Result};
use crate::kernels::simd::Dtype;
use crate::manifest::{Manifest, WeightRef};
use crate::pace;
use crate::weights::Weights;
use std::collections::BTreeMap;

/// Most tokens with a row of their own.
pub const MAX_TOKENS: usize = 4096;

/// Rows by ascending token. Where a token comes twice its last row counts, as in PEFT.
///
/// # Errors
/// `ERR_ADAPTER_INVALID` naming the tensor.
pub fn replaced_rows<'a>(file: &'a File, plan: &RowsPlan, manifest: &Manifest) -> Result<RowValues<'a>> {
    let WeightRef { rows: vocab, cols: width, .. } = manifest.embedding.weight;
    let count = plan.tokens.as_ref().map_or(vocab, Vec::len);
    if let Some(tokens) = &plan.tokens {
        if tokens.is_empty() || tokens.len() > MAX_TOKENS {
            return Err(invalid(file, &plan.tensor, format!("expected 1 to {MAX_TOKENS} tokens, got {}", tokens.len())));
        }
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab) {
            return Err(invalid(file, &plan.tensor, format!("expected tokens below {vocab}, got {token}")));
        }
    }
    let values = Values::of(file, &plan.tensor, &[count, width])?;
    let Some(unsorted) = &plan.tokens else { return Ok(RowValues { width, values, order: (0..count).collect(), tokens: None }) };
    let by_token: BTreeMap<u32, usize> = unsorted.iter().copied().zip(0..).collect();
    Ok(RowValues { width, values, tokens: Some(by_token.keys().copied().collect()), order: by_token.into_values().collect() })
}

/// The replaced norms by their index, None where the base's stays.
///
/// # Errors
/// `ERR_ADAPTER_INVALID` naming the tensor, `ERR_NATIVE` for a norm that the model lacks or that comes twice.
pub fn replaced_norms(file: &File, plans: &[NormPlan], manifest: &Manifest) -> Result<Vec<Option<Vec<f32>>>> {
    let mut norms = vec![None; manifest.norms.len()];
    for plan in plans {
        let weight = read(file, &plan.tensor, &[manifest.embedding.weight.cols])?;
        let slot = norms.get_mut(plan.norm).filter(|slot| slot.is_none());
        let fault = || Error::new(Code::Native, format!("the plan names norm {}, which the model lacks or which came before", plan.norm));
        *slot.ok_or_else(fault)? = Some(weight);
    }
    Ok(norms)
}

/// Compares a copy of a base weight with ours, both rounded to either's dtype; of a quantised one within one step of its
/// quantiser, because more is not known of it.
///
/// # Errors
/// `ERR_ADAPTER_INVALID` at the first row that differs.
pub fn check_copy(file: &File, plan: &CopyPlan, manifest: &Manifest, weights: &Weights) -> Result<()> {
    let weight = match plan.site {
        None => &manifest.embedding.weight,
        Some(site) => match manifest.sites.get(site).map(|site| &site.modules[..]) {
            Some([module]) => &module.weight,
            _ => return Err(Error::new(Code::Native, format!("the plan names a copy of site {site}, which is no single module"))),
        },
    };
    let values = Values::of(file, &plan.tensor, &[weight.rows, weight.cols])?;
    let (dtype, mut values) = (values.dtype, values.widen());
    let mut ours = vec![0.0f32; weight.cols];
    let mut rounded = vec![0u8; weight.cols * size_of::<f32>()];
    let mut round = |dtype: Dtype, values: &mut [f32]| {
        if dtype != Dtype::F32 {
            pack(dtype, values, &mut rounded);
            unpack(dtype, &rounded, values);
        }
    };
    let mut steps = vec![0.0f32; weight.cols];
    for (n, theirs) in values.chunks_exact_mut(weight.cols).enumerate() {
        pace::worked(weight.cols * size_of::<f32>());
        weights.read_row(weight, n, &mut ours)?;
        if weight.format.is_quantised() {
            weights.read_steps(weight, n, &mut steps)?;
        } else {
            round(dtype, &mut ours);
            round(weight.format.dtype(), &mut ours);
            round(weight.format.dtype(), theirs);
        }
        let differs = |((a, b), step): ((&f32, &f32), &f32)| (a - b).abs() > *step;
        if let Some(c) = theirs.iter().zip(&ours).zip(&steps).position(differs) {
            let what = format!(
                "expected a copy of the base's weight, row {n} column {c} is {} instead of {}: \
                 the adapter was trained on another base, or changed it; use modules_to_save for a replaced matrix",
                theirs[c], ours[c]
            );
            return Err(invalid(file, &plan.tensor, what));
        }
    }
    Ok(())
}
