//! Rotary position tables in the halves layout: pair (r, r + dim/2). Source: RoFormer (arXiv 2104.09864).

/// cos and sin f32 [positions, dim / 2], the model's attention scale folded in.
pub struct Rope {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    /// `inverse_frequencies` [dim / 2]: angle per position. The angle is a float32 product, as in Hugging Face models.
    #[must_use]
    pub fn new(inverse_frequencies: &[f32], scale: f32, positions: usize) -> Self {
        let half = inverse_frequencies.len();
        let mut cos = Vec::with_capacity(positions * half);
        let mut sin = Vec::with_capacity(positions * half);
        for position in 0..positions {
            for frequency in inverse_frequencies {
                #[allow(clippy::cast_precision_loss)]
                let angle = position as f32 * frequency;
                cos.push(angle.cos() * scale);
                sin.push(angle.sin() * scale);
            }
        }
        Self { half, cos, sin }
    }

    /// cos and sin.
    #[must_use]
    pub fn tables(&self) -> (&[f32], &[f32]) {
        (&self.cos, &self.sin)
    }

    /// Rotates one head `x` [dim] for `position` in place.
    pub fn rotate(&self, x: &mut [f32], position: usize) {
        let table = position * self.half..(position + 1) * self.half;
        let (cos, sin) = (&self.cos[table.clone()], &self.sin[table]);
        let (low, high) = x.split_at_mut(self.half);
        for r in 0..self.half {
            let (a, b) = (low[r], high[r]);
            low[r] = a * cos[r] - b * sin[r];
            high[r] = b * cos[r] + a * sin[r];
        }
    }
}
