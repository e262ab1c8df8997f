// y = silu(gate) · up of x = gate | up.
#include "span.cuh"

namespace {

using namespace lmx;

constexpr int THREADS = 256;

/// A thread takes 16 bytes of y.
template <bool ALIGNED, class T>
__global__ void __launch_bounds__(THREADS) gated_silu(T *y, const T *x, int rows, int width) {
  constexpr int WIDE = VECTOR<T>;
  const int spans = div_up(width, WIDE);
  const size_t at = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
  const size_t row = at / static_cast<size_t>(spans);
  if (row >= static_cast<size_t>(rows)) return;
  const int c = static_cast<int>(at % static_cast<size_t>(spans)) * WIDE, left = width - c;
  const T *from = x + row * 2 * static_cast<size_t>(width) + static_cast<size_t>(c);
  auto gate = load_span<ALIGNED, WIDE>(from, left);
  const auto up = load_span<ALIGNED, WIDE>(from + width, left);
#pragma unroll
  for (int i = 0; i < WIDE; ++i) {
    const float g = to_float(gate.at[i]);
    gate.at[i] = from_float<T>(g / (1.0f + expf(-g)) * to_float(up.at[i]));
  }
  store_span<ALIGNED>(y + row * static_cast<size_t>(width) + static_cast<size_t>(c), gate, left);
}

}  // namespace

extern "C" lmx_status lmx_gated_silu(void *y, const void *x, int32_t dtype, int32_t rows, int32_t width, lmx_stream stream) {
  if (rows < 0 || width <= 0) return cudaErrorInvalidValue;
  return with_dtype(dtype, [&](auto type) -> lmx_status {
    using T = typename decltype(type)::type;
    const size_t spans = static_cast<size_t>(rows) * static_cast<size_t>(div_up(width, VECTOR<T>));
    const Shape shape{dim3(static_cast<unsigned>((spans + THREADS - 1) / THREADS)), dim3(THREADS)};
    return launch(width % 8 == 0 ? gated_silu<true, T> : gated_silu<false, T>, shape, static_cast<cudaStream_t>(stream),
                  static_cast<T *>(y), static_cast<const T *>(x), rows, width);
  });
}
