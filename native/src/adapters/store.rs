//! Resident adapters by handle. A step holds its own references, so releasing never pulls memory from under it.

use super::resident::Adapter;
use crate::error::{Code, Error, Result};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// An adapter that steps may use, wherever its numbers lie.
pub trait Resident {
    /// Never used before.
    fn handle(&self) -> u32;
    /// What it takes where it lies.
    fn bytes(&self) -> usize;
    /// Cannot be summed with others, nor weighted.
    fn stands_alone(&self) -> bool;
}

/// All adapters of one engine.
pub struct AdapterStore<A = Adapter> {
    next: AtomicU32,
    adapters: Mutex<HashMap<u32, Arc<A>>>,
    /// Released but perhaps still read by a step.
    leaving: Mutex<Vec<Weak<A>>>,
    resident_bytes: AtomicUsize,
}

impl<A> Default for AdapterStore<A> {
    fn default() -> Self {
        Self { next: AtomicU32::default(), adapters: Mutex::default(), leaving: Mutex::default(), resident_bytes: AtomicUsize::default() }
    }
}

impl<A: Resident> AdapterStore<A> {
    /// A handle never used before.
    pub fn next_handle(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub fn insert(&self, adapter: Arc<A>) {
        self.resident_bytes.fetch_add(adapter.bytes(), Ordering::Relaxed);
        lock(&self.adapters).insert(adapter.handle(), adapter);
    }

    /// # Errors
    /// `ERR_STEP_FAILED` for a handle that is not resident.
    pub fn get(&self, handle: u32) -> Result<Arc<A>> {
        lock(&self.adapters).get(&handle).cloned().ok_or_else(|| {
            Error::new(Code::StepFailed, format!("adapter handle {handle} is not resident: it was released before its rows ended"))
        })
    }

    /// Forgets an adapter and gives it back; harmless when it is not there.
    pub fn release(&self, handle: u32) -> Option<Arc<A>> {
        let adapter = lock(&self.adapters).remove(&handle)?;
        self.resident_bytes.fetch_sub(adapter.bytes(), Ordering::Relaxed);
        let mut leaving = lock(&self.leaving);
        leaving.retain(|weak| weak.strong_count() > 0);
        leaving.push(Arc::downgrade(&adapter));
        Some(adapter)
    }

    /// Forgets all: the engine is closing.
    pub fn clear(&self) {
        let handles: Vec<_> = lock(&self.adapters).keys().copied().collect();
        for handle in handles {
            self.release(handle);
        }
    }

    /// Bytes and number of adapters whose memory is not freed yet, released ones included.
    #[must_use]
    pub fn memory(&self) -> (usize, usize) {
        let count = lock(&self.adapters).len();
        let leaving: Vec<_> = lock(&self.leaving).iter().filter_map(Weak::upgrade).map(|a| a.bytes()).collect();
        (self.resident_bytes.load(Ordering::Relaxed) + leaving.iter().sum::<usize>(), count + leaving.len())
    }
}

/// Locks whatever happened to earlier holders: the maps stay consistent between statements.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
