//! Values that are their bytes: what tables are written from.

use super::abi;

/// A type that may be copied to a device byte by byte.
///
/// # Safety
/// It has no padding: each of its bytes is initialised.
pub unsafe trait Plain: Copy {}

// SAFETY: a number.
unsafe impl Plain for i32 {}
// SAFETY: a number.
unsafe impl Plain for i64 {}
// SAFETY: an address.
unsafe impl<T> Plain for *const T {}
// SAFETY: 4 addresses, 4 × 4 bytes.
unsafe impl Plain for abi::Part {}
// SAFETY: 3 addresses, 4 × 4 bytes.
unsafe impl Plain for abi::SiteDelta {}
// SAFETY: 2 addresses; embedding (3 addresses, 4 × 4 bytes); rows (2 addresses, 2 × 4 bytes) twice; 2 × 4 bytes.
unsafe impl Plain for abi::Adapter {}
// SAFETY: 1 address, 2 × 4 bytes.
unsafe impl Plain for abi::Term {}
// SAFETY: 4 × 4 bytes.
unsafe impl Plain for abi::Tile {}
// SAFETY: 4 × 4 bytes.
unsafe impl Plain for abi::QueryTile {}
// SAFETY: 9 × 4 bytes.
unsafe impl Plain for abi::Counts {}
const _: () = assert!(size_of::<usize>() == 8, "tables hold the device's 64-bit addresses");

/// Writes `values` at byte `offset` of `memory`, which has room for them.
pub fn put<T: Plain>(memory: &mut [u8], offset: usize, values: &[T]) {
    let place = &mut memory[offset..offset + size_of_val(values)];
    // SAFETY: as many bytes, all of them initialised.
    unsafe { place.as_mut_ptr().copy_from_nonoverlapping(values.as_ptr().cast(), place.len()) };
}
