// What the attention kernels share: which positions a row sees, where they lie, and how a row's context is split.
#pragma once

#include "common.cuh"

namespace lmx {

/// A row's positions begin .. end, and its sequence's blocks.
struct Context {
  int begin, end;
  const int32_t *blocks;
};

/// Row `row` sees its own position and those before it, `window` in all.
__device__ __forceinline__ Context context_of(const lmx_step &step, int row, int window) {
  const int end = step.positions[row] + 1;
  const int begin = window > 0 && window < end ? end - window : 0;
  return {begin, end, step.block_tables + static_cast<size_t>(step.row_sequence[row]) * step.counts->max_blocks};
}

/// First element of a slot of one head, from the layer's keys or values of block 0 on.
__device__ __forceinline__ size_t slot_offset(int block, int head, int offset, const lmx_attention &call) {
  return static_cast<size_t>(block) * call.block_stride + (static_cast<size_t>(head) * LMX_BLOCK + offset) * call.dim;
}

/// A row's context is attended to in parts, side by side; their bounds follow from that context alone, so that a row's sums
/// are the same whatever shares its step. Up to SPLIT · MOST_SPLITS positions parts are SPLIT long, beyond that longer.
constexpr int SPLIT = 256, MOST_SPLITS = 16, SPLIT_STEP = 64;

__host__ __device__ __forceinline__ int split_length(int positions) {
  const int length = div_up(div_up(positions, MOST_SPLITS), SPLIT_STEP) * SPLIT_STEP;
  return length > SPLIT ? length : SPLIT;
}

__host__ __device__ __forceinline__ int split_count(int positions) {
  return div_up(positions, split_length(positions));
}

/// The parts of what a row sees begin at a block's first slot.
__device__ __forceinline__ int first_of(const Context &context) { return context.begin / LMX_BLOCK * LMX_BLOCK; }

/// Most parts of any row of a call.
inline int most_splits(int max_context, int window) {
  const int seen = window > 0 && window + LMX_BLOCK < max_context ? window + LMX_BLOCK : max_context;
  return split_count(seen > 0 ? seen : 1);
}

/// The partial results of the single rows in the workspace: sums f32 [single_rows, heads, splits, dim], then the highest
/// score and the total of each f32 [single_rows, heads, splits, 2].
struct Partials {
  float *sums;
  float *totals;
  int splits;
};

inline size_t partial_bytes(size_t single_rows, size_t heads, size_t dim, size_t splits) {
  return splits > 1 ? single_rows * heads * splits * (dim + 2) * sizeof(float) : 0;
}

lmx_status append_rows(const lmx_step &step, const lmx_attention &call, lmx_stream stream);
/// Single rows, and for activations of float32 those of query tiles.
lmx_status attend_single_rows(const lmx_step &step, const lmx_attention &call, lmx_stream stream);
lmx_status attend_tile_rows(const lmx_step &step, const lmx_attention &call, lmx_stream stream);
/// Query tiles by the tensor cores; float16 and bfloat16.
lmx_status attend_tiles(const lmx_step &step, const lmx_attention &call, lmx_stream stream);

}  // namespace lmx
