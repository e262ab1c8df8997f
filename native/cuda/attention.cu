// lmx_attend: rotary, append to the pages, attend over them; native/src/ops/paged_attention.rs on the GPU.
#include "attention.cuh"

using namespace lmx;

size_t lmx_attention_workspace(int32_t single_rows, int32_t heads, int32_t dim, int32_t max_context) {
  return partial_bytes(single_rows, heads, dim, most_splits(max_context, -1));
}

lmx_status lmx_attend(const lmx_step *host_step, const lmx_attention *host_call, lmx_stream stream) {
  const lmx_step &step = *host_step;
  const lmx_attention &call = *host_call;
  const bool divides = call.kv_heads > 0 && call.heads > 0 && call.heads % call.kv_heads == 0;
  if (!divides || call.dim <= 0 || call.dim % 8 != 0 || call.dim > 256) return cudaErrorInvalidValue;
  if (call.block_stride % 8 != 0 || call.block_stride < int64_t(call.kv_heads) * LMX_BLOCK * call.dim) return cudaErrorInvalidValue;
  lmx_status status = append_rows(step, call, stream);
  if (status == 0 && call.single_rows > 0) status = attend_single_rows(step, call, stream);
  if (status == 0 && call.query_tiles > 0)
    status = call.dtype == LMX_F32 ? attend_tile_rows(step, call, stream) : attend_tiles(step, call, stream);
  return status;
}
