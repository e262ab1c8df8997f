//! The layouts that kernels read: groups of rows for A, panels of columns for B.

use crate::kernels::lora::{GROUP, PANEL};
use crate::kernels::simd::{Dtype, LANES};

/// Groups of adapter rows whose vectors alternate (`Shrink::a`), from rows of f32 [in]; `packed` is zero.
pub fn pack_groups(dtype: Dtype, rows: &[&[f32]], stride: usize, packed: &mut [u8]) {
    for (g, group) in rows.chunks(GROUP).enumerate() {
        for (j, row) in group.iter().enumerate() {
            for (c, lanes) in row.chunks(LANES).enumerate() {
                let element = g * GROUP * stride + (c * group.len() + j) * LANES;
                pack(dtype, lanes, &mut packed[element * dtype.size()..]);
            }
        }
    }
}

/// `dtype` [panels, rank, PANEL] from f32 [out, rank]: what one panel of outputs needs lies together.
pub fn pack_panels(dtype: Dtype, b: &[f32], out: usize, rank: usize, packed: &mut [u8]) {
    let mut row = [0.0f32; PANEL];
    for panel in 0..out.div_ceil(PANEL) {
        for j in 0..rank {
            for (lane, value) in row.iter_mut().enumerate() {
                let n = panel * PANEL + lane;
                *value = if n < out { b[n * rank + j] } else { 0.0 };
            }
            pack(dtype, &row, &mut packed[(panel * rank + j) * PANEL * dtype.size()..]);
        }
    }
}

/// Narrows `values` to `dtype`; exact, because `dtype` is what they came as or wider.
pub fn pack(dtype: Dtype, values: &[f32], out: &mut [u8]) {
    match dtype {
        Dtype::F32 => out.as_chunks_mut::<4>().0.iter_mut().zip(values).for_each(|(o, v)| *o = v.to_le_bytes()),
        Dtype::F16 => out.as_chunks_mut::<2>().0.iter_mut().zip(values).for_each(|(o, v)| *o = half::f16::from_f32(*v).to_le_bytes()),
        Dtype::Bf16 => out.as_chunks_mut::<2>().0.iter_mut().zip(values).for_each(|(o, v)| *o = half::bf16::from_f32(*v).to_le_bytes()),
    }
}

/// Widens as many elements of `dtype` as `out` holds; exact.
pub fn unpack(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F32 => out.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(o, b)| *o = f32::from_le_bytes(*b)),
        Dtype::F16 => out.iter_mut().zip(bytes.as_chunks::<2>().0).for_each(|(o, b)| *o = half::f16::from_le_bytes(*b).to_f32()),
        Dtype::Bf16 => out.iter_mut().zip(bytes.as_chunks::<2>().0).for_each(|(o, b)| *o = half::bf16::from_le_bytes(*b).to_f32()),
    }
}
