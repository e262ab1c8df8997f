//! Memory that lies spare between uses: given back once nobody has asked for any for a while.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// Someone who keeps memory for the next use.
pub trait Keeper: Send + Sync {
    /// Bytes that lie spare.
    fn spare_bytes(&self) -> usize;

    /// Gives them back unless some were taken or given within `kept`.
    fn trim(&self, kept: Duration);
}

/// All of this process that live.
static KEEPERS: Mutex<Vec<Weak<dyn Keeper>>> = Mutex::new(Vec::new());

/// From now on [`trim`] reaches `keeper`, as long as it lives.
pub fn enter<K: Keeper + 'static>(keeper: &Arc<K>) {
    let weak: Weak<K> = Arc::downgrade(keeper);
    let mut keepers = KEEPERS.lock().unwrap_or_else(PoisonError::into_inner);
    keepers.retain(|keeper| keeper.strong_count() > 0);
    keepers.push(weak);
}

/// Bytes that lie spare, all together.
#[must_use]
pub fn spare_bytes() -> usize {
    living().iter().map(|keeper| keeper.spare_bytes()).sum()
}

/// Has every keeper give back what nobody wanted within `kept`.
pub fn trim(kept: Duration) {
    for keeper in living() {
        keeper.trim(kept);
    }
}

fn living() -> Vec<Arc<dyn Keeper>> {
    KEEPERS.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect()
}
