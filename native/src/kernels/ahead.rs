//! Factors that a kernel asks memory for before it reads them.

use super::simd::Simd;

/// How far ahead of its reads a kernel asks for weights: one thread then reads 37 GB/s where it read 27 with 1 KiB (AVX-512, 33 GB/s
/// plain). What it asks for behind the end of a site is the adapter's next site.
pub const PREFETCH_BYTES: usize = 8192;
const CACHE_LINE: usize = 64;

/// Memory that is read one piece after another: behind `from` comes what lies at `to`; null where that is not known.
#[derive(Clone, Copy)]
pub struct Jump {
    pub from: *const u8,
    pub to: *const u8,
}

impl Jump {
    pub const NONE: Self = Self { from: std::ptr::null(), to: std::ptr::null() };

    /// Where a reader that moves on from `p` by `bytes` comes to.
    pub fn over(self, p: *const u8, bytes: usize) -> *const u8 {
        let ahead = p.wrapping_add(bytes);
        if self.to.is_null() || ahead < self.from { ahead } else { self.to.wrapping_add(ahead.addr() - self.from.addr()) }
    }
}

/// Asks for as much of `bytes` as kernels ask for ahead of their reads.
pub fn ask_for(bytes: &[u8]) {
    ask_for_slice(&bytes[..bytes.len().min(PREFETCH_BYTES)]);
}

pub fn ask_for_value<T>(value: &T) {
    ask_for_slice(std::slice::from_ref(value));
}

/// Asks for all lines of `values`.
pub fn ask_for_slice<T>(values: &[T]) {
    let first = values.as_ptr().cast::<u8>();
    for at in (0..size_of_val(values)).step_by(CACHE_LINE) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE is part of x86-64; nothing need be readable there.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(first.wrapping_add(at).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = first.wrapping_add(at);
    }
}

/// Asks for the lines that lie `PREFETCH_BYTES` behind `p .. p + bytes`.
///
/// # Safety
/// The CPU has `S`; nothing need be readable there.
#[inline(always)]
pub unsafe fn prefetch_behind<S: Simd>(p: *const u8, bytes: usize) {
    for line in 0..bytes.div_ceil(CACHE_LINE) {
        // SAFETY: passed on from the caller.
        unsafe { S::prefetch(p.wrapping_add(PREFETCH_BYTES + line * CACHE_LINE)) };
    }
}

#[cfg(test)]
mod tests {
    use super::Jump;

    #[test]
    fn what_lies_behind_a_piece_is_asked_for_where_the_next_begins() {
        let (piece, next) = ([0u8; 100], [0u8; 100]);
        let jump = Jump { from: piece.as_ptr_range().end, to: next.as_ptr() };
        assert_eq!(jump.over(piece.as_ptr(), 99), &raw const piece[99]);
        assert_eq!(jump.over(piece.as_ptr(), 100), next.as_ptr());
        assert_eq!(jump.over(&raw const piece[60], 70), &raw const next[30]);
        assert_eq!(Jump::NONE.over(piece.as_ptr(), 130), piece.as_ptr().wrapping_add(130));
    }
}
