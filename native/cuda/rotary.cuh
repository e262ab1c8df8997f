// Rotary positions in the halves layout, pairs (r, r + dim / 2), four pairs at a time (RoFormer, arXiv 2104.09864).
#pragma once

#include "common.cuh"

namespace lmx {

/// Four neighbouring numbers.
template <class T>
struct alignas(4 * sizeof(T)) Quad {
  T at[4];
};

/// Numbers 4 · piece .. 4 · piece + 4 of both halves of a head.
struct Pairs {
  float low[4], high[4];
};

template <class T>
__device__ __forceinline__ Pairs load_pairs(const T *head, int dim, int piece) {
  const Quad<T> low = *reinterpret_cast<const Quad<T> *>(head + piece * 4);
  const Quad<T> high = *reinterpret_cast<const Quad<T> *>(head + dim / 2 + piece * 4);
  Pairs pairs;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    pairs.low[i] = to_float(low.at[i]);
    pairs.high[i] = to_float(high.at[i]);
  }
  return pairs;
}

template <class T>
__device__ __forceinline__ void store_pairs(T *head, int dim, int piece, const Pairs &pairs) {
  Quad<T> low, high;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    low.at[i] = from_float<T>(pairs.low[i]);
    high.at[i] = from_float<T>(pairs.high[i]);
  }
  *reinterpret_cast<Quad<T> *>(head + piece * 4) = low;
  *reinterpret_cast<Quad<T> *>(head + dim / 2 + piece * 4) = high;
}

/// Turned by the angles of `position`; cos and sin f32 [positions, dim / 2].
__device__ __forceinline__ Pairs rotate(const Pairs &from, const float *cos, const float *sin, int position, int dim, int piece) {
  const size_t at = static_cast<size_t>(position) * (dim / 2) + piece * 4;
  const Quad<float> c = *reinterpret_cast<const Quad<float> *>(cos + at), s = *reinterpret_cast<const Quad<float> *>(sin + at);
  Pairs to;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to.low[i] = from.low[i] * c.at[i] - from.high[i] * s.at[i];
    to.high[i] = from.high[i] * c.at[i] + from.low[i] * s.at[i];
  }
  return to;
}

}  // namespace lmx
