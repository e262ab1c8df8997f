// Sampling of a batch's logits, by what rows wish.
#include "measure.h"

using namespace lmx_test;

namespace {

/// Seconds of one call over [rows, vocab] of float16 whose rows all wish the same.
double sampling(int rows, int vocab, lmx_row_sampling wishes) {
  Random random(1);
  std::vector<float> logits(static_cast<size_t>(rows) * vocab);
  // Three uniforms are nearly normal; a model's likeliest tokens stand out.
  for (float &logit : logits) logit = random.number(4.0f) + random.number(4.0f) + random.number(4.0f);
  for (int i = 0; i < rows * 20; ++i) logits[static_cast<size_t>(i / 20) * vocab + random.below(vocab)] += 10.0f;
  wishes.slot = wishes.follows = wishes.mask = -1;
  std::vector<lmx_row_sampling> row_sampling;
  for (int i = 0; i < rows; ++i) {
    wishes.seed = static_cast<uint64_t>(i);
    row_sampling.push_back(wishes);
  }
  const auto numbers = upload(LMX_F16, logits);
  const auto list = static_cast<size_t>(rows) * LMX_MOST_TOP;
  Device<float> processed(logits.size()), logprobs(rows), top_logprobs(list);
  Device<lmx_row_sampling> device_wishes(row_sampling);
  Device<uint32_t> tokens(rows), top_ids(list);
  Device<int32_t> top_counts(rows);
  lmx_sampling call = {};
  call.logits = numbers.data();
  call.processed = processed.data();
  call.rows_sampling = device_wishes.data();
  call.tokens = tokens.data();
  call.logprobs = logprobs.data();
  call.top_ids = top_ids.data();
  call.top_logprobs = top_logprobs.data();
  call.top_counts = top_counts.data();
  call.dtype = LMX_F16;
  call.rows = rows;
  call.vocab = call.token_count = vocab;
  return seconds_of([&] { NEED(lmx_sample(&call, nullptr)); }, sized(20, 1), sized(7, 1));
}

}  // namespace

LMX_TEST(batches_of_one_wish) {
  lmx_row_sampling plain = {};
  plain.temperature = plain.top_p = plain.typical_p = 1;
  const auto with = [&](auto change) {
    lmx_row_sampling wishes = plain;
    change(wishes);
    return wishes;
  };
  const struct {
    const char *name;
    lmx_row_sampling wishes;
  } kinds[] = {
      {"greedy", with([](auto &w) { w.greedy = 1; })},
      {"greedy, 5 logprobs", with([](auto &w) { w.greedy = 1, w.logprobs = 2, w.top = 5; })},
      {"temperature", with([](auto &w) { w.temperature = 0.8f; })},
      {"top-k 50", with([](auto &w) { w.top_k = 50; })},
      {"top-p 0.95", with([](auto &w) { w.top_p = 0.95f; })},
      {"top-k 50, top-p 0.95, min-p 0.05", with([](auto &w) { w.top_k = 50, w.top_p = 0.95f, w.min_p = 0.05f; })},
      {"typical-p 0.9", with([](auto &w) { w.typical_p = 0.9f; })},
  };
  say_where();
  const int rows = sized(32, 2), vocab = sized(32000, 1000);
  for (const auto &kind : kinds) std::printf("[%d, %d] %s: %.1f us\n", rows, vocab, kind.name, sampling(rows, vocab, kind.wishes) * 1e6);
}
