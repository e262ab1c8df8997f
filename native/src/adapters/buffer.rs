//! Anonymous memory that is used again: fresh pages cost more than what a load does with them.

use memmap2::MmapMut;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Mappings that nobody uses, oldest first.
static SPARE: Mutex<Vec<MmapMut>> = Mutex::new(Vec::new());
/// Most bytes that lie spare: file and packed form of a large adapter. What comes on top goes back to the system at once.
const MAX_SPARE_BYTES: usize = 128 << 20;
const PAGE_BYTES: usize = 4096;

/// Page-aligned bytes of its own length, which lie spare once dropped.
pub struct Buffer {
    map: Option<MmapMut>,
    len: usize,
}

impl Buffer {
    /// `len` bytes of any content: an earlier user's, or zeros.
    ///
    /// # Errors
    /// When the system has no memory left.
    pub fn take(len: usize) -> std::io::Result<Self> {
        let wanted = len.max(1).next_multiple_of(PAGE_BYTES);
        // A little waste is cheaper than fresh pages; it is not counted as anyone's memory, so it must stay little.
        let most = wanted + wanted / 8;
        let mut spare = lock();
        let fits = |(_, map): &(usize, &MmapMut)| (wanted..=most).contains(&map.len());
        let best = spare.iter().enumerate().filter(fits).min_by_key(|(_, map)| map.len()).map(|(at, _)| at);
        let found = best.map(|at| spare.remove(at));
        drop(spare);
        let map = if let Some(map) = found {
            map
        } else {
            let map = MmapMut::map_anon(wanted)?;
            // Huge pages where the system offers them; it is a wish, so its refusal is no error.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            map
        };
        Ok(Self { map: Some(map), len })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(map) = self.map.take().filter(|map| map.len() <= MAX_SPARE_BYTES) else { return };
        let mut leaving = Vec::new();
        let mut spare = lock();
        spare.push(map);
        while spare.iter().map(|map| map.len()).sum::<usize>() > MAX_SPARE_BYTES {
            leaving.push(spare.remove(0));
        }
        // Unmapped without the lock.
        drop(spare);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_ref().map_or(&[], |map| &map[..self.len])
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.map.as_mut().map_or(&mut [], |map| &mut map[..self.len])
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Gives what lies spare back to the system.
pub fn trim() {
    let spare = std::mem::take(&mut *lock());
    drop(spare);
}

/// Bytes that lie spare.
#[must_use]
pub fn spare_bytes() -> usize {
    lock().iter().map(|map| map.len()).sum()
}

fn lock() -> MutexGuard<'static, Vec<MmapMut>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}
