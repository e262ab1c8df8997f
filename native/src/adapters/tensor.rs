//! Tensors of an adapter file as float32, checked.

use super::safetensors::{File, Tensor};
use crate::error::{Code, Error, Result};
use crate::kernels::simd::Dtype;

/// A tensor as float32, its shape and finiteness checked, and the dtype that holds it exactly. Float64 is narrowed.
///
/// # Errors
/// `ERR_ADAPTER_INVALID` naming the tensor: missing, of another shape or dtype, NaN or infinite.
pub fn read(file: &File, name: &str, shape: &[usize]) -> Result<(Vec<f32>, Dtype)> {
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

/// A matrix [rows, cols] whose file holds only the blocks of its diagonal, one below the other: [rows, cols / blocks].
///
/// # Errors
/// As [`read`]; `ERR_NATIVE` when `blocks` does not divide both sizes.
pub fn read_blocks(file: &File, name: &str, rows: usize, cols: usize, blocks: usize) -> Result<(Vec<f32>, Dtype)> {
    if blocks == 1 {
        return read(file, name, &[rows, cols]);
    }
    if blocks == 0 || !rows.is_multiple_of(blocks) || !cols.is_multiple_of(blocks) {
        return Err(Error::new(Code::Native, format!("the plan cuts {name} [{rows}, {cols}] into {blocks} blocks")));
    }
    let (block_rows, block_cols) = (rows / blocks, cols / blocks);
    let (values, dtype) = read(file, name, &[rows, block_cols])?;
    let mut dense = vec![0.0; rows * cols];
    for (row, stored) in values.chunks_exact(block_cols).enumerate() {
        let at = row * cols + row / block_rows * block_cols;
        dense[at..at + block_cols].copy_from_slice(stored);
    }
    Ok((dense, dtype))
}

fn widen(file: &File, tensor: &Tensor) -> Result<(Vec<f32>, Dtype)> {
    let bytes = file.data(tensor);
    Ok(match tensor.dtype.as_str() {
        "F32" => (bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(), Dtype::F32),
        "F16" => (bytes.as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(), Dtype::F16),
        "BF16" => (bytes.as_chunks::<2>().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(), Dtype::Bf16),
        #[allow(clippy::cast_possible_truncation, reason = "narrowing is what is wanted; an overflow becomes infinite and is refused")]
        "F64" => (bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(), Dtype::F32),
        other => return Err(invalid(file, &tensor.name, format!("expected F32, F16, BF16 or F64, got {other}"))),
    })
}

/// `ERR_ADAPTER_INVALID` about one tensor of `file`.
#[must_use]
pub fn invalid(file: &File, tensor: &str, what: String) -> Error {
    Error::new(Code::AdapterInvalid, format!("{}: tensor {tensor}: {what}", file.label))
}
