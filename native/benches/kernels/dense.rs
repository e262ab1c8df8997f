//! The float32 base matmul on SmolLM2-135M's shapes.

use crate::Load;
use loramux_native::kernels::dense::{GROUP, Matmul};
use loramux_native::kernels::dispatch::Kernels;
use loramux_native::kernels::simd::LANES;

/// Input and output features: attention q|k|v, attention output, gate|up, down, head.
pub const MATRICES: [(usize, usize); 5] = [(576, 960), (576, 576), (576, 3072), (1536, 576), (576, 49152)];
/// Decode batches, chunks of a prompt, a prompt.
pub const ROWS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 256];

/// One matrix; those of a model lie one behind the other in the working set, which is gone through in turn: weights come
/// from memory, as they do in a step.
pub struct Matrix<'a> {
    set: &'static Kernels,
    inputs: usize,
    outputs: usize,
    rows: usize,
    weights: &'a [f32],
    next: usize,
    x: Vec<f32>,
    y: Vec<f32>,
}

impl<'a> Matrix<'a> {
    pub fn new(set: &'static Kernels, weights: &'a [f32], (inputs, outputs): (usize, usize), rows: usize) -> Self {
        Self { set, inputs, outputs, rows, weights, next: 0, x: vec![0.5; rows * inputs], y: vec![0.0; rows * outputs] }
    }
}

impl Load for Matrix<'_> {
    fn name(&self) -> String {
        format!("{}/dense {}x{}/{} rows", self.set.name, self.inputs, self.outputs, self.rows)
    }

    fn run(&mut self) {
        let size = self.inputs * self.outputs;
        if self.next + size > self.weights.len() {
            self.next = 0;
        }
        let panels = self.outputs / LANES;
        // As the operator draws them.
        for panel in (0..panels).step_by(GROUP) {
            let next = panel + GROUP;
            let args = Matmul {
                x: self.x.as_ptr(),
                rows: self.rows,
                inputs: self.inputs,
                w: self.weights[self.next..].as_ptr(),
                panels: (panel, panels.min(next)),
                next_panel: (next < panels).then_some(next),
                width: self.outputs,
                y: self.y.as_mut_ptr(),
            };
            // SAFETY: x and y have the sizes of `new`, the matrix lies inside the working set, the set is this CPU's.
            unsafe { (self.set.dense_matmul)(&args) };
        }
        self.next += size;
    }

    fn bytes(&self) -> usize {
        self.inputs * self.outputs * 4
    }

    fn operations(&self) -> usize {
        2 * self.rows * self.inputs * self.outputs
    }
}
