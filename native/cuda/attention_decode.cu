// Attention of single query rows over paged keys and values: flash decoding.
//
// out[row, j] = softmax(scale · q[row, j] · Kᵀ) · V over the positions the row sees, K and V of head j / (heads / kv_heads).
// A block of threads handles one part (see attention.cuh) of one row for the query heads of one kv head, which share every
// key and value that it loads; the last kernel adds up a row's parts in their order. Sources: FlashDecoding (Dao et al.,
// 2023), online softmax (arXiv 1805.02867).
#include "attention_running.cuh"
#include "rotary.cuh"

namespace lmx {
namespace {

constexpr int WARPS = 4, THREADS = WARPS * 32, COMBINE_THREADS = 64;
constexpr int ENOUGH_BLOCKS = 2048;
/// KV blocks whose places are in shared memory at a time.
constexpr int BLOCKS_AHEAD = 256;

/// Query heads of one kv head beyond `heads` go to other thread blocks.
struct Rows {
  int heads;        // query heads of one block of threads, at most HEADS
  int head_chunks;  // blocks of threads for one kv head
  int tiles;        // 0: rows are step.single_rows; 1: the rows of query tiles, whole contexts
};

/// What a block of threads works on: query heads first_head .. first_head + heads of a kv head's, of one row.
struct Task {
  int place;  // among the single rows
  int row, kv_head, first_head, heads;
  Context context;
};

/// False where the launch has more blocks of threads than the step has rows.
__device__ __forceinline__ bool find_task(const lmx_step &step, const lmx_attention &call, const Rows &rows, Task &task) {
  const int chunks = call.kv_heads * rows.head_chunks;
  const int chunk = blockIdx.x % chunks;
  task.place = blockIdx.x / chunks;
  if (rows.tiles) {
    const int tile = task.place / LMX_QUERY_TILE_ROWS, within = task.place % LMX_QUERY_TILE_ROWS;
    if (tile >= step.counts->query_tiles || within >= step.query_tiles[tile].rows) return false;
    task.row = step.query_tiles[tile].first_row + within;
  } else {
    if (task.place >= step.counts->single_rows) return false;
    task.row = step.single_rows[task.place];
  }
  task.kv_head = chunk / rows.head_chunks;
  const int group = call.heads / call.kv_heads, from = chunk % rows.head_chunks * rows.heads;
  task.first_head = task.kv_head * group + from;
  task.heads = min(rows.heads, group - from);
  task.context = context_of(step, task.row, call.window);
  return true;
}

/// queries [HEADS][WIDTH]: the task's, rotated and multiplied by `scale`; zeros beyond its heads and their numbers.
template <class T, int HEADS, int WIDTH>
__device__ __forceinline__ void load_queries(float (&queries)[HEADS][WIDTH], const lmx_attention &call, const Task &task, float scale) {
  const int pieces = call.dim / 8;
  const T *from = static_cast<const T *>(call.qkv) + task.row * size_t(call.heads + 2 * call.kv_heads) * call.dim;
  for (int i = threadIdx.x; i < HEADS * WIDTH; i += THREADS) queries[i / WIDTH][i % WIDTH] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < task.heads * pieces; i += THREADS) {
    const int head = i / pieces, piece = i % pieces;
    const Pairs pairs = load_pairs(from + size_t(task.first_head + head) * call.dim, call.dim, piece);
    const Pairs rotated = rotate(pairs, call.cos, call.sin, task.context.end - 1, call.dim, piece);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      queries[head][piece * 4 + k] = rotated.low[k] * scale;
      queries[head][call.dim / 2 + piece * 4 + k] = rotated.high[k] * scale;
    }
  }
}

/// LANES lanes hold one position's key, eight numbers each; 32 / LANES positions side by side in a warp.
template <class T, int LANES, int HEADS>
__global__ void __launch_bounds__(THREADS, HEADS > 2 ? 3 : 4) decode(lmx_step step, lmx_attention call, Rows rows, Partials partials) {
  constexpr int UNROLL = HEADS > 4 || sizeof(T) == 4 ? 2 : 4;
  constexpr int TILE = 32 / LANES * UNROLL;
  __shared__ float queries[HEADS][LANES * 8];
  __shared__ int32_t blocks[BLOCKS_AHEAD];
  __shared__ Running<HEADS> merged[WARPS][LANES];
  wait_for_launch_ahead();
  let_next_launch_begin();
  Task task;
  if (!find_task(step, call, rows, task)) return;
  const int end = task.context.end, first = first_of(task.context);
  const int length = rows.tiles ? end - first : split_length(end - first);
  const int count = div_up(end - first, length);
  if (int(blockIdx.y) >= count) return;

  // Scores come out in powers of two.
  load_queries<T>(queries, call, task, call.scale * 1.44269504088896341f);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const size_t mine = slot_offset(0, task.kv_head, 0, call) + lane % LANES * 8;
  const T *keys = static_cast<const T *>(call.keys) + mine, *values = static_cast<const T *>(call.values) + mine;

  for (int split = blockIdx.y; split < count; split += gridDim.y) {
    Running<HEADS> own;
#pragma unroll
    for (int h = 0; h < HEADS; ++h) {
      own.most[h] = -INFINITY;
      own.total[h] = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) own.sums[h][i] = 0;
    }
    const int to = min(first + (split + 1) * length, end);
    for (int stretch = first + split * length; stretch < to; stretch += BLOCKS_AHEAD * LMX_BLOCK) {
      const int stretch_end = min(stretch + BLOCKS_AHEAD * LMX_BLOCK, to);
      __syncthreads();
      for (int i = threadIdx.x; i < div_up(stretch_end - stretch, LMX_BLOCK); i += THREADS)
        blocks[i] = task.context.blocks[stretch / LMX_BLOCK + i];
      __syncthreads();
      for (int tile = stretch + warp * TILE; tile < stretch_end; tile += WARPS * TILE)
        see<T, LANES, HEADS, UNROLL>(own, queries, keys, values, blocks, stretch, tile, task.context.begin, stretch_end, call);
    }
#pragma unroll
    for (int apart = LANES; apart < 32; apart *= 2) merge_lanes<HEADS>(own, apart);
    if (lane < LANES) merged[warp][lane] = own;
    __syncthreads();

    for (int i = threadIdx.x; i < task.heads * call.dim; i += THREADS) {
      const int h = i / call.dim, d = i % call.dim, head = task.first_head + h;
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
      if (count == 1) {
        static_cast<T *>(call.out)[(task.row * size_t(call.heads) + head) * call.dim + d] = from_float<T>(sum / total);
        continue;
      }
      const size_t part = (size_t(task.place) * call.heads + head) * partials.splits + split;
      partials.sums[part * call.dim + d] = sum;
      if (d == 0) {
        partials.totals[part * 2] = most;
        partials.totals[part * 2 + 1] = total;
      }
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
  // Enough blocks of threads to fill a GPU several times; with more rows each does several parts, since those that find
  // none of theirs in a short context cost time too.
  const int wide = places * call.kv_heads * rows.head_chunks;
  const dim3 grid(wide, min(partials.splits, max(1, ENOUGH_BLOCKS / max(1, wide))));
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
  Partials partials{nullptr, nullptr, most_splits(call.max_context, call.window)};
  if (partials.splits > 1) {
    partials.sums = static_cast<float *>(call.workspace);
    partials.totals = partials.sums + size_t(call.single_rows) * call.heads * partials.splits * call.dim;
  }
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
