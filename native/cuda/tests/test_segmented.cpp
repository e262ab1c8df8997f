// Embedding, norms and head of adapters against float64; rows of others, padding and untouched columns stay bit for bit.
#include "adapters.h"

using namespace lmx_test;

static const int DTYPES[] = {LMX_F32, LMX_F16, LMX_BF16};
static const int PADDING = 3;
/// Half the distance of f16's smallest numbers.
static const double SUBNORMAL = 0x1p-25;

static size_t area(int rows, int columns) { return static_cast<size_t>(rows) * static_cast<size_t>(columns); }

/// Row tokens of `count` rows of a matrix, as an adapter's replaced rows; all: row t is token t's.
struct Replaced {
  int dtype = LMX_F32;
  std::vector<uint32_t> tokens;
  std::vector<float> rows;  // [count, width]

  static Replaced random(Random &random, int dtype, int width, const std::vector<uint32_t> &tokens, int count) {
    return {dtype, tokens, random_numbers(random, dtype, area(count, width))};
  }
  lmx_replaced_rows put(Arena &arena, int width) const {
    return {arena.put(dtype, rows), arena.put(tokens), static_cast<int32_t>(rows.size() / static_cast<size_t>(width)),
            dtype};
  }
  /// The row of `token`, or null.
  const float *of(int64_t token, int width) const {
    const size_t count = rows.size() / static_cast<size_t>(width);
    for (size_t i = 0; i < count; ++i) {
      if ((tokens.empty() ? i : tokens[i]) == static_cast<uint64_t>(token)) return &rows[i * static_cast<size_t>(width)];
    }
    return nullptr;
  }
};

/// How far a sum of `count` products may be off: 64 roundings at most follow each other (lanes, steps), or `count` in a
/// plain loop.
static double sum_error(int count) { return std::max(64, count) * 0x1p-24; }

LMX_TEST(embeddings_take_lora_and_replaced_rows) {
  const int vocab = 37;
  for (const int dtype : DTYPES) {
    for (const int adapter_dtype : DTYPES) {
      for (const int hidden : {24, 100, 576}) {
        context() =
            std::string(dtype_name(dtype)) + " with " + dtype_name(adapter_dtype) + ", hidden " + std::to_string(hidden);
        Arena arena;
        Random random(3);
        const int rank = 5;
        const auto a = random_numbers(random, adapter_dtype, area(vocab, rank)),
                   b = random_numbers(random, adapter_dtype, area(hidden, rank));
        const auto gain = random_numbers(random, LMX_F32, static_cast<size_t>(hidden), 2.0f);
        const float scale = 0.375f;
        lmx_adapter plain{}, dora{}, replacing{}, whole{};
        plain.embedding = dora.embedding = {
            arena.put(adapter_dtype, a), arena.put(adapter_dtype, b), nullptr, scale, rank, vocab, adapter_dtype};
        dora.embedding.gain = arena.put(gain);
        const Replaced some = Replaced::random(random, adapter_dtype, hidden, {2, 5, 36}, 3),
                       all = Replaced::random(random, adapter_dtype, hidden, {}, vocab);
        replacing.embedding_rows = some.put(arena, hidden);
        whole.embedding_rows = all.put(arena, hidden);
        const lmx_adapter *adapters[] = {put_adapter(arena, {}, plain), put_adapter(arena, {}, dora),
                                         put_adapter(arena, {}, replacing), put_adapter(arena, {}, whole),
                                         put_adapter(arena, {})};
        // Which adapters a segment takes, and its tokens.
        const std::vector<std::vector<std::pair<int, float>>> terms = {
            {{0, 1.0f}}, {}, {{1, 0.5f}}, {{2, 1.0f}}, {{3, 1.0f}}, {{0, 0.25f}, {4, 1.0f}, {0, -2.0f}}, {{4, 1.0f}}};
        const std::vector<std::vector<int64_t>> tokens = {{1, 5, 36}, {5}, {0, 7}, {5, 6, 2, 36}, {36, 0}, {9, 9}, {5}};
        std::vector<Segment> segments;
        std::vector<int64_t> ids;
        std::vector<size_t> kind;
        for (size_t s = 0; s < terms.size(); ++s) {
          Segment segment{static_cast<int>(tokens[s].size()), {}};
          for (const auto &[adapter, weight] : terms[s]) segment.terms.push_back({adapters[adapter], weight, 0});
          segments.push_back(segment);
          ids.insert(ids.end(), tokens[s].begin(), tokens[s].end());
          kind.insert(kind.end(), tokens[s].size(), s);
        }
        const int rows = static_cast<int>(ids.size());
        const lmx_step step = put_step(arena, segments, ids);
        const auto before = random_numbers(random, dtype, area(rows + PADDING, hidden));
        const auto y = upload(dtype, before);
        NEED(lmx_segmented_embedding(&step, y.data(), dtype, rows + PADDING, hidden, nullptr));
        const auto after = decode(dtype, y.get());
        for (size_t i = 0; i < after.size(); ++i) {
          const size_t row = i / static_cast<size_t>(hidden), c = i % static_cast<size_t>(hidden);
          double want = before[i], summed = std::fabs(want);
          for (const auto &[adapter, weight] : row < ids.size() ? terms[kind[row]] : terms[1]) {
            const auto id = static_cast<size_t>(ids[row]);
            if (adapter <= 1) {
              for (size_t r = 0; r < rank; ++r) {
                const double product = static_cast<double>(b[c * rank + r]) * a[id * rank + r] * scale * weight;
                want += product;
                summed += std::fabs(product);
              }
            }
            if (adapter == 1) want *= gain[c], summed *= std::fabs(gain[c]);
            const float *own = adapter == 2 ? some.of(ids[row], hidden) : adapter == 3 ? all.of(ids[row], hidden) : nullptr;
            if (own != nullptr) want = own[c], summed = 0;
          }
          const bool same = row >= ids.size() || kind[row] == 1 || kind[row] == 6;
          CHECK_NEAR(after[i], want, same ? 0 : std::fabs(want) * dtype_error(dtype) * 1.01 + summed * sum_error(rank));
        }
      }
    }
  }
}

LMX_TEST(norms_take_the_adapters_weight) {
  for (const int dtype : DTYPES) {
    for (const int hidden : {8, 100, 576, 4104}) {
      context() = std::string(dtype_name(dtype)) + ", hidden " + std::to_string(hidden);
      Arena arena;
      Random random(5);
      const auto weight = random_numbers(random, LMX_F32, static_cast<size_t>(hidden), 3.0f);
      lmx_adapter with{}, other{};
      with.norms = arena.put(std::vector<const float *>{nullptr, arena.put(weight)});
      other.norms = arena.put(std::vector<const float *>{arena.put(weight), nullptr});
      const lmx_adapter *adapters[] = {put_adapter(arena, {}, with), put_adapter(arena, {}, other), put_adapter(arena, {})};
      const lmx_term taking{adapters[0], 1.0f, 0}, not_here{adapters[1], 1.0f, 0}, none{adapters[2], 1.0f, 0};
      const lmx_step step = put_step(arena, {{2, {taking}}, {1, {}}, {1, {not_here}}, {3, {none, taking}}, {1, {none}}});
      const bool adapted[] = {true, true, false, false, true, true, true, false};
      const int rows = 8;
      const auto x = random_numbers(random, dtype, area(rows + PADDING, hidden), 2.0f),
                 before = random_numbers(random, dtype, area(rows + PADDING, hidden));
      const auto device_x = upload(dtype, x), y = upload(dtype, before);
      NEED(lmx_segmented_norm(&step, y.data(), device_x.data(), 1, 1e-5f, dtype, rows + PADDING, hidden, nullptr));
      const auto after = decode(dtype, y.get());
      for (int row = 0; row < rows + PADDING; ++row) {
        double squares = 0;
        for (int c = 0; c < hidden; ++c)
          squares += static_cast<double>(x[area(row, hidden) + static_cast<size_t>(c)]) *
                     x[area(row, hidden) + static_cast<size_t>(c)];
        for (int c = 0; c < hidden; ++c) {
          const size_t i = area(row, hidden) + static_cast<size_t>(c);
          const bool changed = row < rows && adapted[row];
          const double want =
              changed ? x[i] / std::sqrt(squares / hidden + 1e-5) * weight[static_cast<size_t>(c)] : before[i];
          CHECK_NEAR(after[i], want, changed ? std::fabs(want) * (dtype_error(dtype) * 1.01 + 48 * 0x1p-24) + SUBNORMAL : 0);
        }
      }
    }
  }
}

LMX_TEST(heads_replace_the_logits_of_their_tokens) {
  const int vocab = 203;
  for (const int dtype : DTYPES) {
    for (const int head_dtype : DTYPES) {
      for (const int hidden : {40, 100, 1544}) {
        context() =
            std::string(dtype_name(dtype)) + " with " + dtype_name(head_dtype) + ", hidden " + std::to_string(hidden);
        Arena arena;
        Random random(9);
        const Replaced some = Replaced::random(random, head_dtype, hidden, {0, 7, 8, 99, 202}, 5),
                       all = Replaced::random(random, head_dtype, hidden, {}, vocab);
        lmx_adapter partial{}, whole{};
        partial.head_rows = some.put(arena, hidden);
        whole.head_rows = all.put(arena, hidden);
        const lmx_adapter *adapters[] = {put_adapter(arena, {}, partial), put_adapter(arena, {}, whole),
                                         put_adapter(arena, {})};
        const lmx_term of_some{adapters[0], 1.0f, 0}, of_all{adapters[1], 1.0f, 0}, none{adapters[2], 1.0f, 0};
        std::vector<Segment> segments = {{1, {}}, {11, {of_some}}, {2, {none}}, {1, {none, of_all}}, {3, {of_all}}};
        // More tiles than a block looks at in one turn.
        if (hidden == 40) {
          for (int i = 0; i < 300; ++i) segments.push_back({1, {i % 97 == 5 ? of_some : none}});
        }
        const lmx_step step = put_step(arena, segments);
        std::vector<const Replaced *> heads;
        for (const Segment &segment : segments) {
          const lmx_adapter *adapter = segment.terms.empty() ? nullptr : segment.terms.back().adapter;
          heads.insert(heads.end(), static_cast<size_t>(segment.rows),
                       adapter == adapters[0]   ? &some
                       : adapter == adapters[1] ? &all
                                                : nullptr);
        }
        const int rows = static_cast<int>(heads.size());
        const auto x = random_numbers(random, dtype, area(rows + PADDING, hidden)),
                   before = random_numbers(random, dtype, area(rows + PADDING, vocab));
        const auto device_x = upload(dtype, x), logits = upload(dtype, before);
        NEED(lmx_segmented_head(&step, logits.data(), device_x.data(), dtype, rows + PADDING, vocab, hidden, nullptr));
        const auto after = decode(dtype, logits.get());
        for (int row = 0; row < rows + PADDING; ++row) {
          for (int token = 0; token < vocab; ++token) {
            const size_t i = area(row, vocab) + static_cast<size_t>(token);
            const Replaced *head = row < rows ? heads[static_cast<size_t>(row)] : nullptr;
            const float *own = head == nullptr ? nullptr : head->of(token, hidden);
            double want = own == nullptr ? before[i] : 0, summed = 0;
            for (int c = 0; own != nullptr && c < hidden; ++c) {
              const double product = static_cast<double>(own[c]) * x[area(row, hidden) + static_cast<size_t>(c)];
              want += product;
              summed += std::fabs(product);
            }
            CHECK_NEAR(after[i], want,
                       own == nullptr ? 0 : std::fabs(want) * dtype_error(dtype) * 1.01 + summed * sum_error(0));
          }
        }
      }
    }
  }
}

LMX_TEST(gated_silu_of_any_width) {
  for (const int dtype : DTYPES) {
    for (const int width : {1, 8, 100, 1536}) {
      for (const int rows : {0, 1, 7}) {
        context() = std::string(dtype_name(dtype)) + ", width " + std::to_string(width) + ", rows " + std::to_string(rows);
        Random random(1);
        const auto x = random_numbers(random, dtype, area(rows, 2 * width), 12.0f);
        const auto device_x = upload(dtype, x);
        const Device<unsigned char> y(area(rows, width) * dtype_size(dtype));
        NEED(lmx_gated_silu(y.data(), device_x.data(), dtype, rows, width, nullptr));
        const auto got = decode(dtype, y.get());
        for (int row = 0; row < rows; ++row) {
          for (int c = 0; c < width; ++c) {
            const double gate = x[area(row, 2 * width) + static_cast<size_t>(c)],
                         up = x[area(row, 2 * width) + static_cast<size_t>(width + c)];
            const double want = gate / (1 + std::exp(-gate)) * up;
            // expf of CUDA is off by two units at most.
            CHECK_NEAR(got[area(row, width) + static_cast<size_t>(c)], want,
                       std::fabs(want) * (dtype_error(dtype) * 1.01 + 8 * 0x1p-24) + SUBNORMAL);
          }
        }
      }
    }
  }
  // The ends of the range: silu(x) goes to 0 and to x, never to NaN.
  const auto extremes = upload(LMX_F32, {-3e38f, 100.0f, -100.0f, 1.0f, 2.0f, 3.0f});
  const Device<float> y(3);
  NEED(lmx_gated_silu(y.data(), extremes.data(), LMX_F32, 1, 3, nullptr));
  const auto got = y.get();
  CHECK(got[0] == 0 && got[1] == 200 && std::fabs(got[2]) < 1e-37);
}
