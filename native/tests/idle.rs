//! Memory that lies spare goes when nobody wants it.
#![allow(clippy::unwrap_used, reason = "test code")]

use loramux_native::idle::{self, Keeper};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

struct Fake {
    bytes: AtomicUsize,
    asked: Mutex<Vec<Duration>>,
}

impl Keeper for Fake {
    fn spare_bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn trim(&self, kept: Duration) {
        self.asked.lock().unwrap().push(kept);
        self.bytes.store(0, Ordering::Relaxed);
    }
}

#[test]
fn every_keeper_that_lives_is_asked() {
    let fake = |bytes| Arc::new(Fake { bytes: AtomicUsize::new(bytes), asked: Mutex::default() });
    let (first, second) = (fake(3), fake(4));
    idle::enter(&first);
    idle::enter(&second);
    assert_eq!(idle::spare_bytes(), 7);
    drop(first);
    assert_eq!(idle::spare_bytes(), 4);
    idle::trim(Duration::from_secs(5));
    assert_eq!((idle::spare_bytes(), second.asked.lock().unwrap().clone()), (0, vec![Duration::from_secs(5)]));
}
