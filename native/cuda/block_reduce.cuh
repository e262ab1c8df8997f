// Sums and extremes over a block of threads. Every thread gets the result; the order of additions is fixed.
#pragma once

#include "common.cuh"

namespace lmx {

using u64 = unsigned long long;

/// Room in shared memory for one number of each warp.
struct WarpNumbers {
  u64 whole[32];
  double real[32];
};

__device__ __forceinline__ u64 *numbers_of(WarpNumbers &room, u64) { return room.whole; }
__device__ __forceinline__ double *numbers_of(WarpNumbers &room, double) { return room.real; }

struct Add {
  template <class N>
  __device__ N operator()(N a, N b) const { return a + b; }
};
struct Least {
  __device__ u64 operator()(u64 a, u64 b) const { return a < b ? a : b; }
};

template <class N, class Join>
__device__ __forceinline__ N warp_join(N own, Join join) {
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) own = join(own, __shfl_xor_sync(ALL_LANES, own, apart));
  return own;
}

/// All threads of the block call it; its size is a multiple of 32.
template <class N, class Join>
__device__ __forceinline__ N block_join(N own, Join join, WarpNumbers &room) {
  N *numbers = numbers_of(room, N());
  own = warp_join(own, join);
  __syncthreads(); // the last call's numbers have been read
  if (threadIdx.x % 32 == 0) numbers[threadIdx.x / 32] = own;
  __syncthreads();
  N all = numbers[0];
  for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) all = join(all, numbers[warp]);
  return all;
}

/// Sum of `own` over the lanes before this one.
__device__ __forceinline__ u64 warp_before(u64 own) {
  const unsigned lane = threadIdx.x % 32;
  u64 sum = own;
#pragma unroll
  for (unsigned apart = 1; apart < 32; apart *= 2) {
    const u64 other = __shfl_up_sync(ALL_LANES, sum, apart);
    if (lane >= apart) sum += other;
  }
  return sum - own;
}

}  // namespace lmx
