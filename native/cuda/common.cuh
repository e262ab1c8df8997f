// What all kernels share: launches, numbers of three types, 16-byte accesses, sums over a warp.
// Compiled by nvcc, and by g++ over emulator/ (LMX_EMULATED).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "loramux_cuda.h"

namespace lmx {

constexpr unsigned ALL_LANES = 0xffffffffu;
/// Of one module of an adapter.
constexpr int MOST_RANK = 256;

/// Of the calling thread's device.
inline cudaError_t device_attribute(cudaDeviceAttr attribute, int &value) {
  int device = 0;
  const cudaError_t error = cudaGetDevice(&device);
  return error == cudaSuccess ? cudaDeviceGetAttribute(&value, attribute, device) : error;
}

// ---- launches -----------------------------------------------------------------------------------------------------------

struct Shape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
  /// Programmatic dependent launch (sm_90): may begin before the launch ahead of it on the stream has ended, and calls
  /// wait_for_launch_ahead before it reads what that one writes. Elsewhere it begins after it.
  bool overlaps = false;
};

#if defined(LMX_EMULATED)

/// Queues kernel(args…) on `stream`; an empty grid is no launch.
template <class... Params, class... Args>
cudaError_t launch(void (*kernel)(Params...), const Shape &shape, cudaStream_t, Args... args) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return cudaSuccess;
  auto thread = [&] { kernel(static_cast<Params>(args)...); };
  using Thread = decltype(thread);
  return lmx_emulator::run_grid(
      shape.grid, shape.block, shape.shared_bytes, [](void *body) { (*static_cast<Thread *>(body))(); }, &thread);
}

/// `name` points to the launch's shared_bytes, 16-byte aligned. Once in a kernel.
#define LMX_SHARED(type, name) type *const name = static_cast<type *>(lmx_emulator::dynamic_shared())

inline void wait_for_launch_ahead() {}
inline void let_next_launch_begin() {}

#else

template <class... Params, class... Args>
cudaError_t launch(void (*kernel)(Params...), const Shape &shape, cudaStream_t stream, Args... args) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return cudaSuccess;
  if (shape.shared_bytes > 48 << 10) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute attribute = {};
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  if (shape.overlaps) {
    int major = 0;
    const cudaError_t error = device_attribute(cudaDevAttrComputeCapabilityMajor, major);
    if (error != cudaSuccess) return error;
    if (major >= 9) {
      attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attribute.val.programmaticStreamSerializationAllowed = 1;
      config.attrs = &attribute;
      config.numAttrs = 1;
    }
  }
  return cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
}

#define LMX_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char lmx_shared[]; \
  type *const name = reinterpret_cast<type *>(lmx_shared)

/// What the launch ahead wrote is visible afterwards.
__device__ __forceinline__ void wait_for_launch_ahead() {
#if __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}
/// The next launch may begin once every block has called this or ended.
__device__ __forceinline__ void let_next_launch_begin() {
#if __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

#endif

// ---- numbers ------------------------------------------------------------------------------------------------------------

template <class T>
struct Type {
  using type = T;
};

/// f(Type<T>) for an LMX_F32, LMX_F16 or LMX_BF16; other numbers are cudaErrorInvalidValue.
template <class F>
lmx_status with_dtype(int32_t dtype, F f) {
  switch (dtype) {
    case LMX_F32:
      return f(Type<float>{});
    case LMX_F16:
      return f(Type<__half>{});
    case LMX_BF16:
      return f(Type<__nv_bfloat16>{});
    default:
      return cudaErrorInvalidValue;
  }
}

/// f(p) with p as a pointer to numbers of `dtype`.
template <class F>
__device__ __forceinline__ void with_pointer(int dtype, const void *p, F f) {
  if (dtype == LMX_F16) f(static_cast<const __half *>(p));
  else if (dtype == LMX_BF16) f(static_cast<const __nv_bfloat16 *>(p));
  else f(static_cast<const float *>(p));
}

/// The same for factors of lmx_site_delta.
template <class F>
__device__ __forceinline__ void with_factor(int dtype, const void *p, F f) {
  if (dtype == LMX_I8) f(static_cast<const int8_t *>(p));
  else with_pointer(dtype, p, f);
}

template <class T>
constexpr int32_t DTYPE = LMX_F32;
template <>
inline constexpr int32_t DTYPE<__half> = LMX_F16;
template <>
inline constexpr int32_t DTYPE<__nv_bfloat16> = LMX_BF16;

__host__ __device__ __forceinline__ float to_float(float x) { return x; }
__host__ __device__ __forceinline__ float to_float(int8_t x) { return static_cast<float>(x); }
__host__ __device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__host__ __device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

/// To nearest even.
template <class T>
__host__ __device__ __forceinline__ T from_float(float x);
template <>
__host__ __device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__host__ __device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__host__ __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

/// Elements of T in 16 bytes.
template <class T>
constexpr int VECTOR = 16 / static_cast<int>(sizeof(T));

/// 16 bytes of T.
template <class T>
struct alignas(16) Vector {
  T at[VECTOR<T>];
};

// ---- memory -------------------------------------------------------------------------------------------------------------

/// An S of 16 or 8 aligned bytes that no running launch writes, and that are read once: they stay out of L1.
template <class S>
__device__ __forceinline__ S load_once(const void *p) {
  static_assert(sizeof(S) == 16 || sizeof(S) == 8);
#if defined(LMX_EMULATED)
  if (reinterpret_cast<uintptr_t>(p) % sizeof(S) != 0) lmx_emulator::fail("an access of 16 or 8 bytes is misaligned");
  return *static_cast<const S *>(p);
#else
  if constexpr (sizeof(S) == 16) {
    union {
      uint4 bits;
      S span;
    } u;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(u.bits.x), "=r"(u.bits.y), "=r"(u.bits.z), "=r"(u.bits.w)
        : "l"(p));
    return u.span;
  } else {
    union {
      uint2 bits;
      S span;
    } u;
    asm("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(u.bits.x), "=r"(u.bits.y) : "l"(p));
    return u.span;
  }
#endif
}

/// 16 aligned bytes.
template <class T>
__device__ __forceinline__ Vector<T> load_vector(const T *p) {
#if defined(LMX_EMULATED)
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0) lmx_emulator::fail("a 16-byte access is misaligned");
#endif
  return *reinterpret_cast<const Vector<T> *>(p);
}
template <class T>
__device__ __forceinline__ void store_vector(T *p, const Vector<T> &vector) {
#if defined(LMX_EMULATED)
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0) lmx_emulator::fail("a 16-byte access is misaligned");
#endif
  *reinterpret_cast<Vector<T> *>(p) = vector;
}

/// Asks for the cache line at p, which need not be used; p points to memory of this device.
__device__ __forceinline__ void prefetch_l2([[maybe_unused]] const void *p) {
#if !defined(LMX_EMULATED)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#endif
}

// ---- over a warp --------------------------------------------------------------------------------------------------------

/// The sum over groups of `lanes` neighbouring lanes (a power of two), in every lane: halves first, one order always.
__device__ __forceinline__ float group_sum(float x, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
  return x;
}
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(ALL_LANES, x, offset);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
  return x;
}

__host__ __device__ constexpr int div_up(int a, int b) { return (a + b - 1) / b; }

}  // namespace lmx
