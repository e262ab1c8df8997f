// Time on the device of what benchmarks queue. On the emulator sizes shrink and times say nothing.
#pragma once

#include <algorithm>

#include "data.h"

namespace lmx_test {

/// Seconds of one `work()`: the median of `rounds` rounds of `times` each, after one round to warm up.
template <class Work>
double seconds_of(Work work, int times, int rounds = 7) {
  cudaEvent_t from, to;
  NEED(cudaEventCreateWithFlags(&from, cudaEventDefault));
  NEED(cudaEventCreateWithFlags(&to, cudaEventDefault));
  std::vector<double> seconds;
  for (int round = 0; round <= rounds; ++round) {
    NEED(cudaEventRecord(from, nullptr));
    for (int i = 0; i < times; ++i) work();
    NEED(cudaEventRecord(to, nullptr));
    NEED(cudaEventSynchronize(to));
    float milliseconds = 0;
    NEED(cudaEventElapsedTime(&milliseconds, from, to));
    if (round > 0) seconds.push_back(static_cast<double>(milliseconds) / 1000 / times);
  }
  NEED(cudaEventDestroy(from));
  NEED(cudaEventDestroy(to));
  std::sort(seconds.begin(), seconds.end());
  return seconds[seconds.size() / 2];
}

/// Reads `count` vectors, so that the caches hold these and nothing else; clean, since a flush that writes leaves its own writing back
/// to be done in the time that is measured.
template <class Vector>
__global__ void read_through(const Vector *numbers, size_t count, float *out) {
  float sum = 0;
  for (size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x; i < count; i += static_cast<size_t>(gridDim.x) * blockDim.x) {
    sum += numbers[i].x;
  }
  // Never so: the buffer is zero.
  if (sum != 0) *out = sum;
}

/// Seconds of each of `rounds` works, ascending, none of whose data is in L2 when it begins. The device is busy with the flush while
/// the host queues the work, so launches cost what they cost the device.
template <class Work>
std::vector<double> cold_seconds_of(Work work, int rounds) {
  lmx_device_facts facts;
  NEED(lmx_device_facts_of(0, &facts));
  const size_t count = static_cast<size_t>(facts.l2_bytes) * 4 / sizeof(float4);
  const Device<float4> flush(count);
  const Device<float> out(1);
  NEED(lmx_zero(flush.data(), count * sizeof(float4), nullptr));
  const lmx::Shape shape{dim3(lmx_emulated() != 0 ? 1 : 1024), dim3(256)};
  cudaEvent_t from, to;
  NEED(cudaEventCreateWithFlags(&from, cudaEventDefault));
  NEED(cudaEventCreateWithFlags(&to, cudaEventDefault));
  std::vector<double> seconds;
  for (int round = -2; round < rounds; ++round) {
    NEED(lmx::launch(read_through<float4>, shape, nullptr, flush.data(), count, out.data()));
    NEED(cudaEventRecord(from, nullptr));
    work();
    NEED(cudaEventRecord(to, nullptr));
    NEED(cudaEventSynchronize(to));
    float milliseconds = 0;
    NEED(cudaEventElapsedTime(&milliseconds, from, to));
    if (round >= 0) seconds.push_back(static_cast<double>(milliseconds) / 1000);
  }
  NEED(cudaEventDestroy(from));
  NEED(cudaEventDestroy(to));
  std::sort(seconds.begin(), seconds.end());
  return seconds;
}

/// `on_gpu`, or what the emulator can do in a moment.
inline int sized(int on_gpu, int emulated) { return lmx_emulated() != 0 ? emulated : on_gpu; }

inline void say_where() {
  lmx_device_facts facts;
  NEED(lmx_device_facts_of(0, &facts));
  std::printf("%s%s\n", facts.name, lmx_emulated() != 0 ? ": small sizes, and times that say nothing of a GPU" : "");
}

/// Bytes a second, read and written, of a copy from memory to memory: what any kernel is measured by.
inline double copy_bandwidth() {
  const size_t bytes = lmx_emulated() != 0 ? 1 << 20 : size_t{1} << 30;
  Device<unsigned char> from(bytes), to(bytes);
  return 2 * static_cast<double>(bytes) / seconds_of([&] { NEED(lmx_copy(to.data(), from.data(), bytes, nullptr)); }, 4);
}

}  // namespace lmx_test
