//! The prepared model's weights file, mapped read-only: base rows for DoRA norms.

use crate::error::{Code, Error, Result};
use crate::manifest::{Precision, WeightRef};
use memmap2::Mmap;
use std::path::{Path, PathBuf};

/// Columns that share one scale in the quantised formats.
const BLOCK: usize = 32;

/// A mapped `weights.bin`.
pub struct Weights {
    path: PathBuf,
    map: Mmap,
}

impl Weights {
    /// # Errors
    /// `ERR_MODEL_INVALID` when the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let fail = |e: std::io::Error| {
            Error::new(Code::ModelInvalid, format!("{}: {e}. Delete the cache entry to have it rebuilt", path.display()))
        };
        let file = std::fs::File::open(path).map_err(fail)?;
        // SAFETY: the cache entry is written once under another name and renamed into place; nothing of ours changes
        // or truncates it afterwards.
        let map = unsafe { Mmap::map(&file) }.map_err(fail)?;
        Ok(Self { path: path.to_owned(), map })
    }

    /// Writes row `row` of `weight` as float32 into `out` [cols].
    ///
    /// # Errors
    /// `ERR_MODEL_INVALID` when the reference points outside the file.
    pub fn read_row(&self, weight: &WeightRef, row: usize, out: &mut [f32]) -> Result<()> {
        debug_assert_eq!(out.len(), weight.cols);
        match weight.format {
            Precision::F32 => {
                let bytes = self.range(weight.data_offset, row, weight.cols * 4)?;
                for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    *value = f32::from_le_bytes(*raw);
                }
            }
            Precision::W8 | Precision::W4 => self.read_quantised_row(weight, row, out)?,
        }
        Ok(())
    }

    /// Writes the quantiser's step at each column of row `row` into `out` [cols]; zeros for a weight that is not quantised.
    ///
    /// # Errors
    /// `ERR_MODEL_INVALID` when the reference points outside the file.
    pub fn read_steps(&self, weight: &WeightRef, row: usize, out: &mut [f32]) -> Result<()> {
        let scales = self.floats(weight.scales_offset, row, weight.cols.div_ceil(BLOCK))?;
        for (step, scale) in out.chunks_mut(BLOCK).zip(scales) {
            step.fill(scale.abs());
        }
        Ok(())
    }

    /// `count` float32 at byte `offset`.
    ///
    /// # Errors
    /// `ERR_MODEL_INVALID` when they lie outside the file.
    pub fn read_floats(&self, offset: usize, count: usize) -> Result<Vec<f32>> {
        self.floats(Some(offset), 0, count)
    }

    /// Gives back the memory of what was read; the next reader maps it again. Norms are read once an adapter, and the
    /// runtime has its own packed copy of every weight.
    pub fn release_pages(&self) {
        // SAFETY: of a read-only file mapping nothing is lost: later reads find the same bytes in the file.
        #[cfg(unix)]
        let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }

    fn read_quantised_row(&self, weight: &WeightRef, row: usize, out: &mut [f32]) -> Result<()> {
        let blocks = weight.cols.div_ceil(BLOCK);
        let wide = weight.format == Precision::W8;
        let block_bytes = if wide { BLOCK } else { BLOCK / 2 };
        let data = self.range(weight.data_offset, row, blocks * block_bytes)?;
        let scales = self.floats(weight.scales_offset, row, blocks)?;
        let mins = self.floats(weight.mins_offset, row, blocks)?;
        for (c, value) in out.iter_mut().enumerate() {
            let (block, i) = (c / BLOCK, c % BLOCK);
            let q = if wide {
                f32::from(data[block * block_bytes + i]) - 128.0
            } else {
                let byte = data[block * block_bytes + i / 2];
                f32::from(if i % 2 == 0 { byte & 15 } else { byte >> 4 }) - 8.0
            };
            *value = q * scales[block] + mins[block];
        }
        Ok(())
    }

    /// `count` float32 of row `row` at `offset`; zeros where the format has no such table.
    fn floats(&self, offset: Option<usize>, row: usize, count: usize) -> Result<Vec<f32>> {
        let Some(offset) = offset else { return Ok(vec![0.0; count]) };
        let bytes = self.range(offset, row, count * 4)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect())
    }

    fn range(&self, offset: usize, row: usize, row_bytes: usize) -> Result<&[u8]> {
        let start = row.checked_mul(row_bytes).and_then(|skip| skip.checked_add(offset));
        start.and_then(|start| self.map.get(start..start.checked_add(row_bytes)?)).ok_or_else(|| {
            Error::new(
                Code::ModelInvalid,
                format!(
                    "{}: row {row} at offset {offset} lies outside the file ({} bytes). Delete the cache entry to have it rebuilt",
                    self.path.display(),
                    self.map.len()
                ),
            )
        })
    }
}
