//! A counter-based generator: what is drawn depends on (seed, choice, position) and on nothing that came before, so
//! batching, preemption and recomputation change no sample.

/// One step of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A double in [0, 1) with 53 random bits.
#[must_use]
pub fn uniform(seed: u64, choice: u32, position: u32) -> f64 {
    let bits = mix(mix(seed) ^ (u64::from(choice) << 32 | u64::from(position)));
    #[allow(clippy::cast_precision_loss)]
    let value = (bits >> 11) as f64 / (1u64 << 53) as f64;
    value
}
