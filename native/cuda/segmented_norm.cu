// RMS norm with an adapter's own weight, for the rows whose adapter brings one: y = x / √(mean(x²) + ε) ⊙ γ.
#include "span.cuh"

namespace {

using namespace lmx;

constexpr int THREADS = 256;

/// In every thread: the warps' sums, added up in order. `shared` has one place for each warp.
__device__ float block_sum(float x, float *shared) {
  const int thread = static_cast<int>(threadIdx.x);
  const float mine = warp_sum(x);
  if (thread % 32 == 0) shared[thread / 32] = mine;
  __syncthreads();
  float sum = 0;
  for (int warp = 0; warp < THREADS / 32; ++warp) sum += shared[warp];
  return sum;
}

/// The adapter's weight for this row, or null. A weight stands alone in its row's terms.
__device__ const float *weight_of(const lmx_step &step, int row, int norm) {
  const lmx_tile tile = step.row_terms[row];
  for (int k = 0; k < tile.terms; ++k) {
    const lmx_adapter &adapter = *step.terms[tile.first_term + k].adapter;
    if (adapter.norms != nullptr && adapter.norms[norm] != nullptr) return adapter.norms[norm];
  }
  return nullptr;
}

template <bool ALIGNED, class T>
__device__ void norm_row(T *y, const T *x, const float *weight, float epsilon, int hidden, float *shared) {
  constexpr int WIDE = VECTOR<T>;
  float squares = 0;
  for (int c = static_cast<int>(threadIdx.x) * WIDE; c < hidden; c += THREADS * WIDE) {
    const auto span = load_span<ALIGNED, WIDE>(x + c, hidden - c);
#pragma unroll
    for (int i = 0; i < WIDE; ++i) squares += to_float(span.at[i]) * to_float(span.at[i]);
  }
  const float scale = 1.0f / sqrtf(block_sum(squares, shared) / static_cast<float>(hidden) + epsilon);
  for (int c = static_cast<int>(threadIdx.x) * WIDE; c < hidden; c += THREADS * WIDE) {
    auto span = load_span<ALIGNED, WIDE>(x + c, hidden - c);
    const auto factor = load_span<ALIGNED, WIDE>(weight + c, hidden - c);
#pragma unroll
    for (int i = 0; i < WIDE; ++i) span.at[i] = from_float<T>(to_float(span.at[i]) * scale * factor.at[i]);
    store_span<ALIGNED>(y + c, span, hidden - c);
  }
}

/// Grid [rows].
template <class T>
__global__ void __launch_bounds__(THREADS) norm_rows(lmx_step step, T *y, const T *x, int norm, float epsilon, int hidden) {
  __shared__ float shared[THREADS / 32];
  const int row = static_cast<int>(blockIdx.x);
  if (row >= step.counts->rows) return;
  const float *weight = weight_of(step, row, norm);
  if (weight == nullptr) return;
  const size_t first = static_cast<size_t>(row) * static_cast<size_t>(hidden);
  with_alignment(hidden % 8 == 0,
                 [&](auto aligned) { norm_row<aligned.value>(y + first, x + first, weight, epsilon, hidden, shared); });
}

}  // namespace

extern "C" lmx_status lmx_segmented_norm(const lmx_step *host_step, void *y, const void *x, int32_t norm, float epsilon,
                                         int32_t dtype, int32_t rows, int32_t hidden, lmx_stream stream) {
  if (rows < 0 || hidden <= 0 || norm < 0) return cudaErrorInvalidValue;
  return with_dtype(dtype, [&](auto type) -> lmx_status {
    using T = typename decltype(type)::type;
    return launch(norm_rows<T>, {dim3(static_cast<unsigned>(rows)), dim3(THREADS)}, static_cast<cudaStream_t>(stream),
                  *host_step, static_cast<T *>(y), static_cast<const T *>(x), norm, epsilon, hidden);
  });
}
