//! Pieces of memory that wait for their next user: to get fresh ones from the device's driver takes long, and to give them
//! back may stop everything that the device does.

use crate::idle::{self, Keeper};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Pieces with their bytes, oldest first; together at most so many bytes.
pub struct Spare<T> {
    most: usize,
    held: Mutex<Held<T>>,
}

struct Held<T> {
    pieces: Vec<(usize, T)>,
    /// When one was last asked for or given.
    used: Instant,
}

impl<T: Send + 'static> Spare<T> {
    /// One that [`idle::trim`] reaches.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        let spare = Arc::new(Self { most, held: Mutex::new(Held { pieces: Vec::new(), used: Instant::now() }) });
        idle::enter(&spare);
        spare
    }

    /// The smallest piece whose bytes lie within `wanted`.
    #[must_use]
    pub fn take(&self, wanted: RangeInclusive<usize>) -> Option<T> {
        let mut held = self.lock();
        held.used = Instant::now();
        let fits = held.pieces.iter().enumerate().filter(|(_, (bytes, _))| wanted.contains(bytes));
        let best = fits.min_by_key(|(_, (bytes, _))| *bytes).map(|(at, _)| at);
        best.map(|at| held.pieces.remove(at).1)
    }

    /// Keeps `piece` for the next one who asks; the oldest ones go where there are too many bytes.
    pub fn give(&self, bytes: usize, piece: T) {
        let mut leaving = Vec::new();
        let mut held = self.lock();
        held.used = Instant::now();
        held.pieces.push((bytes, piece));
        while held.pieces.iter().map(|(bytes, _)| bytes).sum::<usize>() > self.most {
            leaving.push(held.pieces.remove(0));
        }
        // Freed without the lock.
        drop(held);
    }

    /// Frees all of them.
    pub fn clear(&self) {
        let leaving = std::mem::take(&mut self.lock().pieces);
        drop(leaving);
    }

    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lock().pieces.iter().map(|(bytes, _)| bytes).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Held<T>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + 'static> Keeper for Spare<T> {
    fn spare_bytes(&self) -> usize {
        self.bytes()
    }

    fn trim(&self, kept: Duration) {
        let mut held = self.lock();
        if held.used.elapsed() < kept {
            return;
        }
        let leaving = std::mem::take(&mut held.pieces);
        drop(held);
        drop(leaving);
    }
}
