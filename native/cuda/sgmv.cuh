// SGMV's plan: how columns of x are split, which rows a block takes, which of the two paths a tile goes.
#pragma once

#include "dot_rows.cuh"

namespace lmx {

/// The columns of x that one block of the shrink sums; every split writes its own partial h, and the expand adds them up in
/// order. Made of in_features alone: a row's result must not depend on its batch mates.
struct Split {
  int columns;  // of one split
  int count;
};

constexpr int MOST_SPLITS = 16;
/// A tile for tensor cores is work enough with fewer.
constexpr int MOST_TILE_SPLITS = 4;

__host__ __device__ constexpr Split split_of(int in_features, int most) {
  const int steps = div_up(in_features, STEP_COLUMNS), each = div_up(steps, most);
  return {each * STEP_COLUMNS, div_up(steps, each)};
}

/// Rows of one segment, and its terms.
struct Piece {
  int first_row;
  int rows;  // 0: nothing to do
  const lmx_term *terms;
  int term_count;
};

__device__ __forceinline__ Piece piece_of(const lmx_step &step, const lmx_tile &tile) {
  return {tile.first_row, tile.rows, step.terms + tile.first_term, tile.terms};
}

__device__ __forceinline__ const lmx_site_delta &delta_of(const lmx_term &term, int site) {
  return term.adapter->sites[site];
}

/// Whether the tensor cores take a long tile at this site: every factor is of the activations' 16-bit type, or of bytes,
/// which that type holds exactly, and rows of x are whole 16 bytes. Else the rows' path takes it, 8 rows at a time.
template <class T>
__device__ __forceinline__ bool takes_tensor_cores(const Piece &piece, const lmx_sgmv &call) {
  bool takes = sizeof(T) == 2 && call.in_features % VECTOR<T> == 0;
  for (int k = 0; takes && k < piece.term_count; ++k) {
    const lmx_site_delta &delta = delta_of(piece.terms[k], call.site);
    takes = delta.part_count == 0 || delta.rank == 0 || delta.dtype == DTYPE<T> || delta.dtype == LMX_I8;
  }
  return takes;
}

/// Pieces of at most LMX_TILE_ROWS rows: the short tiles, then the long ones cut up.
__device__ __forceinline__ int row_pieces(const lmx_step &step, const lmx_sgmv &call) {
  if (call.at_head != 0) return step.counts->head_tiles;
  return step.counts->tiles + (call.has_long != 0 ? step.counts->long_tiles * (LMX_LONG_TILE_ROWS / LMX_TILE_ROWS) : 0);
}

template <class T>
__device__ __forceinline__ Piece row_piece(const lmx_step &step, const lmx_sgmv &call, int at) {
  if (call.at_head != 0) return piece_of(step, step.head_tiles[at]);
  const int tiles = step.counts->tiles;
  if (at < tiles) return piece_of(step, step.tiles[at]);
  constexpr int CUTS = LMX_LONG_TILE_ROWS / LMX_TILE_ROWS;
  Piece piece = piece_of(step, step.long_tiles[(at - tiles) / CUTS]);
  const int skipped = (at - tiles) % CUTS * LMX_TILE_ROWS;
  piece.first_row += skipped;
  piece.rows = min(piece.rows - skipped, static_cast<int>(LMX_TILE_ROWS));
  if (piece.rows <= 0 || takes_tensor_cores<T>(piece, call)) piece.rows = 0;
  return piece;
}

/// h f32 [splits, rows, h_stride]: a row's terms stand one behind the other.
__device__ __forceinline__ float *h_row(const lmx_sgmv &call, int split, int row) {
  return call.h + (static_cast<size_t>(split) * static_cast<size_t>(call.rows) + static_cast<size_t>(row)) *
                      static_cast<size_t>(call.h_stride);
}

/// What the splits found for adapter row r of a term, scaled: r counts from the term's first.
__device__ __forceinline__ float whole_h(const lmx_sgmv &call, int splits, int row, int term_offset,
                                         const lmx_site_delta &delta, float weight, int r) {
  float sum = 0;
  for (int split = 0; split < splits; ++split) sum += h_row(call, split, row)[term_offset + r];
  return sum * (delta.scale[r] * weight);
}

/// Columns [low, high) of the site that a part and a block share.
struct Columns {
  int low, high;
};
__device__ __forceinline__ Columns shared_columns(const lmx_part &part, int block_low, int block_high) {
  return {max(part.out_offset, block_low), min(part.out_offset + part.out_features, block_high)};
}

/// A block's gains and offsets, one for each of its columns, over all terms.
__device__ __forceinline__ void add_gain_and_offset(const lmx_part &part, float weight, Columns columns, int block_low,
                                                    float *gain, float *offset) {
  for (int c = columns.low + static_cast<int>(threadIdx.x); c < columns.high; c += static_cast<int>(blockDim.x)) {
    if (part.gain != nullptr) gain[c - block_low] *= part.gain[c - part.out_offset];
    if (part.offset != nullptr) offset[c - block_low] += weight * part.offset[c - part.out_offset];
  }
}

}  // namespace lmx
