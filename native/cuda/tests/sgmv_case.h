// One call of SGMV on random numbers, and what float64 says of it.
#pragma once

#include <algorithm>
#include <functional>

#include "adapters.h"

namespace lmx_test {

/// A row's adapters by number, with weights; none: a base row.
using RowTerms = std::vector<std::pair<int, float>>;

struct SgmvCase {
  int dtype = LMX_F16;  // of the activations
  int in = 64, out = 64;
  int padding = 3;  // rows of the bucket beyond the step's
  bool at_head = false;
  std::vector<Site> adapters;
  /// Neighbouring equal ones are a segment.
  std::vector<RowTerms> rows;
};

/// The numbers of one call: `x` and `y` before, `after` it; all bucket rows.
struct SgmvRun {
  std::vector<float> x, before, after;
};

inline std::vector<Segment> segments_of(const std::vector<RowTerms> &rows,
                                        const std::vector<const lmx_adapter *> &adapters) {
  std::vector<Segment> segments;
  for (size_t row = 0; row < rows.size(); ++row) {
    if (row > 0 && rows[row] == rows[row - 1]) {
      ++segments.back().rows;
      continue;
    }
    Segment segment{1, {}};
    for (const auto &[adapter, weight] : rows[row])
      segment.terms.push_back({adapters[static_cast<size_t>(adapter)], weight, 0});
    segments.push_back(segment);
  }
  return segments;
}

/// Runs the case; row i of x and y is drawn by `row_seed(i)`, so that a row can be met again in another batch.
inline SgmvRun run_sgmv(const SgmvCase &test, const std::function<uint64_t(size_t)> &row_seed) {
  Arena arena;
  std::vector<const lmx_adapter *> adapters;
  int most_rank = 0, most_terms = 0;
  for (const Site &site : test.adapters) {
    // Site 1 of 2, so that a wrong index shows.
    adapters.push_back(put_adapter(arena, {Site{}, site}));
    most_rank = std::max(most_rank, site.rank());
  }
  for (const RowTerms &terms : test.rows) most_terms = std::max(most_terms, static_cast<int>(terms.size()));
  const std::vector<Segment> segments = segments_of(test.rows, adapters);
  const lmx_step step = put_step(arena, segments);
  const auto rows = test.rows.size() + static_cast<size_t>(test.padding), in = static_cast<size_t>(test.in),
             out = static_cast<size_t>(test.out);
  SgmvRun run;
  for (size_t row = 0; row < rows; ++row) {
    Random random(row_seed(row));
    const auto x = random_numbers(random, test.dtype, in), y = random_numbers(random, test.dtype, out, 4.0f);
    run.x.insert(run.x.end(), x.begin(), x.end());
    run.before.insert(run.before.end(), y.begin(), y.end());
  }
  const auto x = upload(test.dtype, run.x), y = upload(test.dtype, run.before);
  lmx_sgmv call{};
  call.x = x.data();
  call.y = y.data();
  call.dtype = test.dtype;
  call.rows = static_cast<int32_t>(rows);
  call.in_features = test.in;
  call.out_features = test.out;
  call.site = 1;
  call.at_head = test.at_head ? 1 : 0;
  call.h_stride = most_rank * most_terms;
  for (const Segment &segment : segments) call.has_long |= segment.rows >= LMX_LONG_TILE_ROWS / 2 ? 1 : 0;
  // A row that the kernels should not touch must not be computed from either.
  const Device<float> h(lmx_sgmv_workspace(call.rows, call.in_features, call.h_stride));
  call.h = h.data();
  NEED(lmx_sgmv_apply(&step, &call, nullptr));
  NEED(lmx_stream_wait(nullptr));
  run.after = decode(test.dtype, y.get());
  return run;
}

/// What a row should be, and how large what was summed is: tolerances grow with it.
struct Expected {
  std::vector<double> y, summed;
};

inline Expected reference_row(const SgmvCase &test, const float *x, const float *y, const RowTerms &terms) {
  const auto in = static_cast<size_t>(test.in), out = static_cast<size_t>(test.out);
  Expected expected{{y, y + out}, std::vector<double>(out)};
  std::vector<double> gain(out, 1), offset(out, 0);
  for (const auto &[adapter, weight] : terms) {
    for (const Part &part : test.adapters[static_cast<size_t>(adapter)].parts) {
      const auto rank = static_cast<size_t>(part.rank), first = static_cast<size_t>(part.out_offset);
      std::vector<double> h(rank), h_summed(rank);
      for (size_t r = 0; r < rank; ++r) {
        for (size_t c = 0; c < in; ++c) {
          const double product = static_cast<double>(x[c]) * part.a[r * in + c];
          h[r] += product;
          h_summed[r] += std::fabs(product);
        }
        h[r] *= static_cast<double>(part.scale[r]) * weight;
        h_summed[r] *= std::fabs(static_cast<double>(part.scale[r]) * weight);
      }
      for (size_t o = 0; o < static_cast<size_t>(part.out_features); ++o) {
        const double step = part.b_scale.empty() ? 1.0 : part.b_scale[o];
        for (size_t r = 0; r < rank; ++r) {
          const double factor = part.b[o * rank + r] * step;
          expected.y[first + o] += factor * h[r];
          expected.summed[first + o] += std::fabs(factor) * h_summed[r];
        }
        if (!part.gain.empty()) gain[first + o] *= part.gain[o];
        if (!part.offset.empty()) offset[first + o] += static_cast<double>(weight) * part.offset[o];
      }
    }
  }
  for (size_t o = 0; o < out; ++o) {
    expected.y[o] = expected.y[o] * gain[o] + offset[o];
    expected.summed[o] = (expected.summed[o] + std::fabs(y[o])) * std::fabs(gain[o]) + std::fabs(offset[o]);
  }
  return expected;
}

/// Runs the case and compares: adapted rows with float64, base rows and padding bit for bit with what was there.
///
/// Tolerance: the result's own rounding, and the roundings of the sums, each relative to what was summed. The rows' path
/// sums 16 numbers of a lane, the lanes, steps and splits, then the same over the rank: below 64 roundings of 2⁻²⁴. Tensor
/// cores sum in an order of their own and may cut instead of round; h survives there as two 16-bit numbers: 16 bits with
/// bf16, 22 with f16.
inline void check_sgmv(const SgmvCase &test, uint64_t seed = 1) {
  const SgmvRun run = run_sgmv(test, [&](size_t row) { return seed * 1000003 + row; });
  const auto in = static_cast<size_t>(test.in), out = static_cast<size_t>(test.out);
  const bool by_rows = test.dtype == LMX_F32;
  const double sums =
      by_rows ? 64 * 0x1p-24 : 64 * 0x1p-24 + test.in * 0x1p-23 / 16 + (test.dtype == LMX_F16 ? 0x1p-21 : 0x1p-16);
  for (size_t row = 0; row < run.after.size() / out; ++row) {
    const bool adapted = row < test.rows.size() && !test.rows[row].empty();
    const Expected expected =
        reference_row(test, &run.x[row * in], &run.before[row * out], adapted ? test.rows[row] : RowTerms{});
    for (size_t o = 0; o < out; ++o) {
      const float got = run.after[row * out + o];
      if (adapted)
        CHECK_NEAR(got, expected.y[o],
                   std::fabs(expected.y[o]) * dtype_error(test.dtype) * 1.01 + expected.summed[o] * sums);
      else CHECK(std::memcmp(&got, &run.before[row * out + o], sizeof got) == 0);
    }
  }
}

}  // namespace lmx_test
