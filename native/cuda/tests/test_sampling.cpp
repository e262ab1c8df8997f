// lmx_sample against its definition: equal tokens, lists and slots, log-probabilities to float32's last bits.
#include "random.cuh"
#include "sampling_reference.h"

using namespace lmx_test;

namespace {

const int DTYPES[] = {LMX_F32, LMX_F16, LMX_BF16};
const int SLOTS = 8;

Wishes greedy() {
  Wishes wishes = {};
  wishes.row.greedy = 1;
  wishes.row.temperature = wishes.row.top_p = wishes.row.typical_p = 1;
  wishes.row.slot = wishes.row.follows = wishes.row.mask = -1;
  return wishes;
}

Wishes drawn(uint64_t seed) {
  Wishes wishes = greedy();
  wishes.row.greedy = 0;
  wishes.row.seed = seed;
  wishes.row.choice = static_cast<uint32_t>(seed % 3);
  wishes.row.position = static_cast<uint32_t>(seed * 7);
  return wishes;
}

/// Sums of a few uniforms, so that logits bunch as a model's do.
std::vector<float> random_logits(Random &random, int dtype, int vocab, float range) {
  std::vector<float> logits(vocab);
  for (float &logit : logits) logit = random.number(range) + random.number(range) + random.number(range);
  return decode(dtype, encode(dtype, logits));
}

bool close(float got, float want) { return got == want || (got != got && want != want) || std::fabs(got - want) <= 4e-7f * (1 + std::fabs(want)); }

/// Rows of one call, on the device and by the reference.
void check(int dtype, const std::vector<std::vector<float>> &logits, const std::vector<Wishes> &wishes, int token_count = 1 << 30) {
  const auto vocab = static_cast<int>(logits[0].size());
  const auto rows = static_cast<int>(logits.size());
  const int words = lmx::div_up(vocab, 32);
  std::vector<float> all;
  std::vector<lmx_row_sampling> row_sampling;
  std::vector<uint32_t> bias_ids(1), banned(1), masks(1);
  std::vector<float> bias_values(1);
  std::vector<lmx_counted_token> counted(1);
  std::vector<double> shares;
  masks.resize(words);
  for (int i = 0; i < rows; ++i) {
    all.insert(all.end(), logits[i].begin(), logits[i].end());
    lmx_row_sampling row = wishes[i].row;
    row.first_bias = static_cast<int32_t>(bias_ids.size());
    row.biases = static_cast<int32_t>(wishes[i].bias.size());
    for (const auto &[id, value] : wishes[i].bias) {
      bias_ids.push_back(id);
      bias_values.push_back(value);
    }
    row.first_banned = static_cast<int32_t>(banned.size());
    row.banned = static_cast<int32_t>(wishes[i].banned.size());
    banned.insert(banned.end(), wishes[i].banned.begin(), wishes[i].banned.end());
    row.first_counted = static_cast<int32_t>(counted.size());
    row.counted = static_cast<int32_t>(wishes[i].counted.size());
    counted.insert(counted.end(), wishes[i].counted.begin(), wishes[i].counted.end());
    if (!wishes[i].mask.empty()) {
      row.mask = static_cast<int32_t>(masks.size()) / words;
      masks.insert(masks.end(), wishes[i].mask.begin(), wishes[i].mask.end());
    }
    row_sampling.push_back(row);
    shares.push_back(lmx::uniform(row.seed, row.choice, row.position));
  }
  auto device_logits = upload(dtype, all);
  Device<float> processed(all.size()), values(bias_values), logprobs(rows), top_logprobs(static_cast<size_t>(rows) * LMX_MOST_TOP);
  Device<lmx_row_sampling> sampling(row_sampling);
  Device<uint32_t> ids(bias_ids), forbidden(banned), mask(masks), tokens(rows), top_ids(static_cast<size_t>(rows) * LMX_MOST_TOP);
  std::vector<uint32_t> slots(SLOTS, 12345);
  Device<uint32_t> last_sampled(slots);
  Device<lmx_counted_token> penalised(counted);
  Device<int32_t> top_counts(rows);
  const lmx_sampling call = {device_logits.data(), processed.data(), sampling.data(), ids.data(),      values.data(),    forbidden.data(),
                             penalised.data(),     mask.data(),      last_sampled.data(), tokens.data(), logprobs.data(), top_ids.data(),
                             top_logprobs.data(),  top_counts.data(), dtype,              rows,          vocab,           std::min(token_count, vocab)};
  NEED(lmx_sample(&call, nullptr));
  NEED(lmx_stream_wait(nullptr));

  const auto want = sample_all(logits, wishes, shares, std::min(token_count, vocab), slots);
  const auto got_tokens = tokens.get(), got_ids = top_ids.get();
  const auto got_logprobs = logprobs.get(), got_top = top_logprobs.get();
  const auto got_counts = top_counts.get();
  const std::string about = context();
  for (int i = 0; i < rows; ++i) {
    context() = about + " row " + std::to_string(i) + " of " + dtype_name(dtype) + " [" + std::to_string(vocab) + "]";
    CHECK(got_tokens[i] == want[i].token);
    CHECK(close(got_logprobs[i], want[i].logprob));
    CHECK(got_counts[i] == static_cast<int>(want[i].top.size()));
    for (size_t k = 0; k < want[i].top.size() && static_cast<int>(k) < got_counts[i]; ++k) {
      CHECK(got_ids[static_cast<size_t>(i) * LMX_MOST_TOP + k] == want[i].top[k].id);
      CHECK(close(got_top[static_cast<size_t>(i) * LMX_MOST_TOP + k], want[i].top[k].logprob));
    }
  }
  context() = about;
  CHECK(last_sampled.get() == slots);
}

/// Wishes with anything on or off, at random.
Wishes anything(Random &random, int vocab, uint64_t seed) {
  Wishes wishes = random.below(4) == 0 ? greedy() : drawn(seed);
  lmx_row_sampling &row = wishes.row;
  const auto sometimes = [&] { return random.below(3) == 0; };
  if (sometimes()) row.temperature = 0.3f + 0.2f * static_cast<float>(random.below(8));
  if (sometimes()) row.top_k = 1 + random.below(random.below(2) == 0 ? 50 : 2 * vocab);
  if (sometimes()) row.top_p = 0.05f * static_cast<float>(1 + random.below(19));
  if (sometimes()) row.min_p = 0.02f * static_cast<float>(random.below(30));
  if (sometimes()) row.typical_p = 0.1f * static_cast<float>(1 + random.below(9));
  row.logprobs = random.below(3);
  row.top = row.logprobs == 0 ? 0 : random.below(3) == 0 ? LMX_MOST_TOP : random.below(8);
  for (int i = 0; i < 5 && sometimes(); ++i) wishes.bias.emplace_back(static_cast<uint32_t>(i * vocab / 4), random.number(5.0f));
  for (int i = 0; i < 5 && sometimes(); ++i) wishes.banned.push_back(static_cast<uint32_t>(random.below(vocab + 3)));
  if (sometimes()) {
    for (int i = 0; i < 40; ++i) {
      const auto id = static_cast<uint32_t>(i * vocab / 39);
      if (i == 0 || id != wishes.counted.back().id) wishes.counted.push_back({id, i % 2 == 0 ? 1.3f : 1.0f, 0.1 * random.below(9)});
    }
  }
  if (sometimes()) {
    wishes.mask.resize(static_cast<size_t>(lmx::div_up(vocab, 32)));
    for (uint32_t &word : wishes.mask) word = static_cast<uint32_t>(random.next() & random.next());
  }
  return wishes;
}

}  // namespace

LMX_TEST(uniforms_are_those_of_the_engine) {
  // As native/src/sampler/rng.rs and tests/reference/sampler.ts have them.
  CHECK(lmx::uniform(0, 0, 0) == 0.6524484863740322);
  CHECK(lmx::uniform(1, 0, 0) == 0.36818951565166946);
  CHECK(lmx::uniform(42, 0, 17) == 0.9063484694719213);
  CHECK(lmx::uniform(0xffffffffffffffffu, 3, 4096) == 0.08613382505964728);
  CHECK(lmx::uniform(1234567890123456789u, 0xffffffffu, 0xffffffffu) == 0.9452397393756808);
}

LMX_TEST(every_filter_alone) {
  Random random(1);
  for (const int vocab : {7, 3000}) {
    for (const int dtype : DTYPES) {
      std::vector<std::vector<float>> logits;
      std::vector<Wishes> wishes;
      for (int kind = 0; kind < 8; ++kind) {
        for (uint64_t seed = 0; seed < 6; ++seed) {
          Wishes w = drawn(seed + 10);
          if (kind == 0) w = greedy();
          if (kind == 2) w.row.top_k = 1 + static_cast<int>(seed) * 3;
          if (kind == 3) w.row.top_p = 0.15f * static_cast<float>(seed + 1);
          if (kind == 4) w.row.min_p = 0.2f * static_cast<float>(seed);
          if (kind == 5) w.row.typical_p = 0.15f * static_cast<float>(seed + 1);
          if (kind == 6) w.row.temperature = 0.1f + 0.5f * static_cast<float>(seed);
          if (kind == 7) w.row.top_k = vocab + static_cast<int>(seed) - 2;
          w.row.logprobs = static_cast<int>(seed) % 3;
          w.row.top = w.row.logprobs == 0 ? 0 : 5;
          wishes.push_back(w);
          logits.push_back(random_logits(random, dtype, vocab, 3.0f));
        }
      }
      check(dtype, logits, wishes);
    }
  }
}

LMX_TEST(anything_together) {
  Random random(2);
  for (const int vocab : {7, 33, 1000}) {
    for (const int dtype : DTYPES) {
      std::vector<std::vector<float>> logits;
      std::vector<Wishes> wishes;
      for (uint64_t i = 0; i < 60; ++i) {
        logits.push_back(random_logits(random, dtype, vocab, i % 2 == 0 ? 1.0f : 5.0f));
        wishes.push_back(anything(random, vocab, i));
      }
      check(dtype, logits, wishes, vocab - 1);
    }
  }
}

LMX_TEST(a_real_vocabulary) {
  Random random(3);
  std::vector<std::vector<float>> logits;
  std::vector<Wishes> wishes;
  for (uint64_t i = 0; i < 24; ++i) {
    logits.push_back(random_logits(random, LMX_F16, 49152, i % 2 == 0 ? 2.0f : 6.0f));
    wishes.push_back(anything(random, 49152, i));
  }
  check(LMX_F16, logits, wishes, 49100);
}

LMX_TEST(penalties_subtract_doubles) {
  // 0.25 − 0.2 in double, rounded once, is 0.05 rounded; in float32 it is less, and token 1 would win.
  Wishes wishes = greedy();
  wishes.counted.push_back({0, 1.0f, 0.2});
  check(LMX_F32, {{0.25f, 0.05f, -1.0f}}, {wishes});
}

LMX_TEST(equal_logits_go_by_id) {
  Random random(4);
  for (const int vocab : {7, 3000}) {
    std::vector<std::vector<float>> logits;
    std::vector<Wishes> wishes;
    for (uint64_t i = 0; i < 40; ++i) {
      std::vector<float> row(vocab);
      // One value, three values, both zeros, and much that is forbidden.
      for (float &logit : row) logit = i % 4 == 0 ? 1.5f : i % 4 == 1 ? static_cast<float>(random.below(3)) : random.below(2) == 0 ? 0.0f : -0.0f;
      for (float &logit : row) logit = i % 4 == 3 && random.below(3) > 0 ? -INFINITY : logit;
      row[3] = 1.0f;
      logits.push_back(row);
      wishes.push_back(anything(random, vocab, i));
    }
    check(LMX_F32, logits, wishes);
  }
}

LMX_TEST(numbers_that_are_none) {
  const std::vector<std::vector<float>> kinds = {
      {NAN, NAN, NAN, NAN, NAN},        {-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY}, {NAN, 1, NAN, 2, -INFINITY}, {INFINITY, 1, INFINITY, 2, NAN},
      {-INFINITY, -INFINITY, 3, NAN, NAN}, {-0.0f, 0.0f, -0.0f, -1, -2},                         {3e38f, -3e38f, 1, 2, 3},    {1e-40f, 0, -1e-40f, 0, 0}};
  Random random(5);
  for (int round = 0; round < 12; ++round) {
    std::vector<Wishes> wishes;
    for (size_t i = 0; i < kinds.size(); ++i) wishes.push_back(anything(random, 5, i + static_cast<size_t>(round) * 10));
    check(LMX_F32, kinds, wishes);
    for (Wishes &w : wishes) {
      w.row.kind = 1;
      w.row.score_token = static_cast<uint32_t>(round) % 6;
    }
    check(LMX_F32, kinds, wishes);
  }
}

LMX_TEST(scored_rows_say_what_the_model_thinks) {
  Random random(6);
  for (const int dtype : DTYPES) {
    std::vector<std::vector<float>> logits;
    std::vector<Wishes> wishes;
    for (int i = 0; i < 12; ++i) {
      Wishes w = greedy();
      w.row.kind = 1;
      w.row.score_token = static_cast<uint32_t>(random.below(1000));
      w.row.top = i * 30;
      w.row.top = std::min<int>(w.row.top, LMX_MOST_TOP);
      wishes.push_back(w);
      logits.push_back(random_logits(random, dtype, 1000, 4.0f));
    }
    check(dtype, logits, wishes, 900);
  }
}

LMX_TEST(guesses_that_were_wrong_end_a_chain) {
  // Row i's likeliest token is i % 50.
  const int rows = 600;
  std::vector<std::vector<float>> logits(rows, std::vector<float>(50, 0.0f));
  std::vector<Wishes> wishes(rows, greedy());
  Random random(7);
  for (int i = 0; i < rows; ++i) {
    logits[i][i % 50] = 5.0f;
    lmx_row_sampling &row = wishes[i].row;
    row.slot = random.below(SLOTS + 1) - 1;
    // Past a scored row, the one before it counts.
    const int before = i > 1 && wishes[i - 1].row.kind == 1 ? i - 2 : i - 1;
    if (i > 0 && random.below(3) > 0) row.follows = random.below(5) == 0 ? 49 : before % 50;
    row.logprobs = random.below(2);
    row.top = row.logprobs * 2;
    if (random.below(10) == 0) {
      row.kind = 1;
      row.score_token = 3;
    } else if (random.below(10) == 0) {
      row.kind = 2;
    }
  }
  check(LMX_F32, logits, wishes);
}

LMX_TEST(company_changes_nothing) {
  Random random(8);
  std::vector<std::vector<float>> logits;
  std::vector<Wishes> wishes;
  for (uint64_t i = 0; i < 6; ++i) {
    logits.push_back(random_logits(random, LMX_BF16, 333, 3.0f));
    wishes.push_back(anything(random, 333, i));
  }
  check(LMX_BF16, logits, wishes);
  for (size_t i = 0; i < logits.size(); ++i) check(LMX_BF16, {logits[i]}, {wishes[i]});
}
