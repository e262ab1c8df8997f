//! What an engine asks of the device that it runs on: to keep adapters and to run steps that were checked.

use super::last_sampled::LastSampled;
use super::step::{StepRequest, StepResult};
use crate::adapters::plan::AdapterPlan;
use crate::adapters::safetensors::File;
use crate::constraint::store::{ConstraintStore, InUse};
use crate::error::Result;
use crate::manifest::Manifest;
use crate::weights::Weights;
use std::sync::Arc;

/// One step's work after [`StepRequest::check`].
pub struct Step<'a> {
    pub request: &'a StepRequest,
    /// Token of each row, below the vocabulary's size. [T]
    pub ids: &'a [i64],
    /// What each sampled row obeys. [M]
    pub matchers: &'a [Option<InUse>],
    pub constraints: &'a Arc<ConstraintStore>,
}

/// A step that was begun.
pub enum Begun {
    /// It is over.
    Done(StepResult),
    /// It is on its way, and the next may be begun behind it.
    Running(Box<dyn Running>),
}

/// A step on its way; it holds all that it needs, its adapters among it, until it is over.
pub trait Running: Send {
    /// Waits for the end of this step, not for those behind it; on any thread.
    ///
    /// # Errors
    /// `ERR_DEVICE` when the device failed.
    fn finish(self: Box<Self>) -> Result<StepResult>;
}

/// Owned by the step thread.
pub trait Core {
    /// Begins one forward pass and the sampling of its logits rows; what sequence slots sample is remembered, so that the
    /// next step may stand on it. Steps run one after another. Where a matcher is in two of them the first must have finished.
    ///
    /// # Errors
    /// `ERR_STEP_FAILED` when the batch is not what it should be or the session fails; nothing is remembered then.
    fn begin(&mut self, step: &Step<'_>, last_sampled: &mut LastSampled) -> Result<Begun>;
}

/// An adapter that was read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// Never used before.
    pub handle: u32,
    pub bytes: usize,
    /// On a device: how many neighbouring pages each of its parts needs, the most first, before steps can use it.
    pub runs: Vec<usize>,
}

/// The resident adapters of one engine; other threads use them while a step runs.
pub trait Residents: Send + Sync {
    /// Makes `file` resident, or on a device ready to be placed.
    ///
    /// # Errors
    /// `ERR_ADAPTER_INVALID` naming the tensor, see [`crate::adapters::compile::compile`].
    fn compile(&self, file: &File, plan: &AdapterPlan, manifest: &Manifest, weights: &Weights) -> Result<Compiled>;

    /// Makes a compiled adapter resident in pages of the device: as many as its runs add up to, those of each run neighbours.
    ///
    /// # Errors
    /// `ERR_NATIVE` for an adapter that waits for no pages, or naming the page that cannot be its; `ERR_DEVICE` when the device
    /// fails.
    fn place(&self, handle: u32, pages: &[i32]) -> Result<()>;

    /// Forgets an adapter; harmless when it is not there. What comes back holds its memory where freeing that takes long: a
    /// device waits for what it is at. To be dropped on a thread that others do not wait for.
    fn release(&self, handle: u32) -> Option<Box<dyn Send>>;

    /// Forgets all: the engine is closing.
    fn clear(&self);

    /// Bytes and number of adapters whose memory is not freed yet, released ones included.
    fn memory(&self) -> (usize, usize);

    /// Adapters kept on the host beside a device; None where the engine has no such tier.
    fn kept(&self) -> Option<&dyn Kept> {
        None
    }
}

/// Images of a device's adapters on the host, from which they become resident again without their files. Calls wait for
/// copies; steps do not wait for them.
pub trait Kept: Send + Sync {
    /// Copies a resident adapter: the image's number, never used before, and its bytes; None when there is no room.
    ///
    /// # Errors
    /// `ERR_STEP_FAILED` for a handle that is not resident, `ERR_DEVICE` when the device fails.
    fn keep(&self, handle: u32) -> Result<Option<(u32, usize)>>;

    /// Makes an image's adapter resident in `pages`, as [`Residents::place`] takes them for its runs: its handle, never used
    /// before, and its bytes.
    ///
    /// # Errors
    /// `ERR_NATIVE` for an image that was discarded, otherwise as [`Residents::place`].
    fn restore(&self, image: u32, pages: &[i32]) -> Result<(u32, usize)>;

    /// Forgets an image; harmless when it is not there.
    fn discard(&self, image: u32);
}
