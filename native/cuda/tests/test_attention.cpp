// lmx_attend against float64, and what a row's company must not change.
#include "attention_setup.h"

using namespace lmx_test;

namespace {

std::string name_of(const Heads &h) {
  return std::string(dtype_name(h.dtype)) + " " + std::to_string(h.heads) + "/" + std::to_string(h.kv_heads) + " heads of " + std::to_string(h.dim) +
         ", window " + std::to_string(h.window);
}

/// Appended keys are rotated, values as they came; all else in the pool stays, bit for bit (NaN included).
void check_pages(const Heads &h, const AttentionStep &step) {
  std::vector<bool> written(step.old_keys().size());
  for (int row = 0; row < step.rows(); ++row) {
    if (!step.stored(row)) continue;
    for (int head = 0; head < h.kv_heads; ++head) {
      const auto key = step.rotated(row, h.heads + head);
      const size_t at = step.place(step.sequence(row), step.position(row), head);
      for (int d = 0; d < h.dim; ++d) {
        written[at + d] = true;
        CHECK_NEAR(static_cast<double>(step.new_keys[at + d]), key[d], dtype_error(h.dtype) * (std::fabs(key[d]) + 1e-3) * 2 + 4e-7);
        CHECK(step.new_values[at + d] == step.value_of(row, head)[d]);
      }
    }
  }
  const auto same = [](float a, float b) { return a == b || (a != a && b != b); };
  for (size_t i = 0; i < written.size(); ++i) {
    CHECK(written[i] || (same(step.new_keys[i], step.old_keys()[i]) && same(step.new_values[i], step.old_values()[i])));
  }
}

void check_rows(const Heads &h, AttentionStep &step, const std::vector<float> &out) {
  const size_t width = static_cast<size_t>(h.heads) * h.dim;
  // Products in float32 are no better than this.
  const double error = std::max(dtype_error(h.dtype), 0x1p-20);
  for (int row = 0; row < step.rows(); ++row) {
    const auto want = step.expected(row);
    double square = 0;
    for (const double x : want) square += x * x;
    const double usual = std::sqrt(square / static_cast<double>(width));
    for (size_t i = 0; i < width; ++i) CHECK_NEAR(static_cast<double>(out[row * width + i]), want[i], error * (16 * usual + 2 * std::fabs(want[i])));
  }
  for (size_t i = step.rows() * width; i < out.size(); ++i) CHECK(out[i] == SENTINEL);
}

void check_step(const Heads &h, const std::vector<Sequence> &sequences, int padding, int max_context, bool captured = false) {
  context() = name_of(h);
  int rows = 0;
  for (const Sequence &s : sequences) rows += s.rows;
  AttentionStep step(h, sequences, rows + padding, max_context, 1);
  const auto out = step.run(captured);
  check_pages(h, step);
  check_rows(h, step, out);
}

const int DTYPES[] = {LMX_F32, LMX_F16, LMX_BF16};

std::vector<Sequence> single_rows(const std::vector<int> &contexts) {
  std::vector<Sequence> sequences;
  for (const int context : contexts) sequences.push_back({context - 1, 1, static_cast<uint64_t>(context)});
  return sequences;
}

/// Output rows `first` .. `last` of a step.
std::vector<float> rows_of(const Heads &h, const std::vector<float> &out, int first, int last) {
  const size_t width = static_cast<size_t>(h.heads) * h.dim;
  std::vector<float> part(static_cast<size_t>(last - first) * width);
  std::copy_n(&out[static_cast<size_t>(first) * width], part.size(), part.begin());
  return part;
}

}  // namespace

LMX_TEST(single_rows_of_every_dimension) {
  for (const int dtype : DTYPES) {
    for (const int dim : {8, 64, 80, 128, 256}) check_step({dtype, 4, 2, dim, -1}, single_rows({1, 15, 16, 17, 255, 256, 257}), 3, 300, true);
  }
}

LMX_TEST(single_rows_of_every_head_ratio) {
  const int ratios[][2] = {{1, 1}, {3, 1}, {4, 1}, {6, 2}, {8, 1}, {9, 1}, {10, 2}};
  for (const auto &ratio : ratios) {
    for (const int dim : {64, 128, 256}) check_step({LMX_F16, ratio[0], ratio[1], dim, -1}, single_rows({3, 70, 280}), 1, 512);
  }
}

LMX_TEST(long_contexts_in_many_parts) {
  check_step({LMX_F16, 2, 1, 64, -1}, single_rows({1000, 4096, 4095, 3}), 2, 4096, true);
  check_step({LMX_F32, 2, 1, 8, -1}, single_rows({1000, 2049}), 0, 4096);
}

LMX_TEST(windows_of_single_rows) {
  for (const int window : {1, 5, 16, 17, 255, 300, 5000}) {
    check_step({LMX_F16, 2, 1, 64, window}, single_rows({1, 15, 16, 17, 257, 1000}), 1, 1024, true);
    check_step({LMX_F32, 2, 2, 80, window}, single_rows({16, 300}), 0, 300);
  }
}

LMX_TEST(prompts_of_every_dimension) {
  for (const int dtype : DTYPES) {
    for (const int dim : {8, 64, 80, 96, 128, 256}) check_step({dtype, 2, 1, dim, -1}, {{0, 2, 1}, {0, 17, 2}, {0, 70, 3}}, 2, 128);
  }
}

LMX_TEST(steps_of_all_kinds) {
  for (const int dtype : DTYPES) {
    for (const int window : {-1, 1, 40}) {
      check_step({dtype, 4, 2, 64, window}, {{40, 1, 1}, {0, 1, 2}, {100, 66, 3}, {255, 1, 4}, {31, 2, 5}, {0, 65, 6}}, 5, 512);
    }
  }
}

LMX_TEST(rows_whose_keys_are_stored_already) {
  for (const int dtype : DTYPES) check_step({dtype, 4, 2, 64, -1}, {{31, 1, 1, false}, {16, 20, 2, false}, {40, 1, 3}}, 1, 64);
}

LMX_TEST(company_changes_no_bit_of_a_row) {
  for (const int dtype : DTYPES) {
    const Heads h{dtype, 4, 2, 80, -1};
    context() = name_of(h);
    const std::vector<Sequence> all = {{300, 1, 1}, {20, 30, 2}, {5, 1, 3}, {0, 80, 4}, {700, 1, 5}};
    const auto together = AttentionStep(h, all, 150, 1024, 1).run();
    int first = 0;
    for (const Sequence &alone : all) {
      const auto out = AttentionStep(h, {alone}, alone.rows, 768, 2).run(false);
      CHECK(rows_of(h, out, 0, alone.rows) == rows_of(h, together, first, first + alone.rows));
      first += alone.rows;
    }
  }
}

LMX_TEST(a_bucket_of_many_rows_changes_no_bit) {
  const Heads h{LMX_F16, 4, 4, 64, -1};
  context() = name_of(h);
  const auto sequences = single_rows({600, 1500, 17});
  const auto few = AttentionStep(h, sequences, 3, 4096, 1).run();
  // So many that one block of threads goes through a context's parts one after the other.
  const auto many = AttentionStep(h, sequences, 600, 4096, 1).run(true);
  CHECK(few == rows_of(h, many, 0, 3));
}

LMX_TEST(chunks_of_a_prompt_change_no_bit) {
  for (const int dtype : DTYPES) {
    for (const int window : {-1, 50}) {
      const Heads h{dtype, 2, 1, 64, window};
      context() = name_of(h);
      // Nothing is stored, so that every position's key is the same in each of these steps.
      const auto whole = AttentionStep(h, {{0, 150, 9, false}}, 150, 256, 1).run();
      for (const int cached : {1, 37, 64, 100}) {
        const auto rest = AttentionStep(h, {{cached, 150 - cached, 9, false}}, 150 - cached, 256, 3).run();
        CHECK(rest == rows_of(h, whole, cached, 150));
      }
    }
  }
}

LMX_TEST(a_sequence_of_nan_stays_alone) {
  for (const int dtype : DTYPES) {
    const Heads h{dtype, 2, 1, 64, -1};
    context() = name_of(h);
    std::vector<Sequence> all = {{40, 1, 1}, {40, 1, 2}, {10, 30, 3}, {10, 30, 4}};
    const auto sound = AttentionStep(h, all, 62, 64, 1).run();
    all[0].poisoned = all[2].poisoned = true;
    const auto out = AttentionStep(h, all, 62, 64, 1).run();
    CHECK(out[0] != out[0]);
    CHECK(rows_of(h, out, 1, 2) == rows_of(h, sound, 1, 2));
    CHECK(rows_of(h, out, 32, 62) == rows_of(h, sound, 32, 62));
  }
}

LMX_TEST(shapes_that_fit_no_kernel_are_refused) {
  lmx_step step = {};
  for (const auto &[heads, kv_heads, dim] : {std::array{4, 3, 64}, std::array{4, 2, 12}, std::array{4, 2, 264}, std::array{0, 0, 64}}) {
    lmx_attention call = {};
    call.heads = heads;
    call.kv_heads = kv_heads;
    call.dim = dim;
    call.block_stride = 1 << 20;
    CHECK(lmx_attend(&step, &call, nullptr) != 0);
  }
}

LMX_TEST(blocks_that_overlap_or_lie_askew_are_refused) {
  lmx_step step = {};
  lmx_attention call = {};
  call.heads = 4;
  call.kv_heads = 2;
  call.dim = 64;
  const int64_t block = int64_t(2) * LMX_BLOCK * 64;
  for (const int64_t stride : {int64_t(0), block - 8, block + 4, -block}) {
    call.block_stride = stride;
    CHECK(lmx_attend(&step, &call, nullptr) != 0);
  }
}
