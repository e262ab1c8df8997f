// Rows that an adapter brings in the place of the base's, and single numbers of any dtype.
#pragma once

#include "common.cuh"

namespace lmx {

__device__ __forceinline__ float number_at(const void *numbers, int dtype, size_t at) {
  if (dtype == LMX_F16) return to_float(static_cast<const __half *>(numbers)[at]);
  if (dtype == LMX_BF16) return to_float(static_cast<const __nv_bfloat16 *>(numbers)[at]);
  return static_cast<const float *>(numbers)[at];
}

/// Which of the rows is token `id`'s, or −1.
__device__ __forceinline__ int row_of(const lmx_replaced_rows &rows, int64_t id) {
  if (rows.tokens == nullptr) return id >= 0 && id < rows.count ? static_cast<int>(id) : -1;
  int low = 0, high = rows.count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (rows.tokens[middle] < id) low = middle + 1;
    else high = middle;
  }
  return low < rows.count && rows.tokens[low] == id ? low : -1;
}

}  // namespace lmx
