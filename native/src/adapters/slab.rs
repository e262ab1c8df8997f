//! One adapter's factors in one piece of memory: few TLB entries, one stream for the prefetchers, one copy to a device.

use crate::error::{Code, Error, Result};
use memmap2::MmapMut;

/// What vector loads and cache lines want.
const ALIGNMENT: usize = 64;

/// Collects pieces; each begins at a cache line.
#[derive(Default)]
pub struct SlabBuilder {
    bytes: Vec<u8>,
}

impl SlabBuilder {
    /// Appends `len` zero bytes and returns their offset and themselves.
    pub fn reserve(&mut self, len: usize) -> (usize, &mut [u8]) {
        let offset = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(offset + len, 0);
        (offset, &mut self.bytes[offset..])
    }

    /// # Errors
    /// `ERR_NATIVE` when the system has no memory left.
    pub fn finish(self) -> Result<Slab> {
        let fail = |e: std::io::Error| Error::new(Code::Native, format!("{} bytes for an adapter: {e}", self.bytes.len()));
        let mut map = MmapMut::map_anon(self.bytes.len().max(1)).map_err(fail)?;
        // Huge pages where the system offers them; it is a wish, so its refusal is no error.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        map[..self.bytes.len()].copy_from_slice(&self.bytes);
        Ok(Slab(map))
    }
}

/// Immutable bytes, page-aligned.
pub struct Slab(MmapMut);

impl Slab {
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}
