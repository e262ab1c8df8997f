// Attention of query tiles, neighbouring rows of one sequence, by the tensor cores; float16 and bfloat16.
//
// A block of threads handles one tile of at most 64 query rows for one head: each warp 16 rows, keys in tiles that begin at
// multiples of their length, scores and sums in float32, the softmax online. All keys and values, the tile's own included,
// are in the pages already. Source: FlashAttention-2 (arXiv 2307.08691).
#include "attention.cuh"
#include "rotary.cuh"
#include "tensor_core.cuh"

namespace lmx {
namespace {

constexpr int THREADS = LMX_QUERY_TILE_ROWS / 16 * 32;

/// Keys of one tile, and elements between rows in shared memory: 16 bytes apart in banks.
__host__ __device__ constexpr int keys_of(int width) { return width > 128 ? 32 : 64; }
__host__ __device__ constexpr int stride_of(int width) { return width + 8; }

/// Starts to bring rows `first` .. of the sequence's pages; rows outside the context become zeros, and columns past dim stay.
template <class T, int WIDTH>
__device__ __forceinline__ void fetch(T *to, const T *pages, const Context &context, int first, const lmx_attention &call) {
  const int vectors = call.dim / 8;
  for (int i = threadIdx.x; i < keys_of(WIDTH) * vectors; i += THREADS) {
    const int position = first + i / vectors, column = i % vectors * 8;
    const bool inside = position >= context.begin && position < context.end;
    const T *from = pages;
    if (inside) from += slot_offset(context.blocks[position / LMX_BLOCK], 0, position % LMX_BLOCK, call) + column;
    copy_async(to + (position - first) * stride_of(WIDTH) + column, from, inside);
  }
  copy_async_commit();
}

/// WIDTH ≥ dim: columns in between are zeros.
template <class T, int WIDTH>
__global__ void __launch_bounds__(THREADS) prefill(lmx_step step, lmx_attention call) {
  constexpr int KEYS = keys_of(WIDTH), STRIDE = stride_of(WIDTH);
  LMX_SHARED(T, shared);
  T *queries = shared, *keys = queries + LMX_QUERY_TILE_ROWS * STRIDE, *values = keys + KEYS * STRIDE;
  // The tiles of most positions come last and begin first.
  const lmx_query_tile tile = step.query_tiles[gridDim.x - 1 - blockIdx.x];
  const int head = blockIdx.y, kv_head = head / (call.heads / call.kv_heads);
  const size_t row_width = size_t(call.heads + 2 * call.kv_heads) * call.dim;

  // What any row of the tile sees: its rows are in the order of their positions.
  Context context = context_of(step, tile.first_row, call.window);
  context.end = step.positions[tile.first_row + tile.rows - 1] + 1;
  const T *key_pages = static_cast<const T *>(call.keys) + slot_offset(0, kv_head, 0, call);
  const T *value_pages = static_cast<const T *>(call.values) + slot_offset(0, kv_head, 0, call);

  if (call.dim < WIDTH || tile.rows < LMX_QUERY_TILE_ROWS) {
    Vector<T> zeros;
    for (int i = 0; i < VECTOR<T>; ++i) zeros.at[i] = from_float<T>(0);
    for (int i = threadIdx.x * VECTOR<T>; i < (LMX_QUERY_TILE_ROWS + 2 * KEYS) * STRIDE; i += THREADS * VECTOR<T>) store_vector(shared + i, zeros);
    __syncthreads();
  }
  const int first = context.begin / KEYS * KEYS;
  fetch<T, WIDTH>(keys, key_pages, context, first, call);
  for (int i = threadIdx.x; i < tile.rows * (call.dim / 8); i += THREADS) {
    const int row = tile.first_row + i / (call.dim / 8), piece = i % (call.dim / 8);
    const T *query = static_cast<const T *>(call.qkv) + row * row_width + size_t(head) * call.dim;
    const Pairs pairs = rotate(load_pairs(query, call.dim, piece), call.cos, call.sin, step.positions[row], call.dim, piece);
    store_pairs(queries + (row - tile.first_row) * STRIDE, call.dim, piece, pairs);
  }

  // Of the 16 rows of its warp a thread holds rows `lane / 4` and 8 more, of every 8 columns two.
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int low = warp * 16 + lane / 4;
  int position[2];
  float most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
#pragma unroll
  for (int half = 0; half < 2; ++half)
    position[half] = low + half * 8 < tile.rows ? step.positions[tile.first_row + low + half * 8] : -1;
  float sums[WIDTH / 8][4] = {};
  const float scale = call.scale * 1.44269504088896341f; // scores in powers of two
  const int window = call.window > 0 ? call.window : context.end;

  for (int begin = first; begin < context.end; begin += KEYS) {
    fetch<T, WIDTH>(values, value_pages, context, begin, call);
    copy_async_wait<1>();
    __syncthreads();
    float scores[KEYS / 8][4] = {};
#pragma unroll
    for (int d = 0; d < WIDTH; d += 16) {
      Pair query[4];
      load_matrix_x4(query, queries + (warp * 16 + lane % 16) * STRIDE + d + lane / 16 * 8);
#pragma unroll
      for (int n = 0; n < KEYS / 8; n += 2) {
        Pair key[4];
        load_matrix_x4(key, keys + (n * 8 + lane / 16 * 8 + lane % 8) * STRIDE + d + lane / 8 % 2 * 8);
        multiply_add<T>(scores[n], query, key[0], key[1]);
        multiply_add<T>(scores[n + 1], query, key[2], key[3]);
      }
    }
    __syncthreads();
    if (begin + KEYS < context.end) fetch<T, WIDTH>(keys, key_pages, context, begin + KEYS, call);
    else copy_async_commit();

#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float highest = most[half];
#pragma unroll
      for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int behind = position[half] - (begin + n * 8 + lane % 4 * 2 + i);
          float &score = scores[n][half * 2 + i];
          score = behind >= 0 && behind < window ? score * scale : -INFINITY;
          highest = fmaxf(highest, score);
        }
      highest = fmaxf(highest, __shfl_xor_sync(ALL_LANES, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(ALL_LANES, highest, 2));
      // Until a row sees something its highest score is −∞, and its weights are e^(−∞) = 0.
      const float base = highest == -INFINITY ? 0.0f : highest;
      const float kept = exp2f(most[half] - base);
      most[half] = highest;
      total[half] *= kept;
#pragma unroll
      for (int n = 0; n < WIDTH / 8; ++n) {
        sums[n][half * 2] *= kept;
        sums[n][half * 2 + 1] *= kept;
      }
#pragma unroll
      for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float &score = scores[n][half * 2 + i];
          score = exp2f(score - base);
          total[half] += score;
        }
    }

    copy_async_wait<1>();
    __syncthreads();
#pragma unroll
    for (int k = 0; k < KEYS / 16; ++k) {
      const Pair weights[4] = {make_pair<T>(scores[k * 2][0], scores[k * 2][1]), make_pair<T>(scores[k * 2][2], scores[k * 2][3]),
                                   make_pair<T>(scores[k * 2 + 1][0], scores[k * 2 + 1][1]),
                                   make_pair<T>(scores[k * 2 + 1][2], scores[k * 2 + 1][3])};
#pragma unroll
      for (int n = 0; n < WIDTH / 8; n += 2) {
        Pair value[4];
        load_matrix_x4_transposed(value, values + (k * 16 + lane % 16) * STRIDE + n * 8 + lane / 16 * 8);
        multiply_add<T>(sums[n], weights, value[0], value[1]);
        multiply_add<T>(sums[n + 1], weights, value[2], value[3]);
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    total[half] += __shfl_xor_sync(ALL_LANES, total[half], 1);
    total[half] += __shfl_xor_sync(ALL_LANES, total[half], 2);
    if (position[half] < 0) continue;
    const float inverse = 1.0f / total[half];
    T *out = static_cast<T *>(call.out) + (size_t(tile.first_row + low + half * 8) * call.heads + head) * call.dim;
#pragma unroll
    for (int n = 0; n < WIDTH / 8; ++n) {
      const int column = n * 8 + lane % 4 * 2;
      if (n * 8 >= call.dim) break;
      *reinterpret_cast<Pair *>(out + column) = make_pair<T>(sums[n][half * 2] * inverse, sums[n][half * 2 + 1] * inverse);
    }
  }
}

template <class T, int WIDTH>
lmx_status launch_prefill(const lmx_step &step, const lmx_attention &call, lmx_stream stream) {
  const size_t bytes = size_t(LMX_QUERY_TILE_ROWS + 2 * keys_of(WIDTH)) * stride_of(WIDTH) * sizeof(T);
  const Shape shape{dim3(call.query_tiles, call.heads), dim3(THREADS), bytes};
  return launch(prefill<T, WIDTH>, shape, static_cast<cudaStream_t>(stream), step, call);
}

template <class T>
lmx_status with_width(const lmx_step &step, const lmx_attention &call, lmx_stream stream) {
  if (call.dim <= 64) return launch_prefill<T, 64>(step, call, stream);
  if (call.dim <= 96) return launch_prefill<T, 96>(step, call, stream);
  if (call.dim <= 128) return launch_prefill<T, 128>(step, call, stream);
  return launch_prefill<T, 256>(step, call, stream);
}

}  // namespace

lmx_status attend_tiles(const lmx_step &step, const lmx_attention &call, lmx_stream stream) {
  if (call.dtype == LMX_BF16) return with_width<__nv_bfloat16>(step, call, stream);
  return with_width<__half>(step, call, stream);
}

}  // namespace lmx
