// native/src/sampler/rng.rs on the GPU: what is drawn depends on (seed, choice, position) alone.
#pragma once

#include "common.cuh"

namespace lmx {

/// One step of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
__host__ __device__ __forceinline__ uint64_t mix(uint64_t z) {
  z += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// A double in [0, 1) with 53 random bits.
__host__ __device__ __forceinline__ double uniform(uint64_t seed, uint32_t choice, uint32_t position) {
  const uint64_t bits = mix(mix(seed) ^ (uint64_t(choice) << 32 | position));
  return double(bits >> 11) / 9007199254740992.0;
}

}  // namespace lmx
