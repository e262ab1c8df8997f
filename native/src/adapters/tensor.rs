//! Tensors of an adapter file, checked.

use super::pack::{pack, unpack};
use super::safetensors::{File, Tensor};
use crate::error::{Code, Error, Result};
use crate::kernels::simd::Dtype;
use crate::pace;
use std::borrow::Cow;

/// Elements that are checked at a time: a loop without early exit is many times faster.
const CHUNK: usize = 4096;

/// A tensor whose shape and finiteness are checked, in a dtype that holds it exactly.
pub struct Values<'a> {
    pub dtype: Dtype,
    /// Little-endian elements of `dtype`.
    pub bytes: Cow<'a, [u8]>,
}

impl<'a> Values<'a> {
    /// The tensor `name` of `file`. Float64 is narrowed to float32.
    ///
    /// # Errors
    /// `ERR_ADAPTER_INVALID` naming the tensor: missing, of another shape or dtype, NaN or infinite.
    pub fn of(file: &'a File, name: &str, shape: &[usize]) -> Result<Self> {
        let tensor = file.find(name).ok_or_else(|| invalid(file, name, "expected this tensor, the file has none".to_owned()))?;
        if tensor.shape != shape {
            return Err(invalid(file, name, format!("expected shape {shape:?}, got {:?}", tensor.shape)));
        }
        let values = Self::stored(file, tensor)?;
        match values.first_not_finite() {
            None => Ok(values),
            Some(i) => {
                let found = values.widen()[i];
                let what = format!("element {i} is {found}: expected finite weights, train or export the adapter again");
                Err(invalid(file, name, what))
            }
        }
    }

    /// A matrix [rows, cols] whose file holds only the blocks of its diagonal, one below the other: [rows, cols / blocks].
    ///
    /// # Errors
    /// As [`Values::of`]; `ERR_NATIVE` when `blocks` does not divide both sizes.
    pub fn of_blocks(file: &'a File, name: &str, rows: usize, cols: usize, blocks: usize) -> Result<Self> {
        if blocks == 1 {
            return Self::of(file, name, &[rows, cols]);
        }
        if blocks == 0 || !rows.is_multiple_of(blocks) || !cols.is_multiple_of(blocks) {
            return Err(Error::new(Code::Native, format!("the plan cuts {name} [{rows}, {cols}] into {blocks} blocks")));
        }
        let stored = Self::of(file, name, &[rows, cols / blocks])?;
        let (row_bytes, block_bytes) = (cols * stored.dtype.size(), cols / blocks * stored.dtype.size());
        // Zero bytes are 0 in every dtype.
        let mut dense = vec![0; rows * row_bytes];
        for (row, block) in stored.bytes.chunks_exact(block_bytes).enumerate() {
            let at = row * row_bytes + row / (rows / blocks) * block_bytes;
            dense[at..at + block_bytes].copy_from_slice(block);
        }
        Ok(Self { dtype: stored.dtype, bytes: Cow::Owned(dense) })
    }

    fn stored(file: &'a File, tensor: &Tensor) -> Result<Self> {
        let bytes = file.data(tensor);
        let dtype = match tensor.dtype.as_str() {
            "F32" => Dtype::F32,
            "F16" => Dtype::F16,
            "BF16" => Dtype::Bf16,
            "F64" => return Ok(Self { dtype: Dtype::F32, bytes: Cow::Owned(narrow(bytes)) }),
            other => return Err(invalid(file, &tensor.name, format!("expected F32, F16, BF16 or F64, got {other}"))),
        };
        Ok(Self { dtype, bytes: Cow::Borrowed(bytes) })
    }

    fn first_not_finite(&self) -> Option<usize> {
        // All bits of the exponent set: infinite or NaN.
        match self.dtype {
            Dtype::F32 => position(&self.bytes, |b| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000),
            Dtype::F16 => position(&self.bytes, |b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
            Dtype::Bf16 => position(&self.bytes, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
        }
    }

    /// As float32; exact.
    #[must_use]
    pub fn widen(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.bytes.len() / self.dtype.size()];
        for (bytes, values) in self.bytes.chunks(CHUNK * self.dtype.size()).zip(values.chunks_mut(CHUNK)) {
            pace::worked(bytes.len());
            unpack(self.dtype, bytes, values);
        }
        values
    }

    /// Elements of `dtype`, which is this one's own or wider.
    #[must_use]
    pub fn in_dtype(&self, dtype: Dtype) -> Cow<'_, [u8]> {
        if dtype == self.dtype {
            return Cow::Borrowed(&self.bytes);
        }
        let values = self.widen();
        let mut bytes = vec![0; values.len() * dtype.size()];
        pack(dtype, &values, &mut bytes);
        Cow::Owned(bytes)
    }
}

/// The tensor as float32, see [`Values::of`].
///
/// # Errors
/// As [`Values::of`].
pub fn read(file: &File, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    Ok(Values::of(file, name, shape)?.widen())
}

/// Float64 to float32; an overflow becomes infinite and is refused.
fn narrow(bytes: &[u8]) -> Vec<u8> {
    #[allow(clippy::cast_possible_truncation, reason = "narrowing is what is wanted")]
    bytes.as_chunks::<8>().0.iter().flat_map(|b| (f64::from_le_bytes(*b) as f32).to_le_bytes()).collect()
}

/// The first element that `is` says yes to.
fn position<const SIZE: usize>(bytes: &[u8], is: impl Fn([u8; SIZE]) -> bool) -> Option<usize> {
    let elements = bytes.as_chunks::<SIZE>().0;
    let chunk = elements.chunks(CHUNK).position(|chunk| {
        pace::worked(chunk.len() * SIZE);
        chunk.iter().fold(false, |any, e| any | is(*e))
    })?;
    let start = chunk * CHUNK;
    elements[start..].iter().position(|e| is(*e)).map(|at| start + at)
}

/// `ERR_ADAPTER_INVALID` about one tensor of `file`.
#[must_use]
pub fn invalid(file: &File, tensor: &str, what: String) -> Error {
    Error::new(Code::AdapterInvalid, format!("{}: tensor {tensor}: {what}", file.label))
}
