//! Shrink and expand on SmolLM2-135M's shapes.

use crate::Load;
use loramux_native::kernels::ahead::Jump;
use loramux_native::kernels::dispatch::Kernels;
use loramux_native::kernels::lora::{Expand, PANEL, Shrink, Stored};

/// Input and output features: attention q|k|v, attention output, gate|up, down.
pub const SHAPES: [(usize, usize); 4] = [(576, 960), (576, 576), (576, 3072), (1536, 576)];
/// How rows and adapters meet in one run.
#[derive(Clone, Copy)]
pub enum Rows {
    /// As many segments of one row, each with the next adapter of the working set.
    Distinct(usize),
    /// One segment of as many rows.
    Identical(usize),
}

/// One site; its adapters lie one behind the other in the working set, which is gone through in turn: weights come from
/// memory, as they do between two layers of a step.
pub struct Site<'a> {
    set: &'static Kernels,
    stored: Stored,
    inputs: usize,
    outputs: usize,
    rank: usize,
    rows: Rows,
    adapters: &'a [u8],
    next: usize,
    x: Vec<f32>,
    h: Vec<f32>,
    y: Vec<f32>,
    scale: Vec<f32>,
}

impl<'a> Site<'a> {
    pub fn new(
        set: &'static Kernels,
        adapters: &'a [u8],
        stored: Stored,
        (inputs, outputs): (usize, usize),
        rank: usize,
        rows: Rows,
    ) -> Self {
        let (Rows::Distinct(count) | Rows::Identical(count)) = rows;
        Self {
            set,
            stored,
            inputs,
            outputs,
            rank,
            rows,
            adapters,
            next: 0,
            x: vec![0.5; count * inputs],
            h: vec![0.0; count * rank],
            y: vec![0.0; count * outputs],
            scale: vec![1.0; rank],
        }
    }

    fn a_bytes(&self) -> usize {
        self.stored.a_size(self.rank, self.inputs)
    }

    fn adapter_bytes(&self) -> usize {
        self.a_bytes() + self.stored.b_size(self.outputs, self.rank)
    }

    /// `rows` rows from `first` on with the next adapter.
    fn segment(&mut self, first: usize, rows: usize) {
        if self.next + self.adapter_bytes() > self.adapters.len() {
            self.next = 0;
        }
        let a = self.adapters[self.next..].as_ptr();
        let b = self.adapters[self.next + self.a_bytes()..].as_ptr();
        self.next += self.adapter_bytes().next_multiple_of(64);
        let shrink = Shrink {
            x: self.x[first * self.inputs..].as_ptr(),
            x_stride: self.inputs,
            rows,
            width: self.inputs,
            a,
            stored: self.stored,
            ranks: (0, self.rank),
            scale: self.scale.as_ptr(),
            strength: 1.0,
            h: self.h[first * self.rank..].as_mut_ptr(),
            h_stride: self.rank,
        };
        let expand = Expand {
            h: self.h[first * self.rank..].as_ptr(),
            h_stride: self.rank,
            rows,
            rank: self.rank,
            b,
            stored: self.stored,
            jump: Jump::NONE,
            panels: (0, self.outputs.div_ceil(PANEL)),
            width: self.outputs,
            y: self.y[first * self.outputs..].as_mut_ptr(),
            y_stride: self.outputs,
            gain: std::ptr::null(),
            offset: std::ptr::null(),
            strength: 1.0,
        };
        // SAFETY: first + rows is at most the rows that `new` made the buffers for, the adapter lies inside the working set,
        // and the set is this CPU's.
        unsafe {
            (self.set.shrink)(&shrink);
            (self.set.expand)(&expand);
        }
    }
}

impl Load for Site<'_> {
    fn name(&self) -> String {
        let (shape, count) = match self.rows {
            Rows::Distinct(count) => ("distinct", count),
            Rows::Identical(count) => ("identical", count),
        };
        let stored = format!("{:?}", self.stored).to_lowercase().replace("float(", "").replace(')', "");
        format!("{}/lora {}x{} rank {} {stored}/{count} {shape}", self.set.name, self.inputs, self.outputs, self.rank)
    }

    fn run(&mut self) {
        match self.rows {
            Rows::Distinct(count) => (0..count).for_each(|row| self.segment(row, 1)),
            Rows::Identical(count) => self.segment(0, count),
        }
    }

    fn bytes(&self) -> usize {
        match self.rows {
            Rows::Distinct(count) => count * self.adapter_bytes(),
            Rows::Identical(_) => self.adapter_bytes(),
        }
    }

    fn operations(&self) -> usize {
        let (Rows::Distinct(count) | Rows::Identical(count)) = self.rows;
        2 * count * self.rank * (self.inputs + self.outputs)
    }
}
