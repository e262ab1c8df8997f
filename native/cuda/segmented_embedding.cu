// Rows of adapters that change the embedding: x ← g ⊙ (x + Σ_k w_k · s_k · B_k A_k[:, id]), or the adapter's own row of id.
#include "replaced_rows.cuh"

namespace {

using namespace lmx;

constexpr int THREADS = 256;

/// Σ_r b[column, r] · h[r]. One launch a step: a thread that walks along its row of B is fast enough.
__device__ float expand_column(const lmx_embedding_lora &lora, int column, const float *h) {
  const size_t first = static_cast<size_t>(column) * static_cast<size_t>(lora.rank);
  float sum = 0;
  for (int r = 0; r < lora.rank; ++r) sum += number_at(lora.b, lora.dtype, first + static_cast<size_t>(r)) * h[r];
  return sum;
}

/// Grid [rows, blocks of columns]; a thread has one column.
template <class T>
__global__ void __launch_bounds__(THREADS) embed(lmx_step step, T *y, int hidden) {
  __shared__ float h[MOST_RANK];
  const int row = static_cast<int>(blockIdx.x);
  if (row >= step.counts->rows) return;
  const lmx_tile tile = step.row_terms[row];
  const lmx_term *terms = step.terms + tile.first_term;
  bool touched = false;
  for (int k = 0; k < tile.terms; ++k)
    touched |= terms[k].adapter->embedding.rank > 0 || terms[k].adapter->embedding_rows.count > 0;
  if (!touched) return;
  const int64_t id = step.token_ids[row];
  const int thread = static_cast<int>(threadIdx.x), column = static_cast<int>(blockIdx.y) * THREADS + thread;
  T &at = y[static_cast<size_t>(row) * static_cast<size_t>(hidden) + static_cast<size_t>(min(column, hidden - 1))];
  float value = to_float(at);
  for (int k = 0; k < tile.terms; ++k) {
    const lmx_adapter &adapter = *terms[k].adapter;
    const lmx_embedding_lora &lora = adapter.embedding;
    if (lora.rank > 0 && id >= 0 && id < lora.vocab) {
      // The term before has read h.
      __syncthreads();
      const size_t first = static_cast<size_t>(id) * static_cast<size_t>(lora.rank);
      for (int r = thread; r < lora.rank; r += THREADS) {
        h[r] = number_at(lora.a, lora.dtype, first + static_cast<size_t>(r)) * (lora.scale * terms[k].weight);
      }
      __syncthreads();
      if (column < hidden) {
        value += expand_column(lora, column, h);
        if (lora.gain != nullptr) value *= lora.gain[column];
      }
    }
    const int own = row_of(adapter.embedding_rows, id);
    if (own >= 0 && column < hidden) {
      value = number_at(adapter.embedding_rows.rows, adapter.embedding_rows.dtype,
                        static_cast<size_t>(own) * static_cast<size_t>(hidden) + static_cast<size_t>(column));
    }
  }
  if (column < hidden) at = from_float<T>(value);
}

}  // namespace

extern "C" lmx_status lmx_segmented_embedding(const lmx_step *host_step, void *y, int32_t dtype, int32_t rows,
                                              int32_t hidden, lmx_stream stream) {
  if (rows < 0 || hidden <= 0) return cudaErrorInvalidValue;
  return with_dtype(dtype, [&](auto type) -> lmx_status {
    using T = typename decltype(type)::type;
    const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>(div_up(hidden, THREADS)));
    return launch(embed<T>, {grid, dim3(THREADS)}, static_cast<cudaStream_t>(stream), *host_step, static_cast<T *>(y),
                  hidden);
  });
}
