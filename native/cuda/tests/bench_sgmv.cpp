// SGMV of one site, float16, with nothing in L2: what the factors' bytes take, beside a copy on the device. Lines of JSON.
// Target: 4096 to 11008 at rank 16, 64 distinct adapters in a batch of 64, in 17 µs on an H100 (31 MB of factors: 9 µs at
// its 3.35 TB/s).
#include "adapters.h"
#include "measure.h"

using namespace lmx_test;

namespace {

struct Load {
  const char *name;
  int rows;      // of the batch
  int adapters;  // rows / adapters of each, neighbours
};

/// `prefill`: its segments are long enough for the tensor cores.
void measure(const Load &load, bool prefill, int in, int rank, int out, double copy) {
  Arena arena;
  Random random(1);
  std::vector<Segment> segments;
  for (int i = 0; i < load.adapters; ++i) {
    const Site site{LMX_F16, {random_part(random, LMX_F16, rank, in, 0, out, false, false)}};
    segments.push_back({load.rows / load.adapters, {{put_adapter(arena, {site}), 1.0f, 0}}});
  }
  const lmx_step step = put_step(arena, segments, {}, prefill);
  const auto rows = static_cast<size_t>(load.rows);
  const auto x = upload(LMX_F16, random_numbers(random, LMX_F16, rows * static_cast<size_t>(in)));
  const auto y = upload(LMX_F16, std::vector<float>(rows * static_cast<size_t>(out)));
  const Device<float> h(lmx_sgmv_workspace(load.rows, in, rank));
  lmx_sgmv call{};
  call.x = x.data();
  call.y = y.data();
  call.h = h.data();
  call.dtype = LMX_F16;
  call.rows = load.rows;
  call.in_features = in;
  call.out_features = out;
  call.h_stride = rank;
  call.has_long = prefill ? 1 : 0;
  const auto seconds = cold_seconds_of([&] { NEED(lmx_sgmv_apply(&step, &call, nullptr)); }, sized(201, 2));
  const double factors = 2.0 * load.adapters * rank * (in + out), rest = 2.0 * load.rows * (in + 2.0 * out);
  const double median = seconds[seconds.size() / 2];
  std::printf(
      "{\"bench\":\"sgmv\",\"load\":\"%s\",\"rows\":%d,\"adapters\":%d,\"in\":%d,\"rank\":%d,\"out\":%d,\"microseconds\":%."
      "2f,"
      "\"p95_microseconds\":%.2f,\"bytes_per_second\":%.4g,\"share_of_copy\":%.3f,\"emulated\":%s}\n",
      load.name, load.rows, load.adapters, in, rank, out, median * 1e6, seconds[seconds.size() * 95 / 100] * 1e6,
      (factors + rest) / median, (factors + rest) / median / copy, lmx_emulated() != 0 ? "true" : "false");
}

}  // namespace

LMX_TEST(one_site_by_load) {
  say_where();
  const double copy = copy_bandwidth();
  const int in = sized(4096, 264), out = sized(11008, 520);
  const int batch = sized(64, 4);
  for (const int rank : {sized(16, 4), sized(64, 8)}) {
    const Load loads[] = {{"single", 1, 1},
                          {"distinct", batch / 4, batch / 4},
                          {"distinct", batch, batch},
                          {"uniform", batch, batch / 4},
                          {"identical", batch, 1}};
    for (const Load &load : loads) measure(load, false, in, rank, out, copy);
    measure({"prefill", sized(2048, 64), 1}, true, in, rank, out, copy);
  }
}
