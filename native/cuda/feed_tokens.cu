// lmx_feed_tokens: a step's ids, some of which only the device knows yet.
#include "common.cuh"

namespace {

constexpr int THREADS = 256;

__global__ void __launch_bounds__(THREADS) feed(int64_t *ids, const int32_t *tokens, const uint32_t *last_sampled, int32_t rows, int32_t vocab) {
  const int row = int(blockIdx.x) * THREADS + int(threadIdx.x);
  if (row >= rows) return;
  const int32_t token = tokens[row];
  const uint32_t id = token < 0 ? last_sampled[-(token + 1)] : uint32_t(token);
  ids[row] = id < uint32_t(vocab) ? id : 0;
}

}  // namespace

lmx_status lmx_feed_tokens(int64_t *ids, const int32_t *tokens, const uint32_t *last_sampled, int32_t rows, int32_t vocab,
                           lmx_stream stream) {
  const lmx::Shape shape{dim3(lmx::div_up(rows, THREADS)), dim3(THREADS)};
  return lmx::launch(feed, shape, static_cast<cudaStream_t>(stream), ids, tokens, last_sampled, rows, vocab);
}
