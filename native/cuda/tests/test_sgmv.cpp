// SGMV against float64: dtypes, ranks, widths, load shapes, batch sizes, fused sites, gains, offsets, weights; long
// segments; a row's result whatever its batch.
#include "sgmv_case.h"

using namespace lmx_test;

static const int DTYPES[] = {LMX_F32, LMX_F16, LMX_BF16};
static const int FACTOR_DTYPES[] = {LMX_F32, LMX_F16, LMX_BF16, LMX_I8};
static const int RANKS[] = {1, 3, 8, 16, 24, 33, 64, 96, 128, 256};

static Site plain_site(Random &random, int dtype, int rank, int in, int out) {
  return {dtype, {random_part(random, dtype, rank, in, 0, out, false, false)}};
}

static void describe(const SgmvCase &test, int adapter_dtype, int rank) {
  context() = std::string(dtype_name(test.dtype)) + " with " + dtype_name(adapter_dtype) + " adapters of rank " +
              std::to_string(rank) + ", " + std::to_string(test.in) + " to " + std::to_string(test.out) + ", " +
              std::to_string(test.rows.size()) + " rows";
}

/// Rows of three segments, a base row between.
static std::vector<RowTerms> few_rows() { return {{{0, 1.0f}}, {}, {{1, 1.0f}}, {{1, 1.0f}}, {{1, 1.0f}}, {{0, 0.5f}}}; }

LMX_TEST(every_dtype_with_every_rank) {
  for (const int dtype : DTYPES) {
    for (const int adapter_dtype : FACTOR_DTYPES) {
      for (const int rank : RANKS) {
        Random random(static_cast<uint64_t>(rank));
        SgmvCase test{
            dtype,     72,
            104,       2,
            false,     {plain_site(random, adapter_dtype, rank, 72, 104), plain_site(random, adapter_dtype, rank, 72, 104)},
            few_rows()};
        describe(test, adapter_dtype, rank);
        check_sgmv(test);
      }
    }
  }
}

LMX_TEST(every_width) {
  const int dtypes[][2] = {{LMX_F16, LMX_F16}, {LMX_BF16, LMX_F32}, {LMX_F32, LMX_BF16}, {LMX_F16, LMX_I8}};
  for (const auto &pair : dtypes) {
    for (const int in : {8, 24, 40, 100, 576, 1536}) {
      for (const int out : {8, 24, 40, 100, 576, 1536}) {
        if (in + out > 1700) continue;
        Random random(static_cast<uint64_t>(in + out));
        SgmvCase test{pair[0],   in,    out,
                      1,         false, {plain_site(random, pair[1], 6, in, out), plain_site(random, pair[1], 16, in, out)},
                      few_rows()};
        describe(test, pair[1], 16);
        check_sgmv(test);
      }
    }
  }
}

/// Rows by load shape, as Punica names them: which adapter of `adapters` each row takes.
static std::vector<RowTerms> load(const std::string &shape, int rows, int adapters) {
  std::vector<RowTerms> result;
  for (int row = 0; row < rows; ++row) {
    int adapter = 0;
    if (shape == "distinct") adapter = row % adapters;
    else if (shape == "uniform") adapter = row * adapters / rows;
    else if (shape == "skewed") adapter = row < rows / 2 ? 0 : 1 + (row - rows / 2) * (adapters - 1) / (rows - rows / 2);
    else if (shape == "one versus many") adapter = row == 0 ? 0 : 1;
    if (shape == "base") result.push_back({});
    else result.push_back({{adapter, 1.0f}});
  }
  return result;
}

LMX_TEST(every_load_shape_at_odd_batch_sizes) {
  for (const char *shape : {"distinct", "uniform", "skewed", "identical", "one versus many", "base"}) {
    for (const int rows : {1, 2, 3, 4, 7, 10, 16, 33, 64, 133}) {
      Random random(7);
      SgmvCase test{LMX_BF16, 64, 48, rows == 64 ? 0 : 5, false, {}, load(shape, rows, 5)};
      for (int i = 0; i < 5; ++i) test.adapters.push_back(plain_site(random, LMX_BF16, 4 + 4 * i, 64, 48));
      describe(test, LMX_BF16, 20);
      context() += std::string(", ") + shape;
      check_sgmv(test);
    }
  }
}

LMX_TEST(more_tiles_than_blocks) {
  Random random(23);
  SgmvCase test{LMX_F16, 24, 16, 2, false, {}, load("distinct", 300, 3)};
  for (int i = 0; i < 3; ++i) test.adapters.push_back(plain_site(random, LMX_F16, 3 + i, 24, 16));
  describe(test, LMX_F16, 5);
  check_sgmv(test);
}

/// Like q|k|v: modules of different rank, one without an adapter, one with a gain or an offset and no rank.
static Site fused_site(Random &random, int dtype, int in, const int (&ranks)[3], const int (&widths)[3], bool gains,
                       bool offsets) {
  Site site{dtype, {}};
  int first = 0;
  for (int i = 0; i < 3; ++i) {
    if (ranks[i] >= 0)
      site.parts.push_back(random_part(random, dtype, ranks[i], in, first, widths[i], gains, offsets && i != 1));
    first += widths[i];
  }
  return site;
}

LMX_TEST(fused_sites_with_gains_offsets_and_weights) {
  const int widths[] = {576, 40, 24};
  for (const int dtype : DTYPES) {
    Random random(11);
    SgmvCase test{dtype, 136, 640, 2, false, {}, {}};
    test.adapters.push_back(fused_site(random, LMX_F16, 136, {16, 5, 8}, widths, true, false));
    test.adapters.push_back(fused_site(random, LMX_BF16, 136, {-1, 12, 0}, widths, true, true));
    test.adapters.push_back(fused_site(random, LMX_F32, 136, {0, 0, 0}, widths, false, true));
    test.adapters.push_back(fused_site(random, LMX_I8, 136, {7, -1, 256}, widths, false, true));
    test.adapters.push_back(Site{});
    test.rows = {{{0, 1.0f}},
                 {{0, 1.0f}},
                 {{1, 1.0f}},
                 {{2, 1.0f}},
                 {{2, 0.25f}, {3, -1.5f}},
                 {{2, 0.25f}, {3, -1.5f}},
                 {{3, 0.5f}, {4, 1.0f}, {3, 0.25f}, {2, 2.0f}},
                 {{4, 1.0f}},
                 {{0, 0.75f}}};
    describe(test, -1, 256);
    check_sgmv(test);
    test.at_head = true;
    context() += ", at the head";
    check_sgmv(test);
  }
}

LMX_TEST(wide_inputs_are_split) {
  Random random(5);
  // 22 steps in 11 splits, the last one short.
  SgmvCase test{LMX_F16, 11008, 64, 0, false, {plain_site(random, LMX_F16, 3, 11008, 64)}, {{{0, 1.0f}}, {{0, 1.0f}}}};
  describe(test, LMX_F16, 3);
  check_sgmv(test);
  CHECK(lmx_sgmv_workspace(64, 4096, 48) == 64u * 8 * 48);
  CHECK(lmx_sgmv_workspace(1, 11008, 16) == 11u * 16);
  CHECK(lmx_sgmv_workspace(0, 4096, 48) == 0 && lmx_sgmv_workspace(3, 8, 0) == 0);
}

static std::vector<RowTerms> long_rows(int rows) {
  std::vector<RowTerms> result(static_cast<size_t>(rows), {{0, 1.0f}});
  result.insert(result.begin(), {{}, {{1, 1.0f}}});
  result.insert(result.end(), 40, {{1, 1.5f}});
  return result;
}

LMX_TEST(long_segments) {
  for (const int dtype : DTYPES) {
    for (const int adapter_dtype : FACTOR_DTYPES) {
      const bool by_tensor_cores = dtype != LMX_F32 && (dtype == adapter_dtype || adapter_dtype == LMX_I8);
      for (const int rank : {1, 16, 33, 96, 256}) {
        if (!by_tensor_cores && rank != 33) continue;
        Random random(static_cast<uint64_t>(rank));
        const int rows = rank == 16 ? 133 : 65;
        SgmvCase test{dtype,
                      136,
                      200,
                      4,
                      false,
                      {plain_site(random, adapter_dtype, rank, 136, 200), plain_site(random, adapter_dtype, 24, 136, 200)},
                      long_rows(rows)};
        describe(test, adapter_dtype, rank);
        check_sgmv(test);
      }
    }
  }
}

LMX_TEST(long_segments_of_fused_sites_and_odd_widths) {
  const int widths[] = {100, 40, 24};
  for (const int in : {100, 576, 1544}) {
    for (const int dtype : {LMX_F16, LMX_BF16}) {
      Random random(13);
      SgmvCase test{dtype, in, in == 100 ? 165 : 164, 1, false, {}, {}};
      test.adapters.push_back(fused_site(random, dtype, in, {16, 5, 72}, widths, true, true));
      test.adapters.push_back(fused_site(random, LMX_I8, in, {8, 0, -1}, widths, false, true));
      test.adapters.push_back(fused_site(random, LMX_F32, in, {4, 4, 4}, widths, false, false));
      const std::vector<RowTerms> kinds = {{{0, 1.0f}}, {{1, 0.5f}, {1, 0.25f}, {0, 0.125f}}, {{1, 1.0f}, {2, 1.0f}}};
      // A gain stands alone.
      for (Part &part : test.adapters[0].parts) part.gain.resize(in == 100 ? part.gain.size() : 0);
      for (size_t kind = 0; kind < kinds.size(); ++kind) {
        if (in == 100 && kind == 1) continue;
        test.rows.insert(test.rows.end(), kind == 0 ? 70 : 33, kinds[kind]);
      }
      describe(test, dtype, 72);
      check_sgmv(test);
    }
  }
}

LMX_TEST(large_h_keeps_its_range) {
  // x · a is far above f16's largest number; the tensor cores' path scales it.
  for (const int dtype : {LMX_F16, LMX_BF16}) {
    Random random(17);
    SgmvCase test{
        dtype, 256, 64, 0, false, {plain_site(random, dtype, 16, 256, 64)}, std::vector<RowTerms>(40, {{0, 1.0f}})};
    for (float &value : test.adapters[0].parts[0].a) value *= 4096;
    for (float &value : test.adapters[0].parts[0].b) value *= 0x1p-6f;
    for (float &value : test.adapters[0].parts[0].scale) value *= 16;
    // What f16 cannot hold exactly any more is not compared: both sides see the rounded numbers.
    Part &part = test.adapters[0].parts[0];
    part.a = decode(dtype, encode(dtype, part.a));
    part.b = decode(dtype, encode(dtype, part.b));
    describe(test, dtype, 16);
    check_sgmv(test);
  }
}

/// The same row, bit for bit, in batches of different size, place and company.
LMX_TEST(a_row_never_depends_on_its_batch) {
  for (const int dtype : DTYPES) {
    for (const int adapter_dtype : FACTOR_DTYPES) {
      Random random(19);
      SgmvCase test{
          dtype,        1032,
          600,          0,
          false,        {plain_site(random, adapter_dtype, 16, 1032, 600), plain_site(random, adapter_dtype, 33, 1032, 600)},
          {{{0, 1.0f}}}};
      describe(test, adapter_dtype, 16);
      const SgmvRun alone = run_sgmv(test, [](size_t) { return 42; });
      test.rows = load("uniform", 12, 2);
      test.padding = 4;
      const SgmvRun batch = run_sgmv(test, [](size_t row) { return row == 4 ? 42 : row; });
      CHECK(std::memcmp(alone.after.data(), &batch.after[4 * 600], 600 * sizeof(float)) == 0);
      // Long segments go another path, whose sums run in another order: there the row is the same among long segments.
      test.rows.assign(32, {{0, 1.0f}});
      const SgmvRun longer = run_sgmv(test, [](size_t row) { return row == 3 ? 42 : row; });
      test.rows.assign(90, {{0, 1.0f}});
      const SgmvRun longest = run_sgmv(test, [](size_t row) { return row == 77 ? 42 : 2 * row; });
      CHECK(std::memcmp(&longer.after[3 * 600], &longest.after[77 * 600], 600 * sizeof(float)) == 0);
      const bool one_path = dtype == LMX_F32 || (dtype != adapter_dtype && adapter_dtype != LMX_I8);
      if (one_path) CHECK(std::memcmp(alone.after.data(), &longest.after[77 * 600], 600 * sizeof(float)) == 0);
    }
  }
}

LMX_TEST(wrong_calls_are_refused) {
  lmx_step step{};
  lmx_sgmv call{};
  CHECK(lmx_sgmv_apply(&step, &call, nullptr) != 0);
  call.rows = call.in_features = call.out_features = 8;
  call.dtype = 9;
  CHECK(lmx_sgmv_apply(&step, &call, nullptr) != 0);
}
