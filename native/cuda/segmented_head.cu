// Logits of the tokens whose row of the head an adapter replaces: logits[i, t] = w_t · x[i]; others stay.
#include "dot_rows.cuh"

namespace {

using namespace lmx;

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
/// For each multiprocessor, whatever the batch: what fits there, and few where no adapter brings a head, which is the rule.
constexpr int BLOCKS = 2;

/// The rows that a tile's adapter brings, or null. They stand alone in their row's terms.
__device__ const lmx_replaced_rows *head_of(const lmx_step &step, const lmx_tile &tile) {
  for (int k = 0; k < tile.terms; ++k) {
    const lmx_replaced_rows &rows = step.terms[tile.first_term + k].adapter->head_rows;
    if (rows.count > 0) return &rows;
  }
  return nullptr;
}

template <class T>
__device__ void multiply_tile(const lmx_tile &tile, const lmx_replaced_rows &head, T *logits, const T *x, int vocab,
                              int hidden) {
  const T *x_rows = x + static_cast<size_t>(tile.first_row) * static_cast<size_t>(hidden);
  T *out = logits + static_cast<size_t>(tile.first_row) * static_cast<size_t>(vocab);
  const int warp = static_cast<int>(blockIdx.x) * WARPS + static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(gridDim.x) * WARPS;
  const auto store = [&](int row, int at, float product) {
    const int64_t token = head.tokens == nullptr ? at : static_cast<int64_t>(head.tokens[at]);
    if (token < vocab)
      out[static_cast<size_t>(row) * static_cast<size_t>(vocab) + static_cast<size_t>(token)] = from_float<T>(product);
  };
  with_pointer(head.dtype, head.rows, [&](const auto *rows) {
    with_alignment(hidden % 8 == 0, [&](auto aligned) {
      dot_rows<aligned.value>(x_rows, tile.rows, rows, head.count, hidden, 0, hidden, warp, warps, store);
    });
  });
}

/// Every block takes its share of every tile's head rows. Its threads look at one tile each for whether there are any.
template <class T>
__global__ void __launch_bounds__(THREADS, BLOCKS)
    multiply_head(lmx_step step, T *logits, const T *x, int vocab, int hidden) {
  __shared__ unsigned found[WARPS];
  const int tiles = step.counts->head_tiles, thread = static_cast<int>(threadIdx.x);
  for (int first = 0; first < tiles; first += THREADS) {
    const bool has = first + thread < tiles && head_of(step, step.head_tiles[first + thread]) != nullptr;
    const unsigned lanes = __ballot_sync(ALL_LANES, has);
    if (thread % 32 == 0) found[thread / 32] = lanes;
    __syncthreads();
    for (int warp = 0; warp < WARPS; ++warp) {
      for (unsigned left = found[warp]; left != 0; left &= left - 1) {
        const lmx_tile tile = step.head_tiles[first + warp * 32 + __ffs(static_cast<int>(left)) - 1];
        multiply_tile(tile, *head_of(step, tile), logits, x, vocab, hidden);
      }
    }
    __syncthreads();
  }
}

}  // namespace

extern "C" lmx_status lmx_segmented_head(const lmx_step *host_step, void *logits, const void *x, int32_t dtype, int32_t rows,
                                         int32_t vocab, int32_t hidden, lmx_stream stream) {
  if (rows < 0 || vocab <= 0 || hidden <= 0) return cudaErrorInvalidValue;
  if (rows == 0) return cudaSuccess;
  int multiprocessors = 0;
  const cudaError_t error = device_attribute(cudaDevAttrMultiProcessorCount, multiprocessors);
  if (error != cudaSuccess) return error;
  return with_dtype(dtype, [&](auto type) -> lmx_status {
    using T = typename decltype(type)::type;
    return launch(multiply_head<T>, {dim3(static_cast<unsigned>(BLOCKS * multiprocessors)), dim3(THREADS)},
                  static_cast<cudaStream_t>(stream), *host_step, static_cast<T *>(logits), static_cast<const T *>(x), vocab,
                  hidden);
  });
}
