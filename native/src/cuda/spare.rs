//! Pieces of memory that wait for their next user: to get fresh ones from the device's driver takes long, and to give them
//! back may stop everything that the device does.

use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Pieces with their bytes, oldest first; together at most so many bytes.
pub struct Spare<T> {
    most: usize,
    pieces: Mutex<Vec<(usize, T)>>,
}

impl<T> Spare<T> {
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, pieces: Mutex::default() }
    }

    /// The smallest piece whose bytes lie within `wanted`.
    #[must_use]
    pub fn take(&self, wanted: RangeInclusive<usize>) -> Option<T> {
        let mut pieces = self.lock();
        let fits = pieces.iter().enumerate().filter(|(_, (bytes, _))| wanted.contains(bytes));
        let best = fits.min_by_key(|(_, (bytes, _))| *bytes).map(|(at, _)| at);
        best.map(|at| pieces.remove(at).1)
    }

    /// Keeps `piece` for the next one who asks; the oldest ones go where there are too many bytes.
    pub fn give(&self, bytes: usize, piece: T) {
        let mut leaving = Vec::new();
        let mut pieces = self.lock();
        pieces.push((bytes, piece));
        while pieces.iter().map(|(bytes, _)| bytes).sum::<usize>() > self.most {
            leaving.push(pieces.remove(0));
        }
        // Freed without the lock.
        drop(pieces);
    }

    /// Frees all of them.
    pub fn clear(&self) {
        let leaving = std::mem::take(&mut *self.lock());
        drop(leaving);
    }

    #[must_use]
    pub fn bytes(&self) -> usize {
        self.lock().iter().map(|(bytes, _)| bytes).sum()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(usize, T)>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
