// CUDA C++ for g++: what the kernels of this project use of the language and of the runtime, on the CPU. Same names, own
// text; the meaning is that of the CUDA C++ Programming Guide. Stricter where a GPU would go on with undefined values.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// Blocks of one host thread run one after another.
#define __shared__ static thread_local
#define __constant__ static

// ---- types ----------------------------------------------------------------------------------------------------------

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
#define LMX_VECTORS(type, name)                                    \
  struct alignas(2 * sizeof(type)) name##2 { type x, y; };         \
  struct alignas(16) name##4 { type x, y, z, w; };                 \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; } \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
LMX_VECTORS(float, float)
LMX_VECTORS(int, int)
LMX_VECTORS(unsigned, uint)
#undef LMX_VECTORS

// GNU's __thread has no initialisation to check at each use, which thread_local of another file has.
extern __thread uint3 threadIdx, blockIdx;
extern __thread dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// ---- meeting points ---------------------------------------------------------------------------------------------------
// The place is the caller's: GCC and Clang evaluate these defaults there.

#define LMX_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(LMX_HERE) { lmx_emulator::meet_block({file, line}); }
inline void __syncwarp(unsigned mask = 0xffffffffu, LMX_HERE) {
  lmx_emulator::meet_warp({file, line}, mask, nullptr, [](void *const *, unsigned) {});
}

namespace lmx_emulator {

template <class T>
struct Shuffle {
  T value, result;
  int from;
};

/// Every lane gets the value of lane `from`, which must take part.
template <class T>
T shuffle(Place place, unsigned mask, T value, int from) {
  Shuffle<T> mine{value, value, from};
  meet_warp(place, mask, &mine, [](void *const *lanes, unsigned) {
    for (int lane = 0; lane < 32; ++lane) {
      auto *to = static_cast<Shuffle<T> *>(lanes[lane]);
      if (to == nullptr) continue;
      auto *of = static_cast<Shuffle<T> *>(lanes[to->from]);
      if (of == nullptr) fail("a shuffle of lane %d reads lane %d, which takes no part", lane, to->from);
      to->result = of->value;
    }
  });
  return mine.result;
}

struct Vote {
  bool mine;
  unsigned all;
};

/// The lanes whose predicate is true.
inline unsigned vote(Place place, unsigned mask, bool predicate) {
  Vote mine{predicate, 0};
  meet_warp(place, mask, &mine, [](void *const *lanes, unsigned) {
    unsigned bits = 0;
    for (int lane = 0; lane < 32; ++lane) {
      if (lanes[lane] != nullptr && static_cast<Vote *>(lanes[lane])->mine) bits |= 1u << lane;
    }
    for (int lane = 0; lane < 32; ++lane) {
      if (lanes[lane] != nullptr) static_cast<Vote *>(lanes[lane])->all = bits;
    }
  });
  return mine.all;
}

inline int lane_id() { return static_cast<int>((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32); }
/// The bounds of this lane's part of a warp cut into parts of `width` lanes.
inline int part_begin(int width) { return lane_id() / width * width; }

}  // namespace lmx_emulator

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, LMX_HERE) {
  return lmx_emulator::shuffle({file, line}, mask, value, lmx_emulator::part_begin(width) + (from & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, LMX_HERE) {
  const int lane = lmx_emulator::lane_id(), from = lane ^ bits;
  return lmx_emulator::shuffle({file, line}, mask, value, from < lmx_emulator::part_begin(width) + width ? from : lane);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, LMX_HERE) {
  const int lane = lmx_emulator::lane_id(), from = lane + static_cast<int>(by);
  return lmx_emulator::shuffle({file, line}, mask, value, from < lmx_emulator::part_begin(width) + width ? from : lane);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, LMX_HERE) {
  const int lane = lmx_emulator::lane_id(), from = lane - static_cast<int>(by);
  return lmx_emulator::shuffle({file, line}, mask, value, from >= lmx_emulator::part_begin(width) ? from : lane);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, LMX_HERE) {
  return lmx_emulator::vote({file, line}, mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate, LMX_HERE) {
  return lmx_emulator::vote({file, line}, mask, predicate != 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate, LMX_HERE) {
  return lmx_emulator::vote({file, line}, mask, predicate == 0) == 0;
}
inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- arithmetic -------------------------------------------------------------------------------------------------------

template <class T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}
template <class T>
T __ldg(const T *p) {
  return *p;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
template <class To, class From>
To lmx_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
inline unsigned __float_as_uint(float x) { return lmx_bits<unsigned>(x); }
inline int __float_as_int(float x) { return lmx_bits<int>(x); }
inline float __uint_as_float(unsigned x) { return lmx_bits<float>(x); }
inline float __int_as_float(int x) { return lmx_bits<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}

// Threads change at meeting points only, so plain reads and writes are atomic.
#define LMX_ATOMIC(name, result)  \
  template <class T>              \
  T name(T *at, T value) {        \
    const T old = *at;            \
    *at = static_cast<T>(result); \
    return old;                   \
  }
LMX_ATOMIC(atomicAdd, old + value)
LMX_ATOMIC(atomicMax, old < value ? value : old)
LMX_ATOMIC(atomicMin, value < old ? value : old)
LMX_ATOMIC(atomicOr, old | value)
LMX_ATOMIC(atomicExch, value)
#undef LMX_ATOMIC
template <class T>
T atomicCAS(T *at, T expected, T value) {
  const T old = *at;
  if (old == expected) *at = value;
  return old;
}

#include "runtime.h"
