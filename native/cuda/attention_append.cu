// Appends a step's keys, rotated, and values to the KV blocks.
//
// k'[r] = k[r] · cos[p, r] − k[r + dim / 2] · sin[p, r];  k'[r + dim / 2] = k[r + dim / 2] · cos[p, r] + k[r] · sin[p, r]
// for r < dim / 2 and the row's position p (RoFormer, arXiv 2104.09864). qkv [rows, (heads + 2 · kv_heads) · dim].
#include "attention.cuh"
#include "rotary.cuh"

namespace lmx {
namespace {

constexpr int THREADS = 256;

/// One thread moves four pairs of one head's key and eight numbers of its value.
template <class T>
__global__ void __launch_bounds__(THREADS) append(lmx_step step, lmx_attention call) {
  const int pieces = call.kv_heads * (call.dim / 8);
  const int64_t task = int64_t(blockIdx.x) * THREADS + threadIdx.x;
  const int row = int(task / pieces);
  if (row >= step.counts->rows) return;
  const int slot = step.slots[row];
  if (slot < 0) return;
  const int head = int(task % pieces) / (call.dim / 8);
  const int piece = int(task % pieces) % (call.dim / 8);

  const size_t width = size_t(call.heads + 2 * call.kv_heads) * call.dim;
  const T *key = static_cast<const T *>(call.qkv) + row * width + size_t(call.heads + head) * call.dim;
  const T *value = key + size_t(call.kv_heads) * call.dim;
  const size_t to = slot_offset(slot / LMX_BLOCK, head, slot % LMX_BLOCK, call);
  const Pairs rotated = rotate(load_pairs(key, call.dim, piece), call.cos, call.sin, step.positions[row], call.dim, piece);
  store_pairs(static_cast<T *>(call.keys) + to, call.dim, piece, rotated);
  T *value_to = static_cast<T *>(call.values) + to;
#pragma unroll
  for (int i = piece * 8; i < piece * 8 + 8; i += VECTOR<T>) store_vector(value_to + i, load_vector(value + i));
}

}  // namespace

lmx_status append_rows(const lmx_step &step, const lmx_attention &call, lmx_stream stream) {
  const int64_t tasks = int64_t(call.rows) * call.kv_heads * (call.dim / 8);
  const Shape shape{dim3(static_cast<unsigned>((tasks + THREADS - 1) / THREADS)), dim3(THREADS)};
  return with_dtype(call.dtype, [&](auto type) -> lmx_status {
    return launch(append<typename decltype(type)::type>, shape, static_cast<cudaStream_t>(stream), step, call);
  });
}

}  // namespace lmx
