//! The prepared model's weights file, mapped read-only: base rows for DoRA norms.

use crate::adapters::pack::unpack;
use crate::error::{Code, Error, Result};
use crate::kernels::quantised::{BLOCK, Bits};
use crate::kernels::simd::{Dtype, LANES};
use crate::manifest::{Precision, WeightRef};
use half::f16;
use memmap2::Mmap;
use std::path::{Path, PathBuf};

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
            Precision::F32 | Precision::F16 | Precision::Bf16 => self.read_numbers(weight.data_offset, row, weight.format, out)?,
            Precision::F32Panels => {
                let (panel, lane) = panel_of(weight, row);
                let bytes = self.range(weight.data_offset, panel, weight.cols * LANES * size_of::<f32>())?;
                for (value, lanes) in out.iter_mut().zip(bytes.as_chunks::<4>().0.chunks_exact(LANES)) {
                    *value = f32::from_le_bytes(lanes[lane]);
                }
            }
            Precision::W8 => self.read_packed_row(weight, Bits::Eight, row, out)?,
            Precision::W4 => self.read_packed_row(weight, Bits::Four, row, out)?,
            Precision::W8Rows | Precision::W4Rows => self.read_quantised_row(weight, row, out)?,
        }
        Ok(())
    }

    /// Writes the quantiser's step at each column of row `row` into `out` [cols]; zeros for a weight that is not quantised.
    ///
    /// # Errors
    /// `ERR_MODEL_INVALID` when the reference points outside the file.
    pub fn read_steps(&self, weight: &WeightRef, row: usize, out: &mut [f32]) -> Result<()> {
        let scales = self.factors(weight.scales_offset, weight, row)?;
        for (step, scale) in out.chunks_mut(BLOCK).zip(scales) {
            step.fill(scale.abs());
        }
        Ok(())
    }

    /// The bias of `count` outputs at byte `offset`, beside weights stored as `format`.
    ///
    /// # Errors
    /// `ERR_MODEL_INVALID` when it lies outside the file.
    pub fn read_bias(&self, offset: usize, format: Precision, count: usize) -> Result<Vec<f32>> {
        let mut out = vec![0.0; count];
        self.read_numbers(offset, 0, format, &mut out)?;
        Ok(out)
    }

    /// Row `row` of numbers that begin at byte `offset`, of the format's dtype.
    fn read_numbers(&self, offset: usize, row: usize, format: Precision, out: &mut [f32]) -> Result<()> {
        let dtype = format.dtype();
        unpack(dtype, self.range(offset, row, out.len() * dtype.size())?, out);
        Ok(())
    }

    /// Gives back the memory of what was read; the next reader maps it again. Norms are read once an adapter, and the
    /// runtime has a mapping of its own.
    pub fn release_pages(&self) {
        // SAFETY: of a read-only file mapping nothing is lost: later reads find the same bytes in the file.
        #[cfg(unix)]
        let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }

    /// One row out of its panel; `kernels/quantised.rs` has the layout.
    fn read_packed_row(&self, weight: &WeightRef, bits: Bits, row: usize, out: &mut [f32]) -> Result<()> {
        let (panel, lane) = panel_of(weight, row);
        let block_bytes = bits.block_bytes();
        let data = self.range(weight.data_offset, panel, weight.cols / BLOCK * block_bytes)?;
        let scales = self.factors(weight.scales_offset, weight, row)?;
        let mins = self.factors(weight.mins_offset, weight, row)?;
        for (c, value) in out.iter_mut().enumerate() {
            let (block, quad, k) = (c / BLOCK, c % BLOCK / 4, c % 4);
            let at = |vector: usize| data[block * block_bytes + (vector * LANES + lane) * 4 + k];
            *value = match bits {
                Bits::Eight => (f32::from(at(quad)) - 128.0) * scales[block],
                Bits::Four => {
                    let q = if quad % 2 == 0 { at(quad / 2) & 15 } else { at(quad / 2) >> 4 };
                    f32::from(q) * scales[block] + mins[block]
                }
            };
        }
        Ok(())
    }

    /// One row of blocks, row by row: `MatMulNBits` without zero points.
    fn read_quantised_row(&self, weight: &WeightRef, row: usize, out: &mut [f32]) -> Result<()> {
        let is_wide = weight.format == Precision::W8Rows;
        let data = self.range(weight.data_offset, row, if is_wide { weight.cols } else { weight.cols / 2 })?;
        let scales = self.factors(weight.scales_offset, weight, row)?;
        for (c, value) in out.iter_mut().enumerate() {
            let centred = if is_wide { f32::from(data[c]) - 128.0 } else { f32::from(data[c / 2] >> (4 * (c % 2)) & 15) - 8.0 };
            *value = centred * scales[c / BLOCK];
        }
        Ok(())
    }

    /// The scales or minima of one row; zeros where the format has no such table.
    fn factors(&self, offset: Option<usize>, weight: &WeightRef, row: usize) -> Result<Vec<f32>> {
        let blocks = weight.cols.div_ceil(BLOCK);
        let Some(offset) = offset else { return Ok(vec![0.0; blocks]) };
        if weight.format.is_row_major() {
            let mut scales = vec![0.0; blocks];
            unpack(Dtype::F16, self.range(offset, row, blocks * 2)?, &mut scales);
            return Ok(scales);
        }
        let (panel, lane) = panel_of(weight, row);
        let bytes = self.range(offset, panel, blocks * LANES * 2)?;
        Ok(bytes.as_chunks::<2>().0.chunks_exact(LANES).map(|block| f16::from_le_bytes(block[lane]).to_f32()).collect())
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

/// Where a module's row lies: its panel, and its place there.
fn panel_of(weight: &WeightRef, row: usize) -> (usize, usize) {
    let row = weight.first_row.saturating_add(row);
    (row / LANES, row % LANES)
}
