// Selection without sorting: where a running total over a row's tokens, in the order of their keys, reaches a goal.
//
// Radix selection from the highest bits down, 11 at a time: a histogram of what each digit's tokens measure tells which
// digit the goal falls into. Measures are whole numbers (counts, or probability mass in fixed point), so that their sums
// have one value in whatever order threads add them.
#pragma once

#include "block_reduce.cuh"

namespace lmx {

constexpr int SELECT_THREADS = 512, DIGIT_BITS = 11, DIGITS = 1 << DIGIT_BITS;

struct SelectRoom {
  u64 bins[DIGITS];
  WarpNumbers numbers;
  u64 below;
  int place;
};

/// use(id, read(id)) for tokens 0 .. n, shared out among the block's threads; BATCH reads are on their way at a time.
template <int BATCH = 8, class Read, class Use>
__device__ __forceinline__ void each_token(int n, Read read, Use use) {
  for (int first = threadIdx.x; first < n; first += BATCH * SELECT_THREADS) {
    decltype(read(0)) values[BATCH];
#pragma unroll
    for (int i = 0; i < BATCH; ++i) {
      if (first + i * SELECT_THREADS < n) values[i] = read(first + i * SELECT_THREADS);
    }
#pragma unroll
    for (int i = 0; i < BATCH; ++i) {
      if (first + i * SELECT_THREADS < n) use(first + i * SELECT_THREADS, values[i]);
    }
  }
}

/// Finds the digit in which `goal`, at least 1 and at most the sum of all bins, is reached; what lies below is taken off it.
__device__ __forceinline__ int find_digit(SelectRoom &room, u64 &goal) {
  constexpr int EACH = DIGITS / SELECT_THREADS;
  const int warp = threadIdx.x / 32, first = threadIdx.x * EACH;
  u64 own = 0;
#pragma unroll
  for (int i = 0; i < EACH; ++i) own += room.bins[first + i];
  const u64 before = warp_before(own);
  if (threadIdx.x % 32 == 31) room.numbers.whole[warp] = before + own;
  __syncthreads();
  u64 reached = before;
  for (int w = 0; w < warp; ++w) reached += room.numbers.whole[w];
  for (int i = 0; i < EACH; ++i) {
    const u64 bin = room.bins[first + i];
    if (reached < goal && goal <= reached + bin) {
      room.place = first + i;
      room.below = reached;
    }
    reached += bin;
  }
  __syncthreads();
  goal -= room.below;
  return room.place;
}

/// The least key at which the measures of tokens 0 .. n with keys up to it add up to `goal` ≥ 1; all measures reach it.
/// `goal` becomes what the tokens of that very key must add. Keys have BITS bits.
template <int BITS, class Key, class Measure>
__device__ u64 select_key(SelectRoom &room, int n, Key key, Measure measure, u64 &goal) {
  u64 prefix = 0;
  for (int shift = BITS; shift > 0;) {
    const int above = shift;
    shift = shift > DIGIT_BITS ? shift - DIGIT_BITS : 0;
    __syncthreads();
    for (int i = threadIdx.x; i < DIGITS; i += SELECT_THREADS) room.bins[i] = 0;
    __syncthreads();
    each_token<BITS == 32 ? 8 : 1>(n, key, [&](int id, u64 k) {
      if (above < BITS && k >> above != prefix) return;
      const u64 amount = measure(id);
      if (amount > 0) atomicAdd(&room.bins[(k >> shift) & ((1u << (above - shift)) - 1)], amount);
    });
    __syncthreads();
    prefix = prefix << (above - shift) | u64(find_digit(room, goal));
  }
  return prefix;
}

/// Each warp's stretch of neighbouring tokens of 0 .. n.
__device__ __forceinline__ int stretch_length(int n) { return div_up(n, SELECT_THREADS) * 32; }
__device__ __forceinline__ int stretch_begin(int n) { return min(static_cast<int>(threadIdx.x) / 32 * stretch_length(n), n); }

/// The least id at which the measures of tokens 0 ..= id add up to `goal` ≥ 1; all measures reach it. Each warp adds up a
/// stretch of neighbouring tokens, then the one in whose stretch the goal lies looks closer.
template <class Measure>
__device__ int select_id(SelectRoom &room, int n, Measure measure, u64 goal) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first = stretch_begin(n), last = min(first + stretch_length(n), n);
  u64 own = 0;
#pragma unroll 4
  for (int id = first + lane; id < last; id += 32) own += measure(id);
  own = warp_join(own, Add());
  __syncthreads();
  if (lane == 0) room.numbers.whole[warp] = own;
  __syncthreads();
  u64 reached = 0;
  for (int w = 0; w < warp; ++w) reached += room.numbers.whole[w];
  if (reached < goal && goal <= reached + own) {
    for (int begin = first; begin < last; begin += 32) {
      const u64 amount = begin + lane < last ? measure(begin + lane) : 0;
      const u64 before = reached + warp_before(amount);
      if (before < goal && goal <= before + amount) room.place = begin + lane;
      reached += warp_join(amount, Add());
      if (reached >= goal) break;
    }
  }
  __syncthreads();
  return room.place;
}

}  // namespace lmx
