// What the emulator refuses: a GPU would hang or go on with undefined values.
#include "data.h"
#include "tensor_core.cuh"

#if !defined(LMX_EMULATED)
LMX_TEST(only_the_emulator_reports_broken_rules) { std::printf("skipped: not the emulator\n"); }
#else

using namespace lmx_test;

/// The kernel fails, and the report holds `part`.
template <class... Params, class... Args>
void expect_failure(const char *part, unsigned threads, size_t shared_bytes, void (*kernel)(Params...), Args... args) {
  const int status = lmx::launch(kernel, {dim3(2), dim3(threads), shared_bytes}, nullptr, args...);
  CHECK(status == cudaErrorLaunchFailure);
  context() = std::string("«") + lmx_error_text(status) + "», expected «" + part + "»";
  CHECK(std::string(lmx_error_text(status)).find(part) != std::string::npos);
  context().clear();
}

__global__ void one_thread_leaves() {
  if (threadIdx.x == 40) return;
  __syncthreads();
}
__global__ void one_warp_goes_elsewhere() {
  if (threadIdx.x < 32) __syncthreads();
  else __syncthreads();
}
__global__ void one_lane_misses_the_shuffle(int *out) {
  if (threadIdx.x != 3) out[threadIdx.x] = __shfl_xor_sync(lmx::ALL_LANES, 1, 1);
  else __syncwarp();
}
__global__ void reads_a_lane_that_takes_no_part(int *out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffffu, 1, 20);
}
__global__ void diverged_product(float *out) {
  float c[4] = {};
  const lmx::Pair a[4] = {};
  if (threadIdx.x < 31) lmx::multiply_add<__half>(c, a, 0, 0);
  out[threadIdx.x] = c[0];
}
__global__ void writes_behind_shared_memory() {
  LMX_SHARED(float, numbers);
  numbers[threadIdx.x] = 1;
}
__global__ void loads_misaligned(const float *in, float *out) {
  out[threadIdx.x] = lmx::load_vector(in + threadIdx.x).at[0];
}

LMX_TEST(broken_rules_are_reported) {
  Device<int> ints(64);
  Device<float> floats(64);
  expect_failure("1 threads have ended before this barrier", 64, 0, one_thread_leaves);
  expect_failure("different barriers", 64, 0, one_warp_goes_elsewhere);
  expect_failure("never come", 32, 0, one_lane_misses_the_shuffle, ints.data());
  expect_failure("lane 20, which takes no part", 32, 0, reads_a_lane_that_takes_no_part, ints.data());
  expect_failure("lane 31 of mask ffffffff has ended", 32, 0, diverged_product, floats.data());
  expect_failure("behind its end", 33, 32 * sizeof(float), writes_behind_shared_memory);
  expect_failure("misaligned", 32, 0, loads_misaligned, floats.data(), floats.data());
  CHECK(lmx::launch(writes_behind_shared_memory, {dim3(1), dim3(2048), 4}, nullptr) == cudaErrorInvalidConfiguration);
  // And the next kernel runs.
  NEED(lmx::launch(writes_behind_shared_memory, {dim3(1), dim3(32), 32 * sizeof(float)}, nullptr));
}

/// Neighbours read each other's number without a barrier between.
__global__ void no_barrier(int *out) {
  __shared__ int numbers[32];
  const unsigned t = threadIdx.x;
  numbers[t] = 0;
  __syncthreads();
  numbers[t] = 1;
  out[blockIdx.x * 32 + t] = numbers[(t + 1) % 32] + numbers[(t + 31) % 32];
}
/// Shared memory that is read before it is written, and a copy that nobody waits for.
__global__ void reads_too_early(float *out, const float *in) {
  LMX_SHARED(float, numbers);
  if (blockIdx.x == 1) {
    lmx::copy_async(numbers, in);
    lmx::copy_async_commit();
  }
  out[blockIdx.x] = numbers[0];
}

LMX_TEST(missing_barriers_and_waits_show_in_results) {
  Device<int> out(64);
  NEED(lmx::launch(no_barrier, {dim3(2), dim3(32)}, nullptr, out.data()));
  int wrong = 0;
  for (const int value : out.get()) wrong += value != 2;
  CHECK(wrong >= 62);
  Device<float> early(2), in(std::vector<float>(4, 1.0f));
  NEED(lmx::launch(reads_too_early, {dim3(2), dim3(1), 16}, nullptr, early.data(), in.data()));
  for (const float value : early.get()) CHECK(std::isnan(value));
}

#endif
