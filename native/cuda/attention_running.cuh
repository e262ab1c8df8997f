// A warp's online softmax over keys and values (arXiv 1805.02867): LANES lanes hold one position's key, eight numbers each;
// 32 / LANES positions side by side, each group of lanes with its own running sums until merge_lanes.
#pragma once

#include "attention.cuh"

namespace lmx {

/// Eight neighbouring numbers.
template <class T>
struct Eight {
  Vector<T> part[8 / VECTOR<T>];
};
template <class T>
__device__ __forceinline__ Eight<T> load_eight(const T *from) {
  Eight<T> eight;
#pragma unroll
  for (int i = 0; i < 8 / VECTOR<T>; ++i) eight.part[i] = load_vector(from + i * VECTOR<T>);
  return eight;
}
template <class T>
__device__ __forceinline__ float number(const Eight<T> &eight, int i) {
  return to_float(eight.part[i / VECTOR<T>].at[i % VECTOR<T>]);
}

/// What one group of lanes, or all of them, has seen of a part: Σ e^(score − most) · value, and Σ e^(score − most).
template <int HEADS>
struct Running {
  float most[HEADS], total[HEADS], sums[HEADS][8];
};

/// Factor that brings sums relative to `from` to `to` ≥ from; nothing was added while `from` is −∞.
__device__ __forceinline__ float rescale(float from, float to) { return from == to ? 1.0f : exp2f(from - to); }

template <int HEADS>
__device__ __forceinline__ void merge_lanes(Running<HEADS> &own, int apart) {
#pragma unroll
  for (int h = 0; h < HEADS; ++h) {
    const float other = __shfl_xor_sync(ALL_LANES, own.most[h], apart);
    const float most = fmaxf(own.most[h], other);
    const float mine = rescale(own.most[h], most), theirs = rescale(other, most);
    own.most[h] = most;
    own.total[h] = own.total[h] * mine + __shfl_xor_sync(ALL_LANES, own.total[h], apart) * theirs;
#pragma unroll
    for (int i = 0; i < 8; ++i) own.sums[h][i] = own.sums[h][i] * mine + __shfl_xor_sync(ALL_LANES, own.sums[h][i], apart) * theirs;
  }
}

/// Adds positions first + lane / LANES + 0, 32 / LANES, … to what a lane has seen; those outside begin .. end count nothing.
/// `keys` and `values` are the lane's numbers of slot 0, `blocks` the blocks from position `stretch` on.
template <class T, int LANES, int HEADS, int UNROLL>
__device__ __forceinline__ void see(Running<HEADS> &own, const float (&queries)[HEADS][LANES * 8], const T *keys, const T *values,
                                    const int32_t *blocks, int stretch, int first, int begin, int end, const lmx_attention &call) {
  const int lane = threadIdx.x % 32, column = lane % LANES * 8;
  Eight<T> k[UNROLL], v[UNROLL];
  bool seen[UNROLL];
#pragma unroll
  for (int u = 0; u < UNROLL; ++u) {
    const int position = first + u * (32 / LANES) + lane / LANES;
    seen[u] = position >= begin && position < end;
    k[u] = v[u] = Eight<T>{};
    if (seen[u] && column < call.dim) {
      const size_t at = slot_offset(blocks[(position - stretch) / LMX_BLOCK], 0, position % LMX_BLOCK, call);
      k[u] = load_eight(keys + at);
      v[u] = load_eight(values + at);
    }
  }
  float weights[UNROLL][HEADS];
#pragma unroll
  for (int u = 0; u < UNROLL; ++u) {
    float key[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) key[i] = number(k[u], i);
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
      float sum = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += queries[h][column + i] * key[i];
      sum = group_sum(sum, LANES);
      weights[u][h] = seen[u] ? sum : -INFINITY;
    }
  }
#pragma unroll
  for (int h = 0; h < HEADS; ++h) {
    float most = own.most[h];
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) most = fmaxf(most, weights[u][h]);
    const float kept = rescale(own.most[h], most);
    own.most[h] = most;
    own.total[h] *= kept;
#pragma unroll
    for (int i = 0; i < 8; ++i) own.sums[h][i] *= kept;
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
      weights[u][h] = seen[u] ? exp2f(weights[u][h] - most) : 0.0f;
      own.total[h] += weights[u][h];
    }
  }
#pragma unroll
  for (int u = 0; u < UNROLL; ++u) {
    float value[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] = number(v[u], i);
#pragma unroll
    for (int h = 0; h < HEADS; ++h)
#pragma unroll
      for (int i = 0; i < 8; ++i) own.sums[h][i] += weights[u][h] * value[i];
  }
}

}  // namespace lmx
