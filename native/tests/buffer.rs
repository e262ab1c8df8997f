//! Memory that lies spare: used again, bounded, given back.
#![allow(clippy::unwrap_used, reason = "test code: a failure is a panic")]

use loramux_native::adapters::buffer::{Buffer, spare_bytes, trim};

const MIB: usize = 1 << 20;

/// One test: what lies spare is the process's.
#[test]
fn memory_is_used_again_within_bounds() {
    let mut first = Buffer::take(MIB).unwrap();
    assert!(first.iter().all(|&byte| byte == 0));
    first.fill(7);
    let address = first.as_ptr();
    assert_eq!(spare_bytes(), 0);
    drop(first);
    assert_eq!(spare_bytes(), MIB);

    let larger = Buffer::take(2 * MIB).unwrap();
    assert_eq!((larger.len(), spare_bytes()), (2 * MIB, MIB), "too small for it");
    let much_smaller = Buffer::take(MIB / 2).unwrap();
    assert_eq!((much_smaller.len(), spare_bytes()), (MIB / 2, MIB), "half of it would be wasted");
    let again = Buffer::take(MIB - 10).unwrap();
    assert_eq!((again.as_ptr(), again.len(), spare_bytes()), (address, MIB - 10, 0));

    drop((larger, much_smaller, again));
    trim();
    assert_eq!(spare_bytes(), 0);
    assert!(Buffer::take(0).unwrap().is_empty());

    let many: Vec<Buffer> = (0..200).map(|_| Buffer::take(MIB).unwrap()).collect();
    drop(many);
    assert_eq!(spare_bytes(), 128 * MIB);
    drop(Buffer::take(200 * MIB).unwrap());
    assert_eq!(spare_bytes(), 128 * MIB, "one beyond the bound goes at once");
    trim();
}
