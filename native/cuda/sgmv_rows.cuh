// SGMV for few rows of one adapter: bound by reading the factors once. Source: Punica (arXiv 2310.18547) for the two halves.
// What is said about time below is thought, not measured: nothing of this has run on a GPU.
#pragma once

#include "sgmv.cuh"

namespace lmx {

constexpr int ROWS_THREADS = 256;
constexpr int ROWS_WARPS = ROWS_THREADS / 32;

/// Grid [splits, pieces]: 512 blocks for 64 adapters of a 4096-wide input; an H100 holds 396 at once.
template <class T>
__global__ void __launch_bounds__(ROWS_THREADS, 3) shrink_rows(lmx_step step, lmx_sgmv call) {
  let_next_launch_begin();
  const Split split = split_of(call.in_features, MOST_SPLITS);
  const int at_split = static_cast<int>(blockIdx.x), pieces = row_pieces(step, call);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int begin = at_split * split.columns, end = min(begin + split.columns, call.in_features);
  for (int at = static_cast<int>(blockIdx.y); at < pieces; at += static_cast<int>(gridDim.y)) {
    const Piece piece = row_piece<T>(step, call, at);
    if (piece.rows == 0) continue;
    const T *x =
        static_cast<const T *>(call.x) + static_cast<size_t>(piece.first_row) * static_cast<size_t>(call.in_features);
    int term_offset = 0;
    for (int k = 0; k < piece.term_count; ++k) {
      const lmx_site_delta &delta = delta_of(piece.terms[k], call.site);
      if (delta.part_count == 0) continue;
      with_factor(delta.dtype, delta.a, [&](const auto *a) {
        with_alignment(call.in_features % (sizeof(*a) == 1 ? 16 : 8) == 0, [&](auto aligned) {
          const auto store = [&](int row, int r, float sum) {
            h_row(call, at_split, piece.first_row + row)[term_offset + r] = sum;
          };
          dot_rows<aligned.value>(x, piece.rows, a, delta.rank, call.in_features, begin, end, warp, ROWS_WARPS, store);
        });
      });
      term_offset += delta.rank;
    }
  }
}

/// Output columns of one block of the expand.
constexpr int EXPAND_COLUMNS = 512;
/// Columns that a lane reads at once.
constexpr int EXPAND_UNROLL = 2;

/// sums[row, c − block_low] += Σ_r b[c − out_offset, r] · h[row, r] for the columns c of `columns`. The lanes of a group
/// read one column's factor side by side, so that a warp reads contiguous bytes at any rank. h [rows, MOST_RANK], zero from
/// the rank up to a multiple of 8. ALIGNED: the rank is one. Bytes are read 8 at a time, since ranks of 8 are common.
template <bool ALIGNED, class B>
__device__ __forceinline__ void expand_part(const B *b, const lmx_part &part, Columns columns, int block_low, int rows,
                                            const float (*h)[MOST_RANK], float (*sums)[EXPAND_COLUMNS]) {
  constexpr int WIDE = VECTOR<B> < 8 ? VECTOR<B> : 8;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int spans = div_up(part.rank, WIDE);
  int group = 1;
  while (group < spans && group < 32) group *= 2;
  const int at_once = 32 / group, within = lane % group;
  for (int first = columns.low + warp * at_once * EXPAND_UNROLL; first < columns.high;
       first += ROWS_WARPS * at_once * EXPAND_UNROLL) {
    const int column = first + lane / group;
    // More than one turn only where 32 lanes do not reach over the rank: float32 above 128.
    for (int done = 0; done < spans; done += group) {
      const int r = (done + within) * WIDE;
      Span<B, WIDE> factor[EXPAND_UNROLL];
#pragma unroll
      for (int u = 0; u < EXPAND_UNROLL; ++u) {
        const int at = column + u * at_once;
        const B *from = b + static_cast<size_t>(at - part.out_offset) * static_cast<size_t>(part.rank) + r;
        factor[u] = load_span_once<ALIGNED, WIDE>(from, at < columns.high ? part.rank - r : 0);
      }
#pragma unroll 1
      for (int row = 0; row < rows; ++row) {
        // Lanes past the rank hold zeros in `factor`; what they multiply must have been written.
        const float *h_at = &h[row][r < part.rank ? r : 0];
        float partial[EXPAND_UNROLL] = {};
#pragma unroll
        for (int i = 0; i < WIDE; i += 4) {
          const float4 four = *reinterpret_cast<const float4 *>(h_at + i);
#pragma unroll
          for (int u = 0; u < EXPAND_UNROLL; ++u) {
            partial[u] += to_float(factor[u].at[i]) * four.x + to_float(factor[u].at[i + 1]) * four.y;
            partial[u] += to_float(factor[u].at[i + 2]) * four.z + to_float(factor[u].at[i + 3]) * four.w;
          }
        }
#pragma unroll
        for (int u = 0; u < EXPAND_UNROLL; ++u) {
          float sum = group_sum(partial[u], group);
          const int at = column + u * at_once;
          if (within == 0 && at < columns.high) {
            if constexpr (sizeof(B) == 1) sum *= part.b_scale[at - part.out_offset];
            sums[row][at - block_low] += sum;
          }
        }
      }
    }
  }
}

/// Asks for what a block is going to read, while the shrink still runs.
__device__ __forceinline__ void prefetch_factors(const lmx_sgmv &call, const Piece &piece, int block_low, int block_high) {
  constexpr int LINE = 128;
  const int thread = static_cast<int>(threadIdx.x);
  for (int k = 0; k < piece.term_count; ++k) {
    const lmx_site_delta &delta = delta_of(piece.terms[k], call.site);
    const size_t size = delta.dtype == LMX_F32 ? 4 : delta.dtype == LMX_I8 ? 1 : 2;
    for (int p = 0; p < delta.part_count; ++p) {
      const lmx_part &part = delta.parts[p];
      const Columns columns = shared_columns(part, block_low, block_high);
      if (columns.low >= columns.high) continue;
      const size_t column_bytes = static_cast<size_t>(part.rank) * size;
      const char *b = static_cast<const char *>(part.b) + static_cast<size_t>(columns.low - part.out_offset) * column_bytes;
      const size_t bytes = static_cast<size_t>(columns.high - columns.low) * column_bytes;
      for (size_t at = static_cast<size_t>(thread) * LINE; at < bytes; at += ROWS_THREADS * LINE) prefetch_l2(b + at);
    }
  }
}

/// y ← gain ⊙ (y + sums) + offset of one block's columns.
template <bool ALIGNED, class T>
__device__ __forceinline__ void update_rows(T *y, const lmx_sgmv &call, int rows, int block_low, int block_high,
                                            const float (*sums)[EXPAND_COLUMNS], const float *gain, const float *offset) {
  constexpr int WIDE = VECTOR<T>;
  const int spans = div_up(block_high - block_low, WIDE);
  for (int i = static_cast<int>(threadIdx.x); i < rows * spans; i += ROWS_THREADS) {
    const int row = i / spans, c = i % spans * WIDE, there = block_high - block_low - c;
    T *at = y + static_cast<size_t>(row) * static_cast<size_t>(call.out_features) + block_low + c;
    auto numbers = load_span<ALIGNED, WIDE>(at, there);
#pragma unroll
    for (int j = 0; j < WIDE; ++j) {
      if (j < there)
        numbers.at[j] = from_float<T>((to_float(numbers.at[j]) + sums[row][c + j]) * gain[c + j] + offset[c + j]);
    }
    store_span<ALIGNED>(at, numbers, there);
  }
}

/// Grid [blocks of columns, pieces].
template <class T>
__global__ void __launch_bounds__(ROWS_THREADS, 3) expand_rows(lmx_step step, lmx_sgmv call) {
  __shared__ __align__(16) float h[LMX_TILE_ROWS][MOST_RANK];
  __shared__ float sums[LMX_TILE_ROWS][EXPAND_COLUMNS];
  __shared__ float gain[EXPAND_COLUMNS], offset[EXPAND_COLUMNS];
  const int block_low = static_cast<int>(blockIdx.x) * EXPAND_COLUMNS,
            block_high = min(block_low + EXPAND_COLUMNS, call.out_features);
  const int splits = split_of(call.in_features, MOST_SPLITS).count, pieces = row_pieces(step, call);
  const int thread = static_cast<int>(threadIdx.x);
  if (static_cast<int>(blockIdx.y) < pieces) {
    prefetch_factors(call, row_piece<T>(step, call, static_cast<int>(blockIdx.y)), block_low, block_high);
  }
  wait_for_launch_ahead();
  for (int at = static_cast<int>(blockIdx.y); at < pieces; at += static_cast<int>(gridDim.y)) {
    const Piece piece = row_piece<T>(step, call, at);
    if (piece.rows == 0) continue;
    for (int c = thread; c < EXPAND_COLUMNS; c += ROWS_THREADS) {
      // What −0 is added to stays as it is, −0 itself too.
      for (int row = 0; row < piece.rows; ++row) sums[row][c] = -0.0f;
      gain[c] = 1.0f;
      offset[c] = -0.0f;
    }
    bool touched = false;
    int term_offset = 0;
    for (int k = 0; k < piece.term_count; ++k) {
      const lmx_term &term = piece.terms[k];
      const lmx_site_delta &delta = delta_of(term, call.site);
      if (delta.part_count == 0) continue;
      for (int p = 0; p < delta.part_count; ++p) {
        const lmx_part part = delta.parts[p];
        const Columns columns = shared_columns(part, block_low, block_high);
        if (columns.low >= columns.high) continue;
        touched = true;
        // The part before has read h, and its sums are whole.
        __syncthreads();
        add_gain_and_offset(part, term.weight, columns, block_low, gain, offset);
        if (part.rank == 0) continue;
        const int padded = min(div_up(part.rank, 8) * 8, MOST_RANK);
        for (int i = thread; i < piece.rows * padded; i += ROWS_THREADS) {
          const int row = i / padded, r = i % padded;
          h[row][r] = r < part.rank ? whole_h(call, splits, piece.first_row + row, term_offset, delta, term.weight,
                                              part.rank_offset + r)
                                    : 0.0f;
        }
        __syncthreads();
        with_factor(delta.dtype, part.b, [&](const auto *b) {
          with_alignment(part.rank % 8 == 0, [&](auto aligned) {
            expand_part<aligned.value>(b, part, columns, block_low, piece.rows, h, sums);
          });
        });
      }
      term_offset += delta.rank;
    }
    __syncthreads();
    if (touched) {
      T *y = static_cast<T *>(call.y) + static_cast<size_t>(piece.first_row) * static_cast<size_t>(call.out_features);
      with_alignment(call.out_features % 8 == 0, [&](auto aligned) {
        update_rows<aligned.value>(y, call, piece.rows, block_low, block_high, sums, gain, offset);
      });
    }
    __syncthreads();
  }
}

}  // namespace lmx
