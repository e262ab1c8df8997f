//! CUDA graphs: which runs are one and the same to the device, so that the first is captured and the others replay it.

use super::session::Bound;
use super::tables::Shape;
use std::collections::HashMap;
use std::ffi::c_void;

/// Everything that launches of a run depend on, addresses included. What steps differ in beside it lies in tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub bound: Bound,
    pub shape: Shape,
    pub adapted: bool,
    pub shrunk: *mut f32,
    pub attention: *mut c_void,
}

/// Names of captured runs.
#[derive(Default)]
pub struct Graphs {
    names: HashMap<Key, usize>,
}

impl Graphs {
    /// The name of the run, the same for the same key. From 1 on: 0 is the runtime's for runs without a name.
    pub fn name(&mut self, key: Key) -> usize {
        let next = self.names.len() + 1;
        *self.names.entry(key).or_insert(next)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.names.len()
    }
}
