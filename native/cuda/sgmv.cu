// SGMV behind the C interface.
#include "sgmv_rows.cuh"
#include "sgmv_tiles.cuh"

namespace {

/// Blocks of one launch over pieces: more pieces are taken in turns. Short prompts and decoding never reach it.
constexpr int MOST_PIECES = 256;

template <class T>
lmx_status apply(const lmx_step &step, const lmx_sgmv &call, cudaStream_t stream) {
  using namespace lmx;
  const auto pieces = static_cast<unsigned>(call.rows < MOST_PIECES ? call.rows : MOST_PIECES);
  const auto splits = static_cast<unsigned>(split_of(call.in_features, MOST_SPLITS).count);
  const auto blocks = static_cast<unsigned>(div_up(call.out_features, EXPAND_COLUMNS));
  cudaError_t error = launch(shrink_rows<T>, {dim3(splits, pieces), dim3(ROWS_THREADS)}, stream, step, call);
  if (error != cudaSuccess) return error;
  error = launch(expand_rows<T>, {dim3(blocks, pieces), dim3(ROWS_THREADS), 0, true}, stream, step, call);
  if (error != cudaSuccess || call.has_long == 0 || call.at_head != 0) return error;
  return apply_to_tiles<T>(step, call, stream);
}

}  // namespace

extern "C" size_t lmx_sgmv_workspace(int32_t rows, int32_t in_features, int32_t h_stride) {
  if (rows <= 0 || in_features <= 0 || h_stride <= 0) return 0;
  return static_cast<size_t>(lmx::split_of(in_features, lmx::MOST_SPLITS).count) * static_cast<size_t>(rows) *
         static_cast<size_t>(h_stride);
}

extern "C" lmx_status lmx_sgmv_apply(const lmx_step *host_step, const lmx_sgmv *host_call, lmx_stream stream) {
  const lmx_sgmv &call = *host_call;
  if (call.rows < 0 || call.in_features <= 0 || call.out_features <= 0 || call.site < 0 || call.h_stride < 0)
    return cudaErrorInvalidValue;
  return lmx::with_dtype(call.dtype, [&](auto type) {
    return apply<typename decltype(type)::type>(*host_step, call, static_cast<cudaStream_t>(stream));
  });
}
