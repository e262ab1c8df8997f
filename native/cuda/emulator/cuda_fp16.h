// IEEE binary16 for g++: conversions exact, to nearest even.
#pragma once

#include "cuda_runtime.h"

struct __half {
  unsigned short bits;
};
struct alignas(4) __half2 {
  __half x, y;
};
using half = __half;

inline float __half2float(__half h) {
  const unsigned magnitude = h.bits & 0x7fffu;
  // The exponents' biases differ by 112: one exact multiplication, subnormals included.
  const float value =
      magnitude >= 0x7c00u ? __uint_as_float(magnitude << 13 | 0x7f800000u) : __uint_as_float(magnitude << 13) * 0x1p112f;
  return (h.bits & 0x8000u) != 0 ? -value : value;
}
inline __half __float2half_rn(float x) {
  const unsigned bits = __float_as_uint(x), magnitude = bits & 0x7fffffffu;
  unsigned h;
  if (magnitude > 0x7f800000u) return {0x7fff};  // NaN, as the GPU writes it
  if (magnitude >= 0x477ff000u) h = 0x7c00u;     // from 65520 on
  else if (magnitude < 0x38800000u) {            // subnormal: one half has an ulp of 2^-24
    h = __float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000u;
  } else h = (magnitude + 0xfffu + (magnitude >> 13 & 1) - 0x38000000u) >> 13;
  return {static_cast<unsigned short>(h | (bits >> 16 & 0x8000u))};
}
inline __half __float2half(float x) { return __float2half_rn(x); }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
