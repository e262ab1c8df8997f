//! What the operators of one session share on a device.

use super::abi;
use super::spaces::{KvBlocks, RopeTables};
use super::stream::Stream;
use super::tables::Shape;
use crate::error::{Code, Error, Result};
use crate::kernels::simd::Dtype;
use crate::manifest::DecoderConfig;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

/// Fixed while the engine lives.
pub struct DeviceEnv {
    /// On which tables, tokens, the graph's run, sampling and copies follow each other.
    pub stream: Stream,
    /// Of activations, weights, keys and values.
    pub dtype: Dtype,
    pub current: CurrentStep,
    pub kv: KvBlocks,
    pub rope: RopeTables,
    pub config: DecoderConfig,
    /// Per site: input and output features.
    pub sites: Vec<(usize, usize)>,
    pub norms: usize,
    pub vocab: usize,
    pub hidden: usize,
    /// No position is at or above it.
    pub max_context: usize,
}

/// What the operators of one run are launched with. Of a captured run all of it is a matter of the graph's key.
#[derive(Clone, Copy)]
pub struct Launch {
    pub step: abi::Step,
    pub shape: Shape,
    /// Some row has an adapter.
    pub adapted: bool,
    /// Workspaces that suffice for every operator of the run.
    pub shrunk: *mut f32,
    pub attention: *mut c_void,
}

// SAFETY: device addresses, which this process never looks behind.
unsafe impl Send for Launch {}

impl Launch {
    /// Rows that matrices must hold: those that reach the head, or all.
    #[must_use]
    pub fn rows(&self, at_head: bool) -> usize {
        if at_head { self.shape.logits_rows } else { self.shape.rows }
    }
}

/// Where the engine leaves the run's facts for its operators.
#[derive(Default)]
pub struct CurrentStep(Mutex<Option<Launch>>);

impl CurrentStep {
    pub fn set(&self, launch: Option<Launch>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = launch;
    }

    /// # Errors
    /// `ERR_NATIVE` outside a step.
    pub fn get(&self) -> Result<Launch> {
        let launch = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        launch.ok_or_else(|| Error::new(Code::Native, "an operator ran outside a step"))
    }
}

/// A size as kernels count.
///
/// # Errors
/// `ERR_STEP_FAILED` for one that they cannot.
pub fn int(n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error::new(Code::StepFailed, format!("expected sizes below 2^31, got {n}")))
}
