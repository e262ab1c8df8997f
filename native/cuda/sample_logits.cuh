// A row's logits: how they rank, what they weigh, and what the row's wishes make of them before anything is drawn.
#pragma once

#include "select.cuh"

namespace lmx {

/// A number that falls where the logit, which is not NaN, rises; both zeros are equal.
__device__ __forceinline__ uint32_t falling(float logit) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  return bits >> 31 ? bits : ~bits & 0x7fffffffu;
}

__device__ __forceinline__ float unless_nan(float logit) { return logit == logit ? logit : -INFINITY; }

/// e^(logit − highest), and 1 for the highest itself where it is infinite.
__device__ __forceinline__ double weight_of(float logit, float highest) {
  if (logit == highest) return 1.0;
  return logit == -INFINITY ? 0.0 : exp(double(logit - highest));
}

/// The model's own logits of one row.
template <class T>
struct OwnLogits {
  const T *data;
  __device__ float operator()(int id) const { return unless_nan(to_float(data[id])); }
};

struct ProcessedLogits {
  const float *data;
  __device__ float operator()(int id) const { return data[id]; }
};

/// What a look over a row's logits shows.
struct Overview {
  float highest; // −∞: there is no token
  int likeliest; // the lowest id among equals
  int possible;  // tokens above −∞
};

template <class Logits>
__device__ Overview look_over(SelectRoom &room, int n, Logits logits) {
  u64 first = ~u64(0), possible = 0;
  each_token(n, logits, [&](int id, float logit) {
    first = Least()(first, u64(falling(logit)) << 32 | unsigned(id));
    if (logit > -INFINITY) ++possible;
  });
  first = block_join(first, Least(), room.numbers);
  possible = block_join(possible, Add(), room.numbers);
  const int likeliest = int(first & 0xffffffffu);
  return {logits(likeliest), likeliest, int(possible)};
}

/// Whether logits change before the temperature.
__device__ __forceinline__ bool adjusts(const lmx_row_sampling &row) { return row.counted > 0 || row.biases > 0 || row.banned > 0 || row.mask >= 0; }

/// processed [n] = own logits, NaN as −∞, after penalties (CTRL, arXiv 1909.05858, then presence and frequency, in double
/// precision), bias, what is forbidden, and the temperature unless the row is greedy.
template <class T>
__device__ void process(const lmx_sampling &call, const lmx_row_sampling &row, int n, OwnLogits<T> own, float *processed) {
  each_token(n, own, [&](int id, float logit) { processed[id] = logit; });
  __syncthreads();
  for (int i = threadIdx.x; i < row.counted; i += SELECT_THREADS) {
    const lmx_counted_token token = call.counted[row.first_counted + i];
    if (token.id >= unsigned(n)) continue;
    const float logit = processed[token.id];
    const float repeated = logit > 0 ? logit / token.repetition : logit * token.repetition;
    processed[token.id] = float(double(repeated) - token.subtract);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < row.biases; i += SELECT_THREADS) {
    const uint32_t id = call.bias_ids[row.first_bias + i];
    if (id < unsigned(n)) processed[id] += call.bias_values[row.first_bias + i];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < row.banned; i += SELECT_THREADS) {
    const uint32_t id = call.banned_ids[row.first_banned + i];
    if (id < unsigned(n)) processed[id] = -INFINITY;
  }
  __syncthreads();
  const uint32_t *mask = row.mask < 0 ? nullptr : call.masks + size_t(row.mask) * ((call.vocab + 31) / 32);
  const float temperature = row.greedy ? 1.0f : row.temperature;
  const auto final = [&](int id) {
    const bool allowed = mask == nullptr || (mask[id / 32] >> id % 32 & 1) != 0;
    return allowed ? processed[id] / temperature : -INFINITY;
  };
  each_token(n, final, [&](int id, float logit) { processed[id] = logit; });
  __syncthreads();
}

}  // namespace lmx
