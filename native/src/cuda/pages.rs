//! A device's memory for keys and values and for adapters: pages of one size, each a KV block or a part of an adapter.
//!
//! Who gets which page is decided elsewhere; here it is checked that no page is two things at once, and that nothing is
//! written to a page while a step in flight may look at it.

use super::device::Device;
use super::memory::DeviceBuffer;
use super::stream::Stream;
use crate::error::{Code, Error, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub struct PagePool {
    memory: Arc<DeviceBuffer>,
    page_bytes: usize,
    states: Mutex<Vec<State>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    is_adapters: bool,
    /// Steps in flight for which it is a KV block.
    steps: u32,
}

/// An adapter's pages, others' again when this is dropped.
pub struct AdapterPages {
    pool: Arc<PagePool>,
    pages: Vec<usize>,
}

/// The KV blocks of a step in flight; to be dropped when the device is done with it.
pub struct StepPages {
    pool: Arc<PagePool>,
    pages: Vec<usize>,
}

impl PagePool {
    /// `count` pages, all zero.
    ///
    /// # Errors
    /// `ERR_DEVICE` when the device has no room, `ERR_NATIVE` for more bytes than there are addresses.
    pub fn new(device: &Device, stream: &Stream, count: usize, page_bytes: usize) -> Result<Arc<Self>> {
        let none = || Error::new(Code::Native, format!("{count} pages of {page_bytes} bytes have no size: lower --gpu-memory"));
        let memory = device.alloc(count.checked_mul(page_bytes).ok_or_else(none)?)?;
        stream.zero(&memory)?;
        Ok(Arc::new(Self { memory: Arc::new(memory), page_bytes, states: Mutex::new(vec![State::default(); count]) }))
    }

    #[must_use]
    pub fn memory(&self) -> &Arc<DeviceBuffer> {
        &self.memory
    }

    #[must_use]
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Makes pages an adapter's: as many as `runs` add up to, those of each run neighbours in ascending order.
    ///
    /// # Errors
    /// `ERR_NATIVE` naming the page that is not there, is an adapter's or a step's in flight, or is no neighbour.
    pub fn claim(self: &Arc<Self>, pages: &[i32], runs: &[usize]) -> Result<AdapterPages> {
        let wanted: usize = runs.iter().sum();
        if pages.len() != wanted {
            return Err(bad(format!("expected {wanted} pages in runs of {runs:?}, got {}", pages.len())));
        }
        let mut states = self.lock();
        let count = states.len();
        let known = |&page: &i32| usize::try_from(page).ok().filter(|&page| page < count);
        let mut claim = AdapterPages { pool: self.clone(), pages: Vec::with_capacity(wanted) };
        let mut rest = pages;
        let claimed = runs.iter().try_for_each(|&length| {
            let (run, behind) = rest.split_at(length);
            rest = behind;
            for (i, page) in run.iter().enumerate() {
                let found = known(page).ok_or_else(|| bad(format!("expected pages below {count}, got {page}")))?;
                if i > 0 && claim.pages.last().is_none_or(|last| last + 1 != found) {
                    return Err(bad(format!("expected a run of {length} neighbours, got {run:?}")));
                }
                let state = &mut states[found];
                if state.is_adapters || state.steps > 0 {
                    let whose = if state.is_adapters { "an adapter's" } else { "a KV block of a step in flight" };
                    return Err(bad(format!("page {page} is {whose} already")));
                }
                state.is_adapters = true;
                claim.pages.push(found);
            }
            Ok(())
        });
        // What was claimed so far is given back with the lock free.
        drop(states);
        claimed.map(|()| claim)
    }

    /// Notes the KV blocks of a step, however often each is named.
    ///
    /// # Errors
    /// `ERR_STEP_FAILED` naming a page that is an adapter's, or none.
    pub fn begin_step(self: &Arc<Self>, blocks: impl Iterator<Item = usize>) -> Result<StepPages> {
        let mut step = StepPages { pool: self.clone(), pages: Vec::new() };
        let mut states = self.lock();
        for page in blocks {
            let Some(state) = states.get_mut(page).filter(|state| !state.is_adapters) else {
                drop(states);
                return Err(Error::new(Code::StepFailed, format!("step batch: block {page} holds an adapter, or there is none")));
            };
            state.steps += 1;
            step.pages.push(page);
        }
        drop(states);
        Ok(step)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AdapterPages {
    /// The device address of each page, in the order in which they were claimed.
    pub fn addresses(&self) -> impl Iterator<Item = usize> + '_ {
        let base = self.pool.memory.ptr().addr();
        self.pages.iter().map(move |page| base + page * self.pool.page_bytes)
    }

    /// All pages' memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<DeviceBuffer> {
        &self.pool.memory
    }

    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pages.len() * self.pool.page_bytes
    }
}

impl Drop for AdapterPages {
    fn drop(&mut self) {
        let mut states = self.pool.lock();
        for &page in &self.pages {
            states[page].is_adapters = false;
        }
    }
}

impl Drop for StepPages {
    fn drop(&mut self) {
        let mut states = self.pool.lock();
        for &page in &self.pages {
            states[page].steps -= 1;
        }
    }
}

fn bad(what: String) -> Error {
    Error::new(Code::Native, format!("pages of an adapter: {what}"))
}
