//! Packed quantised weights with random values, and what each of them is worth.

use super::Rng;
use half::f16;
use loramux_native::kernels::quantised::{BLOCK, Bits};
use loramux_native::kernels::simd::LANES;

pub struct Packed {
    pub bits: Bits,
    pub rows: usize,
    pub blocks: usize,
    pub quants: Vec<u8>,
    /// Float16 `[panels, blocks, LANES]`.
    pub scales: Vec<u16>,
    pub mins: Vec<u16>,
}

/// Little-endian bytes of halves.
pub fn half_bytes(halves: &[u16]) -> Vec<u8> {
    halves.iter().flat_map(|bits| bits.to_le_bytes()).collect()
}

impl Packed {
    /// Rows behind the last one hold random values, too: no kernel may let them be seen.
    pub fn random(rng: &mut Rng, bits: Bits, rows: usize, cols: usize) -> Self {
        let (panels, blocks) = (rows.div_ceil(LANES), cols / BLOCK);
        let quants = (0..panels * blocks * bits.block_bytes()).map(|_| rng.bits() as u8).collect();
        let mut halves = || (0..panels * blocks * LANES).map(|_| f16::from_f32(rng.float() * 0.1).to_bits()).collect();
        Self { bits, rows, blocks, quants, scales: halves(), mins: halves() }
    }

    /// Every quant at its largest: where narrow sums would overflow.
    pub fn largest(bits: Bits, rows: usize, cols: usize) -> Self {
        let mut packed = Self::random(&mut Rng(1), bits, rows, cols);
        packed.quants.fill(0xff);
        packed
    }

    fn block(&self, row: usize, column: usize) -> usize {
        row / LANES * self.blocks + column / BLOCK
    }

    fn factor(&self, table: &[u16], row: usize, column: usize) -> f64 {
        f64::from(f16::from_bits(table[self.block(row, column) * LANES + row % LANES]).to_f32())
    }

    pub fn scale(&self, row: usize, column: usize) -> f64 {
        self.factor(&self.scales, row, column)
    }

    pub fn value(&self, row: usize, column: usize) -> f64 {
        let quad = column % BLOCK / 4;
        let byte = |vector: usize| {
            self.quants[self.block(row, column) * self.bits.block_bytes() + (vector * LANES + row % LANES) * 4 + column % 4]
        };
        let scale = self.scale(row, column);
        match self.bits {
            Bits::Eight => (f64::from(byte(quad)) - 128.0) * scale,
            Bits::Four => f64::from(byte(quad / 2) >> (4 * (quad % 2)) & 15) * scale + self.factor(&self.mins, row, column),
        }
    }
}
