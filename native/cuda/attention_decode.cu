// Attention of single query rows over paged keys and values: flash decoding.
//
// out[row, j] = softmax(scale · q[row, j] · Kᵀ) · V over the positions the row sees, K and V of head j / (heads / kv_heads).
// A block of threads handles one part (see attention.cuh) of one row for the query heads of one kv head, which share every
// key and value that it loads; the last kernel adds up a row's parts in their order. Sources: FlashDecoding (Dao et al.,
// 2023), online softmax (arXiv 1805.02867).
#include "attention.cuh"
#include "rotary.cuh"

namespace lmx {
namespace {

constexpr int WARPS = 4, THREADS = WARPS * 32, COMBINE_THREADS = 64;
/// Blocks whose places are in shared memory at a time.
constexpr int BLOCKS_AHEAD = 256;

/// Eight neighbouring numbers.
template <class T>
struct Eight {
  Vector<T> part[8 / VECTOR<T>];
};
template <class T>
__device__ __forceinline__ Eight<T> load_eight(const T *from) {
  Eight<T> eight;
#pragma unroll
  for (int i = 0; i < 8 / VECTOR<T>; ++i) eight.part[i] = load_vector(from + i * VECTOR<T>);
  return eight;
}
template <class T>
__device__ __forceinline__ float number(const Eight<T> &eight, int i) {
  return to_float(eight.part[i / VECTOR<T>].at[i % VECTOR<T>]);
}

/// Query heads of one kv head beyond `heads` go to other thread blocks.
struct Rows {
  int heads;        // query heads of one block of threads, at most HEADS
  int head_chunks;  // blocks of threads for one kv head
  int tiles;        // 0: rows are step.single_rows; 1: the rows of query tiles, whole contexts
};

/// What one group of lanes, or all of them, has seen of a part: Σ e^(score − most) · value, and Σ e^(score − most).
template <int HEADS>
struct Running {
  float most[HEADS], total[HEADS], sums[HEADS][8];
};

/// Factor that brings sums relative to `from` to `to` ≥ from; nothing was added while `from` is −∞.
__device__ __forceinline__ float rescale(float from, float to) { return from == to ? 1.0f : exp2f(from - to); }

template <int HEADS>
__device__ __forceinline__ void merge_lanes(Running<HEADS> &own, int apart) {
#pragma unroll
  for (int h = 0; h < HEADS; ++h) {
    const float other = __shfl_xor_sync(ALL_LANES, own.most[h], apart);
    const float most = fmaxf(own.most[h], other);
    const float mine = rescale(own.most[h], most), theirs = rescale(other, most);
    own.most[h] = most;
    own.total[h] = own.total[h] * mine + __shfl_xor_sync(ALL_LANES, own.total[h], apart) * theirs;
#pragma unroll
    for (int i = 0; i < 8; ++i) own.sums[h][i] = own.sums[h][i] * mine + __shfl_xor_sync(ALL_LANES, own.sums[h][i], apart) * theirs;
  }
}

/// LANES lanes hold one position's key, eight numbers each; 32 / LANES positions side by side in a warp.
template <class T, int LANES, int HEADS>
__global__ void __launch_bounds__(THREADS, HEADS > 2 ? 2 : 4) decode(lmx_step step, lmx_attention call, Rows rows, Partials partials) {
  constexpr int WIDTH = LANES * 8, GROUPS = 32 / LANES;
  constexpr int UNROLL = HEADS > 4 || sizeof(T) == 4 ? 2 : 4;
  constexpr int TILE = GROUPS * UNROLL;
  __shared__ float queries[HEADS][WIDTH];
  __shared__ int32_t blocks[BLOCKS_AHEAD];
  __shared__ Running<HEADS> merged[WARPS][LANES];

  wait_for_launch_ahead();
  let_next_launch_begin();
  const int chunks = call.kv_heads * rows.head_chunks;
  const int place = blockIdx.x / chunks;
  int row;
  if (rows.tiles) {
    const int tile = place / LMX_QUERY_TILE_ROWS, within = place % LMX_QUERY_TILE_ROWS;
    if (tile >= step.counts->query_tiles || within >= step.query_tiles[tile].rows) return;
    row = step.query_tiles[tile].first_row + within;
  } else {
    if (place >= step.counts->single_rows) return;
    row = step.single_rows[place];
  }
  const int kv_head = blockIdx.x % chunks / rows.head_chunks;
  const int group = call.heads / call.kv_heads;
  const int first_head = blockIdx.x % chunks % rows.head_chunks * rows.heads;
  const int heads = min(rows.heads, group - first_head);

  const Context context = context_of(step, row, call.window);
  const int first = first_of(context);
  const int length = rows.tiles ? context.end - first : split_length(context.end - first);
  const int from = first + int(blockIdx.y) * length;
  if (from >= context.end) return;
  const int to = min(from + length, context.end);
  const bool whole = context.end - first <= length;

  // Scores come out in powers of two.
  const float scale = call.scale * 1.44269504088896341f;
  const T *query = static_cast<const T *>(call.qkv) + row * size_t(call.heads + 2 * call.kv_heads) * call.dim +
                   size_t(kv_head * group + first_head) * call.dim;
  for (int i = threadIdx.x; i < HEADS * WIDTH; i += THREADS) (&queries[0][0])[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < heads * (call.dim / 8); i += THREADS) {
    const int head = i / (call.dim / 8), piece = i % (call.dim / 8);
    const Pairs pairs = load_pairs(query + head * call.dim, call.dim, piece);
    const Pairs rotated = rotate(pairs, call.cos, call.sin, step.positions[row], call.dim, piece);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      queries[head][piece * 4 + k] = rotated.low[k] * scale;
      queries[head][call.dim / 2 + piece * 4 + k] = rotated.high[k] * scale;
    }
  }

  Running<HEADS> own;
#pragma unroll
  for (int h = 0; h < HEADS; ++h) {
    own.most[h] = -INFINITY;
    own.total[h] = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) own.sums[h][i] = 0;
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = lane % LANES * 8;
  const T *keys = static_cast<const T *>(call.keys) + slot_offset(0, kv_head, 0, call.kv_heads, call.dim) + column;
  const T *values = static_cast<const T *>(call.values) + slot_offset(0, kv_head, 0, call.kv_heads, call.dim) + column;

  for (int stretch = from; stretch < to; stretch += BLOCKS_AHEAD * LMX_BLOCK) {
    const int stretch_end = min(stretch + BLOCKS_AHEAD * LMX_BLOCK, to);
    __syncthreads();
    for (int i = threadIdx.x; i < (stretch_end - stretch + LMX_BLOCK - 1) / LMX_BLOCK; i += THREADS)
      blocks[i] = context.blocks[stretch / LMX_BLOCK + i];
    __syncthreads();

    for (int tile = stretch + warp * TILE; tile < stretch_end; tile += WARPS * TILE) {
      Eight<T> k[UNROLL], v[UNROLL];
      bool seen[UNROLL];
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) {
        const int position = tile + u * GROUPS + lane / LANES;
        seen[u] = position >= context.begin && position < stretch_end;
        k[u] = v[u] = Eight<T>{};
        if (seen[u] && column < call.dim) {
          const size_t at = slot_offset(blocks[(position - stretch) / LMX_BLOCK], 0, position % LMX_BLOCK, call.kv_heads, call.dim);
          k[u] = load_eight(keys + at);
          v[u] = load_eight(values + at);
        }
      }
      float scores[UNROLL][HEADS];
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) {
        float key[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) key[i] = number(k[u], i);
#pragma unroll
        for (int h = 0; h < HEADS; ++h) {
          float sum = 0;
#pragma unroll
          for (int i = 0; i < 8; ++i) sum += queries[h][column + i] * key[i];
          sum = group_sum(sum, LANES);
          scores[u][h] = seen[u] ? sum : -INFINITY;
        }
      }
#pragma unroll
      for (int h = 0; h < HEADS; ++h) {
        float most = own.most[h];
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) most = fmaxf(most, scores[u][h]);
        const float kept = rescale(own.most[h], most);
        own.most[h] = most;
        own.total[h] *= kept;
#pragma unroll
        for (int i = 0; i < 8; ++i) own.sums[h][i] *= kept;
#pragma unroll
        for (int u = 0; u < UNROLL; ++u) {
          scores[u][h] = seen[u] ? exp2f(scores[u][h] - most) : 0.0f;
          own.total[h] += scores[u][h];
        }
      }
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) {
        float value[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) value[i] = number(v[u], i);
#pragma unroll
        for (int h = 0; h < HEADS; ++h)
#pragma unroll
          for (int i = 0; i < 8; ++i) own.sums[h][i] += scores[u][h] * value[i];
      }
    }
  }

#pragma unroll
  for (int apart = LANES; apart < 32; apart *= 2) merge_lanes<HEADS>(own, apart);
  if (lane < LANES) merged[warp][lane] = own;
  __syncthreads();

  for (int i = threadIdx.x; i < heads * call.dim; i += THREADS) {
    const int h = i / call.dim, d = i % call.dim;
    float most = -INFINITY, total = 0, sum = 0;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) most = fmaxf(most, merged[w][d / 8].most[h]);
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
      const Running<HEADS> &part = merged[w][d / 8];
      const float factor = rescale(part.most[h], most);
      total += part.total[h] * factor;
      sum += part.sums[h][d % 8] * factor;
    }
    const int head = kv_head * group + first_head + h;
    if (whole) {
      static_cast<T *>(call.out)[(row * size_t(call.heads) + head) * call.dim + d] = from_float<T>(sum / total);
      continue;
    }
    const size_t part = (size_t(place) * call.heads + head) * partials.splits + blockIdx.y;
    partials.sums[part * call.dim + d] = sum;
    if (d == 0) {
      partials.totals[part * 2] = most;
      partials.totals[part * 2 + 1] = total;
    }
  }
}

/// Adds up the parts of one head of one row.
template <class T>
__global__ void __launch_bounds__(COMBINE_THREADS) combine(lmx_step step, lmx_attention call, Partials partials) {
  wait_for_launch_ahead();
  const int place = blockIdx.x / call.heads, head = blockIdx.x % call.heads;
  if (place >= step.counts->single_rows) return;
  const int row = step.single_rows[place];
  const Context context = context_of(step, row, call.window);
  const int count = split_count(context.end - first_of(context));
  if (count == 1) return;
  const size_t part = (size_t(place) * call.heads + head) * partials.splits;
  const float *totals = partials.totals + part * 2;
  float most = -INFINITY;
  for (int i = 0; i < count; ++i) most = fmaxf(most, totals[i * 2]);
  for (int d = threadIdx.x; d < call.dim; d += COMBINE_THREADS) {
    float total = 0, sum = 0;
    for (int i = 0; i < count; ++i) {
      const float factor = rescale(totals[i * 2], most);
      total += totals[i * 2 + 1] * factor;
      sum += partials.sums[(part + i) * call.dim + d] * factor;
    }
    static_cast<T *>(call.out)[(row * size_t(call.heads) + head) * call.dim + d] = from_float<T>(sum / total);
  }
}

template <class T, int LANES, int HEADS>
lmx_status launch_decode(const lmx_step &step, const lmx_attention &call, int places, int tiles, const Partials &partials, lmx_stream stream) {
  const Rows rows{HEADS, div_up(call.heads / call.kv_heads, HEADS), tiles};
  const dim3 grid(static_cast<unsigned>(places) * call.kv_heads * rows.head_chunks, partials.splits);
  const Shape shape{grid, dim3(THREADS), 0, true};
  return launch(decode<T, LANES, HEADS>, shape, static_cast<cudaStream_t>(stream), step, call, rows, partials);
}

template <class T, int LANES>
lmx_status with_heads(const lmx_step &step, const lmx_attention &call, int places, int tiles, const Partials &partials, lmx_stream stream) {
  const int group = call.heads / call.kv_heads;
  if (group == 1) return launch_decode<T, LANES, 1>(step, call, places, tiles, partials, stream);
  if (group == 2) return launch_decode<T, LANES, 2>(step, call, places, tiles, partials, stream);
  // Heads of more than 128 numbers take the registers and the shared memory that more of them would need.
  constexpr int MOST = LANES < 32 ? 8 : 4;
  if (group <= 4) return launch_decode<T, LANES, 4>(step, call, places, tiles, partials, stream);
  return launch_decode<T, LANES, MOST>(step, call, places, tiles, partials, stream);
}

template <class T>
lmx_status with_lanes(const lmx_step &step, const lmx_attention &call, int places, int tiles, const Partials &partials, lmx_stream stream) {
  if (call.dim <= 64) return with_heads<T, 8>(step, call, places, tiles, partials, stream);
  if (call.dim <= 128) return with_heads<T, 16>(step, call, places, tiles, partials, stream);
  return with_heads<T, 32>(step, call, places, tiles, partials, stream);
}

}  // namespace

lmx_status attend_single_rows(const lmx_step &step, const lmx_attention &call, lmx_stream stream) {
  Partials partials;
  partials.splits = most_splits(call.max_context, call.window);
  partials.sums = static_cast<float *>(call.workspace);
  partials.totals = partials.sums + size_t(call.single_rows) * call.heads * partials.splits * call.dim;
  return with_dtype(call.dtype, [&](auto type) -> lmx_status {
    using T = typename decltype(type)::type;
    const lmx_status status = with_lanes<T>(step, call, call.single_rows, 0, partials, stream);
    if (status != 0 || partials.splits == 1) return status;
    const Shape shape{dim3(static_cast<unsigned>(call.single_rows) * call.heads), dim3(COMBINE_THREADS), 0, true};
    return launch(combine<T>, shape, static_cast<cudaStream_t>(stream), step, call, partials);
  });
}

lmx_status attend_tile_rows(const lmx_step &step, const lmx_attention &call, lmx_stream stream) {
  return with_lanes<float>(step, call, call.query_tiles * LMX_QUERY_TILE_ROWS, 1, {nullptr, nullptr, 1}, stream);
}

}  // namespace lmx
