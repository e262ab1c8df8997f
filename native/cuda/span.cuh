// Several neighbouring numbers at once, at any width: whole 16-byte accesses where rows begin at multiples of 16 bytes,
// single numbers elsewhere and at a row's end.
#pragma once

#include <type_traits>

#include "common.cuh"

namespace lmx {

/// WIDE numbers; zeros past the row's end.
template <class T, int WIDE>
struct alignas(WIDE * sizeof(T) < 16 ? WIDE * sizeof(T) : 16) Span {
  T at[WIDE];
};

template <class T, int WIDE>
__device__ __forceinline__ Span<T, WIDE> load_single(const T *p, int left) {
  Span<T, WIDE> span;
#pragma unroll
  for (int i = 0; i < WIDE; ++i) span.at[i] = i < left ? p[i] : T{};
  return span;
}

/// p[0 .. WIDE), of which `left` are the row's. ALIGNED: rows begin at multiples of 16 bytes and are whole spans long, and p
/// is some spans behind a row's begin.
template <bool ALIGNED, int WIDE, class T>
__device__ __forceinline__ Span<T, WIDE> load_span(const T *p, int left) {
  if constexpr (ALIGNED) return left > 0 ? *reinterpret_cast<const Span<T, WIDE> *>(p) : Span<T, WIDE>{};
  else return load_single<T, WIDE>(p, left);
}
/// The same of 16 or 8 bytes that no running launch writes and that are read once.
template <bool ALIGNED, int WIDE, class T>
__device__ __forceinline__ Span<T, WIDE> load_span_once(const T *p, int left) {
  if constexpr (ALIGNED) {
    return left > 0 ? load_once<Span<T, WIDE>>(p) : Span<T, WIDE>{};
  } else {
    return load_single<T, WIDE>(p, left);
  }
}
template <bool ALIGNED, int WIDE, class T>
__device__ __forceinline__ void store_span(T *p, const Span<T, WIDE> &span, int left) {
  if constexpr (ALIGNED) {
    if (left > 0) *reinterpret_cast<Span<T, WIDE> *>(p) = span;
  } else {
#pragma unroll
    for (int i = 0; i < WIDE; ++i) {
      if (i < left) p[i] = span.at[i];
    }
  }
}

/// f(std::true_type) where rows of `width` numbers are whole spans, else f(std::false_type).
template <class F>
__device__ __forceinline__ void with_alignment(bool aligned, F f) {
  if (aligned) f(std::true_type{});
  else f(std::false_type{});
}

}  // namespace lmx
