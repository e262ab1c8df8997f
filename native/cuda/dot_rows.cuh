// Products of a few rows with many, both read along their width: bound by reading the many once.
#pragma once

#include "span.cuh"

namespace lmx {

/// Columns that a warp takes at once, 16 of each lane.
constexpr int STEP_COLUMNS = 512;
/// Rows of `a` that a warp takes at once: each lane then has 64 bytes of them in flight.
template <class A>
constexpr int DOTS_AT_ONCE = 4 / static_cast<int>(sizeof(A));

/// store(row, r, Σ_c x[row, c] · a[r, c]) over the columns [begin, end) of all `width`, for `rows` ≤ LMX_TILE_ROWS rows of x
/// T [rows, width] and this warp's of a A [count, width]: warp number `warp` of `warps`. A lane sums its columns of a step,
/// then the lanes are summed, then the steps: one order for every row. ALIGNED: width is whole 16 bytes of T and of A.
/// `begin` is a multiple of STEP_COLUMNS.
template <bool ALIGNED, class T, class A, class Store>
__device__ __forceinline__ void dot_rows(const T *x, int rows, const A *a, int count, int width, int begin, int end,
                                         int warp, int warps, Store store) {
  constexpr int WIDE = VECTOR<A>, SPANS = STEP_COLUMNS / 32 / WIDE, DOTS = ALIGNED ? DOTS_AT_ONCE<A> : 1;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int own_row = lane / DOTS, own_dot = lane % DOTS;
  for (int r = warp * DOTS; r < count; r += warps * DOTS) {
    float mine = 0;
    for (int c = begin; c < end; c += STEP_COLUMNS) {
      Span<A, WIDE> factor[DOTS][SPANS];
#pragma unroll
      for (int j = 0; j < DOTS; ++j) {
        const A *from = a + static_cast<size_t>(min(r + j, count - 1)) * static_cast<size_t>(width);
#pragma unroll
        for (int s = 0; s < SPANS; ++s) {
          const int column = c + (s * 32 + lane) * WIDE;
          factor[j][s] = load_span_once<ALIGNED, WIDE>(from + column, width - column);
        }
      }
#pragma unroll 1
      for (int row = 0; row < rows; ++row) {
        const T *from = x + static_cast<size_t>(row) * static_cast<size_t>(width);
        float sums[DOTS] = {};
#pragma unroll
        for (int s = 0; s < SPANS; ++s) {
          const int column = c + (s * 32 + lane) * WIDE;
          const auto input = load_span<ALIGNED, WIDE>(from + column, width - column);
#pragma unroll
          for (int j = 0; j < DOTS; ++j) {
#pragma unroll
            for (int i = 0; i < WIDE; ++i) sums[j] += to_float(input.at[i]) * to_float(factor[j][s].at[i]);
          }
        }
#pragma unroll
        for (int j = 0; j < DOTS; ++j) {
          const float sum = warp_sum(sums[j]);
          if (own_row == row && own_dot == j) mine += sum;
        }
      }
    }
    if (own_row < rows && r + own_dot < count) store(own_row, r + own_dot, mine);
  }
}

}  // namespace lmx
