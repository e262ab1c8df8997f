//! Float32 weights in panels.

use super::Rng;
use loramux_native::kernels::simd::LANES;

pub struct Panels {
    pub rows: usize,
    pub cols: usize,
    /// `[panels, cols, LANES]`.
    pub values: Vec<f32>,
}

impl Panels {
    /// Of `rows` rows [rows, cols]; zeros behind the last one.
    pub fn of(weights: &[f32], cols: usize) -> Self {
        let rows = weights.len() / cols;
        let mut values = vec![0.0; rows.div_ceil(LANES) * LANES * cols];
        for (at, value) in weights.iter().enumerate() {
            values[Self::place(cols, at / cols, at % cols)] = *value;
        }
        Self { rows, cols, values }
    }

    /// Rows behind the last one hold random values, too: no kernel may let them be seen.
    pub fn random(rng: &mut Rng, rows: usize, cols: usize) -> Self {
        Self { rows, cols, values: rng.floats(rows.div_ceil(LANES) * LANES * cols, 0.5) }
    }

    fn place(cols: usize, row: usize, column: usize) -> usize {
        (row / LANES * cols + column) * LANES + row % LANES
    }

    pub fn value(&self, row: usize, column: usize) -> f32 {
        self.values[Self::place(self.cols, row, column)]
    }
}
