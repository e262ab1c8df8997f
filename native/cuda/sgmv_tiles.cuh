// SGMV for many rows of one adapter, by the tensor cores: activations of a 16-bit type, factors of the same or of bytes.
// Nothing of this has run on a GPU.
#pragma once

#include "sgmv.cuh"
#include "tensor_core.cuh"

namespace lmx {

constexpr int TILE_ROWS = LMX_LONG_TILE_ROWS;
/// Columns of x, adapter rows: what one step multiplies.
constexpr int TILE_DEPTH = 64;
/// Numbers from one row in shared memory to the next: 8 more than are used, so that the 8 rows of a matrix load lie in
/// different banks.
constexpr int TILE_STRIDE = TILE_DEPTH + 8;

/// Exact: both 16-bit types hold every byte.
template <class T>
__device__ __forceinline__ Span<T, 8> widened(const Span<int8_t, 8> &bytes) {
  Span<T, 8> wide;
#pragma unroll
  for (int i = 0; i < 8; ++i) wide.at[i] = from_float<T>(to_float(bytes.at[i]));
  return wide;
}

/// Copies rows [0, ROWS) × columns [0, TILE_DEPTH) of `from` (`stride` numbers a row, all at multiples of 16 bytes) to
/// shared memory; zeros from row `rows` and column `columns` (a multiple of 8) on. Does not wait.
template <int ROWS, int THREADS, class T>
__device__ __forceinline__ void copy_tile(T (*to)[TILE_STRIDE], const T *from, size_t stride, int rows, int columns) {
  constexpr int SPANS = TILE_DEPTH / 8;
  for (int i = static_cast<int>(threadIdx.x); i < ROWS * SPANS; i += THREADS) {
    const int row = i / SPANS, c = i % SPANS * 8;
    const bool valid = row < rows && c < columns;
    copy_async(&to[row][c], valid ? from + static_cast<size_t>(row) * stride + c : from, valid);
  }
}

/// The same of bytes, widened on the way; copied at once.
template <int ROWS, int THREADS, class T>
__device__ __forceinline__ void copy_tile(T (*to)[TILE_STRIDE], const int8_t *from, size_t stride, int rows, int columns) {
  constexpr int SPANS = TILE_DEPTH / 8;
  for (int i = static_cast<int>(threadIdx.x); i < ROWS * SPANS; i += THREADS) {
    const int row = i / SPANS, c = i % SPANS * 8;
    const int8_t *at = from + static_cast<size_t>(row) * stride + c;
    store_span<true>(&to[row][c], widened<T>(load_span_once<true, 8>(at, row < rows ? columns - c : 0)), 8);
  }
}

constexpr int SHRINK_TILE_THREADS = 128;
constexpr int SHRINK_TILE_RANKS = 64;

/// h[row, r] = Σ_c x[row, c] · a[r, c] of one split. Grid [splits, long tiles, blocks of ranks]; a warp takes 16 rows.
template <class T>
__global__ void __launch_bounds__(SHRINK_TILE_THREADS) shrink_tiles(lmx_step step, lmx_sgmv call) {
  __shared__ __align__(16) T x_tile[2][TILE_ROWS][TILE_STRIDE], a_tile[2][SHRINK_TILE_RANKS][TILE_STRIDE];
  const Split split = split_of(call.in_features, MOST_TILE_SPLITS);
  const int at_split = static_cast<int>(blockIdx.x), first_rank = static_cast<int>(blockIdx.z) * SHRINK_TILE_RANKS;
  const int begin = at_split * split.columns, end = min(begin + split.columns, call.in_features);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const auto width = static_cast<size_t>(call.in_features);
  for (int at = static_cast<int>(blockIdx.y); at < step.counts->long_tiles; at += static_cast<int>(gridDim.y)) {
    const Piece piece = piece_of(step, step.long_tiles[at]);
    if (!takes_tensor_cores<T>(piece, call)) continue;
    const T *x = static_cast<const T *>(call.x) + static_cast<size_t>(piece.first_row) * width;
    int term_offset = 0;
    for (int k = 0; k < piece.term_count; ++k) {
      const lmx_site_delta &delta = delta_of(piece.terms[k], call.site);
      if (delta.part_count == 0) continue;
      const int ranks = min(delta.rank - first_rank, SHRINK_TILE_RANKS), h_column = term_offset + first_rank;
      term_offset += delta.rank;
      if (ranks <= 0) continue;
      const size_t first_number = static_cast<size_t>(first_rank) * width;
      const T *a = static_cast<const T *>(delta.a) + first_number;
      const int8_t *a_bytes = static_cast<const int8_t *>(delta.a) + first_number;
      float sums[SHRINK_TILE_RANKS / 8][4] = {};
      const auto fetch = [&](int stage, int c) {
        copy_tile<TILE_ROWS, SHRINK_TILE_THREADS>(x_tile[stage], x + c, width, piece.rows, end - c);
        if (delta.dtype == LMX_I8) {
          copy_tile<SHRINK_TILE_RANKS, SHRINK_TILE_THREADS>(a_tile[stage], a_bytes + c, width, ranks, end - c);
        } else copy_tile<SHRINK_TILE_RANKS, SHRINK_TILE_THREADS>(a_tile[stage], a + c, width, ranks, end - c);
        copy_async_commit();
      };
      fetch(0, begin);
      for (int c = begin, stage = 0; c < end; c += TILE_DEPTH, stage ^= 1) {
        if (c + TILE_DEPTH < end) fetch(stage ^ 1, c + TILE_DEPTH);
        else copy_async_commit();  // an empty group: the wait below is always for all but one
        copy_async_wait<1>();
        __syncthreads();
#pragma unroll
        for (int depth = 0; depth < TILE_DEPTH; depth += 16) {
          Pair rows[4];
          load_matrix_x4(rows, &x_tile[stage][warp * 16 + lane % 16][depth + lane / 16 * 8]);
#pragma unroll
          for (int n = 0; n < SHRINK_TILE_RANKS / 16; ++n) {
            if (n * 16 >= ranks) break;
            Pair factor[4];
            load_matrix_x4(factor, &a_tile[stage][n * 16 + lane / 16 * 8 + lane % 8][depth + lane / 8 % 2 * 8]);
            multiply_add<T>(sums[2 * n], rows, factor[0], factor[1]);
            multiply_add<T>(sums[2 * n + 1], rows, factor[2], factor[3]);
          }
        }
        // The stage is filled again in the next round.
        __syncthreads();
      }
#pragma unroll
      for (int n = 0; n < SHRINK_TILE_RANKS / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = warp * 16 + lane / 4 + i / 2 * 8, r = n * 8 + lane % 4 * 2 + i % 2;
          if (row < piece.rows && r < ranks) h_row(call, at_split, piece.first_row + row)[h_column + r] = sums[n][i];
        }
      }
    }
  }
}

constexpr int EXPAND_TILE_THREADS = 256;
constexpr int EXPAND_TILE_WARPS = EXPAND_TILE_THREADS / 32;
constexpr int EXPAND_TILE_COLUMNS = 128;

/// h as the sum of two numbers of T, times a power of two for each row: what float32 holds of it survives the 16-bit product
/// (22 bits with f16, 16 with bf16), and f16's range does not matter.
template <class T>
struct SplitH {
  T high[TILE_ROWS][TILE_STRIDE], low[TILE_ROWS][TILE_STRIDE];
  float power[TILE_ROWS];
};

/// Rows × adapter rows [first, first + TILE_DEPTH) of a part; zeros past its rank. A warp takes every eighth row.
template <class T>
__device__ __forceinline__ void split_h(SplitH<T> &to, const lmx_sgmv &call, const Piece &piece, int splits, int term_offset,
                                        const lmx_site_delta &delta, float weight, const lmx_part &part, int first) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  for (int row = warp; row < TILE_ROWS; row += EXPAND_TILE_WARPS) {
    float numbers[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int r = first + lane + 32 * i;
      const bool there = row < piece.rows && r < part.rank;
      numbers[i] =
          there ? whole_h(call, splits, piece.first_row + row, term_offset, delta, weight, part.rank_offset + r) : 0.0f;
    }
    // The exponent of the row's largest; its inverse stays a normal number.
    const unsigned exponent = __float_as_uint(warp_max(fmaxf(fabsf(numbers[0]), fabsf(numbers[1])))) & 0x7f800000u;
    const unsigned power = exponent < 0x01000000u ? 0x3f800000u : min(exponent, 0x7e000000u);
    const float inverse = __uint_as_float(0x7f000000u - power);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float scaled = numbers[i] * inverse;
      const T high = from_float<T>(scaled);
      to.high[row][lane + 32 * i] = high;
      to.low[row][lane + 32 * i] = from_float<T>(scaled - to_float(high));
    }
    if (lane == 0) to.power[row] = __uint_as_float(power);
  }
}

/// B's rows for the columns [block_low, + EXPAND_TILE_COLUMNS) of the site, its columns [first, + TILE_DEPTH); zeros outside
/// `columns` and past the rank. `b` is the part's.
template <class T, class B>
__device__ __forceinline__ void load_factor(T (*to)[TILE_STRIDE], const B *b, const lmx_part &part, Columns columns,
                                            int block_low, int first) {
  b += first;
  const auto rank = static_cast<size_t>(part.rank);
  const bool aligned = part.rank % 8 == 0;
  constexpr int SPANS = TILE_DEPTH / 8;
  for (int i = static_cast<int>(threadIdx.x); i < EXPAND_TILE_COLUMNS * SPANS; i += EXPAND_TILE_THREADS) {
    const int column = block_low + i / SPANS, r = i % SPANS * 8;
    const bool inside = column >= columns.low && column < columns.high;
    const int left = inside ? part.rank - first - r : 0;
    const B *from = inside ? b + static_cast<size_t>(column - part.out_offset) * rank + r : b;
    T *at = &to[i / SPANS][r];
    if constexpr (sizeof(B) == 1) {
      store_span<true>(at, widened<T>(aligned ? load_span<true, 8>(from, left) : load_span<false, 8>(from, left)), 8);
    } else if (aligned) {
      copy_async(at, left > 0 ? from : b, left > 0);
    } else {
      store_span<true>(at, load_span<false, 8>(from, left), 8);
    }
  }
  copy_async_commit();
  copy_async_wait<0>();
}

/// y ← gain ⊙ (y + sums) + offset, two columns at a time: a thread's part of products of 16 rows and 8 · N columns. `y` is
/// the block's first column, `width` its columns; ALIGNED: rows of y are whole pairs.
template <bool ALIGNED, class T, int N>
__device__ __forceinline__ void update_pairs(T *y, int out_features, int row, int rows, int column, int width,
                                             const float (&sums)[N][4], const float *gain, const float *offset) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (row + 8 * half >= rows) break;
    T *at_row = y + static_cast<size_t>(row + 8 * half) * static_cast<size_t>(out_features);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const int c = column + 8 * n, left = width - c;
      auto pair = load_span<ALIGNED, 2>(at_row + c, left);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (i < left)
          pair.at[i] = from_float<T>((to_float(pair.at[i]) + sums[n][2 * half + i]) * gain[c + i] + offset[c + i]);
      }
      store_span<ALIGNED>(at_row + c, pair, left);
    }
  }
}

/// y ← gain ⊙ (y + Σ h · bᵀ) + offset. Grid [blocks of columns, long tiles]; a warp takes 16 rows and 64 columns.
template <class T>
__global__ void __launch_bounds__(EXPAND_TILE_THREADS) expand_tiles(lmx_step step, lmx_sgmv call) {
  __shared__ __align__(16) SplitH<T> h;
  __shared__ __align__(16) T factor_tile[EXPAND_TILE_COLUMNS][TILE_STRIDE];
  __shared__ float gain[EXPAND_TILE_COLUMNS], offset[EXPAND_TILE_COLUMNS], b_scale[EXPAND_TILE_COLUMNS];
  constexpr int WARP_COLUMNS = 64;
  const int block_low = static_cast<int>(blockIdx.x) * EXPAND_TILE_COLUMNS,
            block_high = min(block_low + EXPAND_TILE_COLUMNS, call.out_features);
  const int splits = split_of(call.in_features, MOST_TILE_SPLITS).count;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int warp_row = warp % 4 * 16, warp_column = warp / 4 * WARP_COLUMNS;
  for (int at = static_cast<int>(blockIdx.y); at < step.counts->long_tiles; at += static_cast<int>(gridDim.y)) {
    const Piece piece = piece_of(step, step.long_tiles[at]);
    if (!takes_tensor_cores<T>(piece, call)) continue;
    for (int c = thread; c < EXPAND_TILE_COLUMNS; c += EXPAND_TILE_THREADS) {
      gain[c] = 1.0f;
      offset[c] = -0.0f;
    }
    float sums[WARP_COLUMNS / 8][4];
#pragma unroll
    for (int n = 0; n < WARP_COLUMNS / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[n][i] = -0.0f;
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
        __syncthreads();
        add_gain_and_offset(part, term.weight, columns, block_low, gain, offset);
        for (int c = thread; c < EXPAND_TILE_COLUMNS; c += EXPAND_TILE_THREADS) {
          const int column = block_low + c;
          const bool scaled = part.b_scale != nullptr && column >= columns.low && column < columns.high;
          b_scale[c] = scaled ? part.b_scale[column - part.out_offset] : 1.0f;
        }
        for (int first = 0; first < part.rank; first += TILE_DEPTH) {
          split_h(h, call, piece, splits, term_offset, delta, term.weight, part, first);
          if (delta.dtype == LMX_I8) {
            load_factor(factor_tile, static_cast<const int8_t *>(part.b), part, columns, block_low, first);
          } else load_factor(factor_tile, static_cast<const T *>(part.b), part, columns, block_low, first);
          __syncthreads();
          float products[WARP_COLUMNS / 8][4] = {};
#pragma unroll
          for (int depth = 0; depth < TILE_DEPTH; depth += 16) {
            if (first + depth >= part.rank) break;
            Pair high[4], low[4];
            load_matrix_x4(high, &h.high[warp_row + lane % 16][depth + lane / 16 * 8]);
            load_matrix_x4(low, &h.low[warp_row + lane % 16][depth + lane / 16 * 8]);
#pragma unroll
            for (int n = 0; n < WARP_COLUMNS / 16; ++n) {
              Pair factor[4];
              load_matrix_x4(factor,
                             &factor_tile[warp_column + n * 16 + lane / 16 * 8 + lane % 8][depth + lane / 8 % 2 * 8]);
              multiply_add<T>(products[2 * n], low, factor[0], factor[1]);
              multiply_add<T>(products[2 * n], high, factor[0], factor[1]);
              multiply_add<T>(products[2 * n + 1], low, factor[2], factor[3]);
              multiply_add<T>(products[2 * n + 1], high, factor[2], factor[3]);
            }
          }
#pragma unroll
          for (int n = 0; n < WARP_COLUMNS / 8; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const float scale = b_scale[warp_column + n * 8 + lane % 4 * 2 + i % 2];
              sums[n][i] += products[n][i] * h.power[warp_row + lane / 4 + i / 2 * 8] * scale;
            }
          }
          // h and the factor are overwritten next.
          __syncthreads();
        }
      }
      term_offset += delta.rank;
    }
    __syncthreads();
    if (touched) {
      T *y = static_cast<T *>(call.y) + static_cast<size_t>(piece.first_row) * static_cast<size_t>(call.out_features) +
             block_low;
      const int row = warp_row + lane / 4, c = warp_column + lane % 4 * 2;
      with_alignment(call.out_features % 2 == 0, [&](auto aligned) {
        update_pairs<aligned.value>(y, call.out_features, row, piece.rows, c, block_high - block_low, sums, gain, offset);
      });
    }
    __syncthreads();
  }
}

/// The long tiles that the rows' path leaves. Never captured, so that the grid may know h_stride.
template <class T>
lmx_status apply_to_tiles(const lmx_step &step, const lmx_sgmv &call, cudaStream_t stream) {
  if constexpr (sizeof(T) == 2) {
    // A long tile ends a segment or is full, and segments have at least half its rows.
    const auto tiles = static_cast<unsigned>(div_up(call.rows, TILE_ROWS / 2));
    const auto splits = static_cast<unsigned>(split_of(call.in_features, MOST_TILE_SPLITS).count);
    const auto ranks = static_cast<unsigned>(div_up(call.h_stride, SHRINK_TILE_RANKS));
    const auto blocks = static_cast<unsigned>(div_up(call.out_features, EXPAND_TILE_COLUMNS));
    const cudaError_t error =
        launch(shrink_tiles<T>, {dim3(splits, tiles, ranks), dim3(SHRINK_TILE_THREADS)}, stream, step, call);
    if (error != cudaSuccess) return error;
    return launch(expand_tiles<T>, {dim3(blocks, tiles), dim3(EXPAND_TILE_THREADS)}, stream, step, call);
  }
  return cudaSuccess;
}

}  // namespace lmx
