// lmx_feed_tokens: ids that the host knows, and those that only the device knows yet.
#include "data.h"

using namespace lmx_test;

LMX_TEST(tokens_come_from_the_batch_or_from_what_was_sampled_last) {
  const std::vector<uint32_t> last_sampled = {11, 0xffffffffu, 99, 100};
  const std::vector<int32_t> tokens = {5, -1, 0, -3, 99, -2, -4};
  Device<uint32_t> slots(last_sampled);
  Device<int32_t> batch(tokens);
  Device<int64_t> ids(std::vector<int64_t>(tokens.size() + 1, 77));
  NEED(lmx_feed_tokens(ids.data(), batch.data(), slots.data(), static_cast<int32_t>(tokens.size()), 100, nullptr));
  // Slot 1 has no token, slot 3 none of this vocabulary.
  CHECK((ids.get() == std::vector<int64_t>{5, 11, 0, 99, 99, 0, 0, 77}));
}

LMX_TEST(many_rows_and_none) {
  std::vector<int32_t> tokens(1000);
  for (int i = 0; i < 1000; ++i) tokens[i] = i % 3 == 0 ? -1 - i / 3 : i;
  std::vector<uint32_t> last_sampled(400);
  for (uint32_t i = 0; i < 400; ++i) last_sampled[i] = 5000 + i;
  Device<uint32_t> slots(last_sampled);
  Device<int32_t> batch(tokens);
  Device<int64_t> ids(1000);
  NEED(lmx_feed_tokens(ids.data(), batch.data(), slots.data(), 1000, 32000, nullptr));
  const auto got = ids.get();
  for (int i = 0; i < 1000; ++i) CHECK(got[i] == (i % 3 == 0 ? 5000 + i / 3 : i));
  NEED(lmx_feed_tokens(ids.data(), batch.data(), slots.data(), 0, 32000, nullptr));
}
