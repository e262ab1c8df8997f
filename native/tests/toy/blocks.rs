//! Weights in blocks of 32 around zero, row by row: what `MatMulNBits` takes without zero points.

use half::f16;
use loramux_native::kernels::quantised::{BLOCK, Bits};

pub struct Blocks {
    bits: Bits,
    /// Of 4 bits two in a byte, the first in its low half.
    pub quants: Vec<u8>,
    /// Exact in float16.
    pub scales: Vec<f32>,
}

impl Blocks {
    /// Of `weight` [rows, inputs]; None where nothing is quantised, or rows are not whole blocks.
    pub fn of(bits: Option<Bits>, weight: &[f32], inputs: usize) -> Option<Self> {
        let bits = bits.filter(|_| inputs.is_multiple_of(BLOCK))?;
        let most = i32::from(bits == Bits::Eight) * 120 + 7;
        let mut blocks = Self { bits, quants: Vec::new(), scales: Vec::new() };
        for block in weight.chunks_exact(BLOCK) {
            let largest = block.iter().fold(0.0f32, |most, v| most.max(v.abs()));
            let scale = f16::from_f32(largest / most as f32).to_f32();
            let quant = |v: &f32| ((v / scale).round() as i32).clamp(-most, most) + most + 1;
            let quants: Vec<u8> = block.iter().map(|v| quant(v) as u8).collect();
            match bits {
                Bits::Eight => blocks.quants.extend(quants),
                Bits::Four => blocks.quants.extend(quants.as_chunks::<2>().0.iter().map(|[low, high]| low | high << 4)),
            }
            blocks.scales.push(scale);
        }
        Some(blocks)
    }

    pub fn bits(&self) -> usize {
        if self.bits == Bits::Eight { 8 } else { 4 }
    }

    fn value(&self, at: usize) -> f32 {
        let centred = match self.bits {
            Bits::Eight => f32::from(self.quants[at]) - 128.0,
            Bits::Four => f32::from(self.quants[at / 2] >> (4 * (at % 2)) & 15) - 8.0,
        };
        centred * self.scales[at / BLOCK]
    }
}

/// `weight` as its blocks hold it.
pub fn rounded_to(bits: Option<Bits>, weight: Vec<f32>, inputs: usize) -> Vec<f32> {
    match Blocks::of(bits, &weight, inputs) {
        None => weight,
        Some(blocks) => (0..weight.len()).map(|at| blocks.value(at)).collect(),
    }
}

/// What a manifest calls the format, and the bytes that the quants of `count` weights take.
pub fn stored(bits: Bits, count: usize) -> (&'static str, usize) {
    match bits {
        Bits::Eight => ("w8-rows", count),
        Bits::Four => ("w4-rows", count / 2),
    }
}
