// What the device's memory gives: what shares of bandwidth in other benches are shares of. One line of JSON.
#include <algorithm>
#include <chrono>

#include "check.h"

LMX_TEST(copies_on_the_device) {
  const size_t bytes = lmx_emulated() ? size_t{16} << 20 : size_t{2} << 30;
  lmx_device_facts facts;
  NEED(lmx_device_use(0));
  NEED(lmx_device_facts_of(0, &facts));
  lmx_stream stream;
  NEED(lmx_stream_create(&stream, 0));
  void *from = nullptr, *to = nullptr;
  NEED(lmx_alloc(&from, bytes));
  NEED(lmx_alloc(&to, bytes));
  NEED(lmx_zero(from, bytes, stream));
  double best = 0;
  for (int round = 0; round < 6; ++round) {
    NEED(lmx_stream_wait(stream));
    const auto begin = std::chrono::steady_clock::now();
    const int copies = 8;
    for (int i = 0; i < copies; ++i) NEED(lmx_copy(to, from, bytes, stream));
    NEED(lmx_stream_wait(stream));
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    // Each byte is read and written.
    best = std::max(best, 2.0 * copies * static_cast<double>(bytes) / seconds.count());
  }
  CHECK(best > 0);
  std::printf("{\"bench\":\"memory\",\"device\":\"%s\",\"capability\":%d,\"driver\":%d,\"bytes_per_second\":%.4g}\n", facts.name, facts.capability,
              facts.driver, best);
  NEED(lmx_free(from));
  NEED(lmx_free(to));
  NEED(lmx_stream_destroy(stream));
}
