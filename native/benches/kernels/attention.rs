//! One decode row over a long context: every key and value of the sequence is read once.

use crate::Load;
use loramux_native::kernels::attention::{Attend, PAGE};
use loramux_native::kernels::dispatch::Kernels;
use loramux_native::kernels::simd::Dtype;

const KV_HEADS: usize = 3;
const GROUP: usize = 3;
const DIM: usize = 64;
/// Elements of one page of all heads.
const PAGE_ELEMENTS: usize = KV_HEADS * DIM * PAGE;

/// A row of SmolLM2-135M's attention; each run takes pages of another place.
pub struct Row<'a> {
    set: &'static Kernels,
    context: usize,
    dtype: Dtype,
    /// The pool holds only tiny numbers, whatever the element type that its bytes are read as.
    keys: &'a [f32],
    values: &'a [f32],
    q: Vec<f32>,
    scores: Vec<f32>,
    pages: Vec<i32>,
    next: usize,
}

impl<'a> Row<'a> {
    /// Half of `pool` is keys.
    pub fn new(set: &'static Kernels, pool: &'a [f32], context: usize, dtype: Dtype) -> Self {
        let (keys, values) = pool.split_at(pool.len() / 2);
        Self {
            set,
            context,
            dtype,
            keys,
            values,
            q: vec![0.01; KV_HEADS * GROUP * DIM],
            scores: vec![0.0; GROUP * context.next_multiple_of(PAGE)],
            pages: vec![0; context.div_ceil(PAGE)],
            next: 0,
        }
    }
}

impl Load for Row<'_> {
    fn name(&self) -> String {
        format!("{}/attention {:?}/context {}", self.set.name, self.dtype, self.context)
    }

    fn run(&mut self) {
        let count = size_of_val(self.keys) / (PAGE_ELEMENTS * self.dtype.size());
        for page in &mut self.pages {
            // A stride without common factor with the number of pages: blocks of a running server lie anywhere.
            self.next = (self.next + 389) % count;
            *page = self.next as i32;
        }
        self.q.fill(0.01);
        for head in 0..KV_HEADS {
            let args = Attend {
                q: self.q[head * GROUP * DIM..].as_mut_ptr(),
                group: GROUP,
                dim: DIM,
                padded_dim: DIM,
                dtype: self.dtype,
                keys: self.keys.as_ptr().cast::<u8>().wrapping_add(head * DIM * PAGE * self.dtype.size()),
                key_stride: PAGE_ELEMENTS,
                values: self.values.as_ptr().cast::<u8>().wrapping_add(head * DIM * PAGE * self.dtype.size()),
                value_stride: PAGE_ELEMENTS,
                block_table: self.pages.as_ptr(),
                begin: 0,
                end: self.context,
                scale: 0.125,
                scores: self.scores.as_mut_ptr(),
            };
            // SAFETY: pages lie below the pool's count, q and scores have the sizes of `new`, the set is this CPU's.
            unsafe { (self.set.attend)(&args) };
        }
    }

    fn bytes(&self) -> usize {
        2 * KV_HEADS * DIM * self.context * self.dtype.size()
    }

    fn operations(&self) -> usize {
        4 * KV_HEADS * GROUP * DIM * self.context
    }
}
