// Sampling of one row straight from its definition (native/src/sampler/): sorted, one token after the other, in double.
#pragma once

#include <algorithm>
#include <numeric>

#include "data.h"

namespace lmx_test {

/// What one row wishes, with its own lists.
struct Wishes {
  lmx_row_sampling row;
  std::vector<std::pair<uint32_t, float>> bias;
  std::vector<uint32_t> banned;
  std::vector<lmx_counted_token> counted;
  std::vector<uint32_t> mask;  // empty: none
};

struct Listed {
  uint32_t id;
  float logprob;
};

struct Chosen {
  uint32_t token = static_cast<uint32_t>(LMX_NO_TOKEN);
  float logprob = NAN;
  std::vector<Listed> top;
};

class SamplingReference {
 public:
  SamplingReference(const std::vector<float> &logits, int token_count) : own_(logits) {
    own_.resize(std::min<size_t>(own_.size(), static_cast<size_t>(token_count)));
    for (float &logit : own_) logit = logit == logit ? logit : -INFINITY;
  }

  Chosen score(uint32_t token, int top) const {
    if (highest(own_) == -INFINITY) return {};
    return report(own_, token, top);
  }

  Chosen sample(const Wishes &wishes, double share) const {
    const lmx_row_sampling &row = wishes.row;
    std::vector<float> logits = processed(wishes);
    if (highest(logits) == -INFINITY) return {};
    Chosen chosen;
    Drawn drawn;
    if (row.greedy) {
      chosen.token = ranked(logits)[0];
    } else {
      drawn = candidates(logits, row);
      chosen.token = draw(drawn, share);
    }
    if (row.logprobs == 0) return chosen;
    if (row.logprobs == 2) return report(own_, chosen.token, row.top);
    return row.greedy ? report(logits, chosen.token, row.top) : report(drawn, logits, chosen.token, row.top);
  }

 private:
  /// Those that can be drawn, in the order of drawing.
  struct Drawn {
    std::vector<uint32_t> ids;
    std::vector<double> weights;
    double total = 0;
  };

  static float highest(const std::vector<float> &logits) { return *std::max_element(logits.begin(), logits.end()); }

  /// Highest first, lowest id first among equals.
  static std::vector<uint32_t> ranked(const std::vector<float> &logits) {
    std::vector<uint32_t> ids(logits.size());
    std::iota(ids.begin(), ids.end(), 0u);
    std::stable_sort(ids.begin(), ids.end(), [&](uint32_t a, uint32_t b) { return logits[a] > logits[b]; });
    return ids;
  }

  static double sum(const std::vector<double> &values) { return std::accumulate(values.begin(), values.end(), 0.0); }

  std::vector<float> processed(const Wishes &wishes) const {
    std::vector<float> logits = own_;
    for (const lmx_counted_token &token : wishes.counted) {
      if (token.id >= logits.size()) continue;
      float &logit = logits[token.id];
      logit = logit > 0 ? logit / token.repetition : logit * token.repetition;
      logit = static_cast<float>(static_cast<double>(logit) - token.subtract);
    }
    for (const auto &[id, bias] : wishes.bias) {
      if (id < logits.size()) logits[id] += bias;
    }
    for (const uint32_t id : wishes.banned) {
      if (id < logits.size()) logits[id] = -INFINITY;
    }
    for (size_t id = 0; id < logits.size() && !wishes.mask.empty(); ++id) {
      if ((wishes.mask[id / 32] >> id % 32 & 1) == 0) logits[id] = -INFINITY;
    }
    if (!wishes.row.greedy) {
      for (float &logit : logits) logit /= wishes.row.temperature;
    }
    return logits;
  }

  /// How many of `weights` it takes to reach `goal`.
  static size_t reach(const std::vector<double> &weights, double goal) {
    double reached = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      reached += weights[i];
      if (reached >= goal) return i + 1;
    }
    return weights.size();
  }

  static Drawn candidates(const std::vector<float> &logits, const lmx_row_sampling &row) {
    const auto count = row.top_k == 0 ? logits.size() : std::min<size_t>(static_cast<size_t>(row.top_k), logits.size());
    Drawn drawn;
    if (count < logits.size() || row.top_p < 1 || row.min_p > 0 || row.typical_p < 1) {
      drawn.ids = ranked(logits);
      drawn.ids.resize(count);
    } else {
      drawn.ids.resize(logits.size());
      std::iota(drawn.ids.begin(), drawn.ids.end(), 0u);
    }
    const float top = highest(logits);
    for (const uint32_t id : drawn.ids) drawn.weights.push_back(logits[id] == top ? 1.0 : std::exp(static_cast<double>(logits[id] - top)));
    const auto keep = [&](size_t kept) {
      drawn.ids.resize(kept);
      drawn.weights.resize(kept);
    };
    if (row.top_p < 1) keep(reach(drawn.weights, sum(drawn.weights) * static_cast<double>(row.top_p)));
    if (row.min_p > 0) {
      const auto least = static_cast<double>(row.min_p);
      keep(static_cast<size_t>(std::count_if(drawn.weights.begin(), drawn.weights.end(), [&](double weight) { return weight >= least; })));
    }
    if (row.typical_p < 1) keep_typical(drawn, static_cast<double>(row.typical_p));
    drawn.total = sum(drawn.weights);
    return drawn;
  }

  static void keep_typical(Drawn &drawn, double mass) {
    const double total = sum(drawn.weights);
    double entropy = 0;
    std::vector<double> distances;
    for (const double weight : drawn.weights) {
      distances.push_back(-std::log(weight / total));
      if (weight > 0) entropy += weight / total * distances.back();
    }
    for (double &distance : distances) distance = std::fabs(distance - entropy);
    std::vector<size_t> order(distances.size());
    std::iota(order.begin(), order.end(), 0u);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return distances[a] < distances[b]; });
    std::vector<double> nearest;
    for (const size_t index : order) nearest.push_back(drawn.weights[index]);
    const double farthest = distances[order[reach(nearest, mass * total) - 1]];
    Drawn kept;
    for (size_t i = 0; i < distances.size(); ++i) {
      if (distances[i] > farthest) continue;
      kept.ids.push_back(drawn.ids[i]);
      kept.weights.push_back(drawn.weights[i]);
    }
    drawn = kept;
  }

  static uint32_t draw(const Drawn &drawn, double share) {
    double reached = 0;
    for (size_t i = 0; i < drawn.ids.size(); ++i) {
      reached += drawn.weights[i];
      if (reached > share * drawn.total) return drawn.ids[i];
    }
    return drawn.ids.back();
  }

  static Chosen report(const Drawn &drawn, const std::vector<float> &logits, uint32_t token, int top) {
    Chosen chosen;
    chosen.token = token;
    std::vector<double> logprobs(logits.size(), -INFINITY);
    for (size_t i = 0; i < drawn.ids.size(); ++i) logprobs[drawn.ids[i]] = std::log(drawn.weights[i] / drawn.total);
    chosen.logprob = static_cast<float>(logprobs[token]);
    for (const uint32_t id : ranked(logits)) {
      if (static_cast<int>(chosen.top.size()) < top && logprobs[id] > -INFINITY) chosen.top.push_back({id, static_cast<float>(logprobs[id])});
    }
    return chosen;
  }

  static Chosen report(const std::vector<float> &logits, uint32_t token, int top) {
    const float most = highest(logits);
    double total = 0;
    for (const float logit : logits) total += logit == most ? 1.0 : std::exp(static_cast<double>(logit - most));
    const auto logprob = [&](uint32_t id) {
      if (id >= logits.size()) return -INFINITY;
      return static_cast<float>((logits[id] == most ? 0.0 : static_cast<double>(logits[id] - most)) - std::log(total));
    };
    Chosen chosen;
    chosen.token = token;
    chosen.logprob = logprob(token);
    for (const uint32_t id : ranked(logits)) {
      if (static_cast<int>(chosen.top.size()) < top && logits[id] > -INFINITY) chosen.top.push_back({id, logprob(id)});
    }
    return chosen;
  }

  std::vector<float> own_;
};

/// What the rows of a call come to, one after the other: a row that follows another token than the one before it chose has
/// none. `slots` are written as the kernels write last_sampled.
inline std::vector<Chosen> sample_all(const std::vector<std::vector<float>> &logits, const std::vector<Wishes> &rows, const std::vector<double> &shares,
                                      int token_count, std::vector<uint32_t> &slots) {
  std::vector<Chosen> all;
  auto before = static_cast<uint32_t>(LMX_NO_TOKEN);
  for (size_t i = 0; i < rows.size(); ++i) {
    const lmx_row_sampling &row = rows[i].row;
    const SamplingReference reference(logits[i], token_count);
    if (row.kind == 1) {
      all.push_back(reference.score(row.score_token, row.top));
      continue;
    }
    if (row.follows >= 0 && static_cast<uint32_t>(row.follows) != before) {
      before = static_cast<uint32_t>(LMX_NO_TOKEN);
      all.push_back({});
      continue;
    }
    all.push_back(row.kind == 0 ? reference.sample(rows[i], shares[i]) : Chosen{});
    before = all.back().token;
    if (row.slot >= 0) slots[static_cast<size_t>(row.slot)] = before;
  }
  return all;
}

}  // namespace lmx_test
