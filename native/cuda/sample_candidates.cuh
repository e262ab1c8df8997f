// The tokens of a row that may still be drawn; native/src/sampler/candidates.rs without its sort.
//
// Weights are the CPU's, doubles in proportion to probabilities; running totals of them are kept in fixed point, with as
// many bits as the vocabulary leaves. So where a goal falls within 2^-40 or so of the border between two tokens, the one
// chosen can differ from the CPU's, whose totals are rounded to doubles; so can those that top-p and typical-p keep.
#pragma once

#include "sample_logits.cuh"

namespace lmx {

__device__ __forceinline__ u64 bits_of(double number) {
  union {
    double number;
    u64 bits;
  } u = {number};
  return u.bits;
}
__device__ __forceinline__ double number_of(u64 bits) {
  union {
    u64 bits;
    double number;
  } u = {bits};
  return u.number;
}

struct Sum {
  u64 fixed;
  double real;
};

struct Candidates {
  ProcessedLogits logits;
  int n;
  float highest;
  double unit;        // fixed-point mass of weight 1
  uint32_t last_key;  // candidates rank before this key, or are of it and have an id up to last_id
  int last_id;
  double least;       // and weigh this much
  double total, entropy, farthest; // and their information is within `farthest` of the entropy, if total > 0

  __device__ double distance(double weight) const { return fabs(-log(weight / total) - entropy); }

  // 0 for those that cannot be drawn.
  __device__ double weight(int id) const {
    const float logit = logits(id);
    const uint32_t key = falling(logit);
    if (key > last_key || (key == last_key && id > last_id)) return 0.0;
    const double weight = weight_of(logit, highest);
    if (weight < least) return 0.0;
    return total > 0 && weight > 0 && distance(weight) > farthest ? 0.0 : weight;
  }

  __device__ u64 mass(int id) const { return u64(llrint(weight(id) * unit)); }
};

__device__ __forceinline__ Candidates all_candidates(ProcessedLogits logits, int n, float highest) {
  // n weights of at most 1 stay below 2^63.
  const double unit = double(u64(1) << (__clz(n) + 31));
  return {logits, n, highest, unit, 0xffffffffu, n, 0.0, 0.0, 0.0, 0.0};
}

__device__ __forceinline__ Sum total_of(SelectRoom &room, const Candidates &candidates) {
  Sum sum{0, 0.0};
  for (int id = threadIdx.x; id < candidates.n; id += SELECT_THREADS) {
    const double weight = candidates.weight(id);
    sum.fixed += u64(llrint(weight * candidates.unit));
    sum.real += weight;
  }
  return {block_join(sum.fixed, Add(), room.numbers), block_join(sum.real, Add(), room.numbers)};
}

/// `share` of `total`, rounded by `up`, as a goal that running totals reach.
__device__ __forceinline__ u64 goal_of(double exact, u64 total) {
  const u64 goal = exact < 1.0 ? 1 : u64(exact);
  return goal < total ? goal : total;
}

/// The token, by rank, at which `measure` reaches `goal`.
template <class Measure>
__device__ int select_rank(SelectRoom &room, int n, ProcessedLogits logits, Measure measure, u64 goal) {
  auto key = [&](int id) { return u64(falling(logits(id))); };
  const u64 found = select_key<32>(room, n, key, measure, goal);
  return select_id(room, n, [&](int id) { return key(id) == found ? measure(id) : u64(0); }, goal);
}

__device__ __forceinline__ void keep_up_to(Candidates &candidates, int id) {
  candidates.last_key = falling(candidates.logits(id));
  candidates.last_id = id;
}

/// Keeps the tokens whose information is nearest to the expected until their share reaches `mass`, and those as near as the
/// last. Locally typical sampling (arXiv 2202.00666).
__device__ __forceinline__ void keep_typical(SelectRoom &room, Candidates &candidates, double mass) {
  const Sum sum = total_of(room, candidates);
  double entropy = 0;
  for (int id = threadIdx.x; id < candidates.n; id += SELECT_THREADS) {
    const double share = candidates.weight(id) / sum.real;
    if (share > 0) entropy += share * -log(share);
  }
  entropy = block_join(entropy, Add(), room.numbers);
  const Candidates before = candidates;
  candidates.total = sum.real;
  candidates.entropy = entropy;
  u64 goal = goal_of(ceil(mass * double(sum.fixed)), sum.fixed);
  auto key = [&](int id) {
    const double weight = before.weight(id);
    return weight > 0 ? bits_of(candidates.distance(weight)) : ~u64(0);
  };
  const u64 farthest = select_key<64>(room, before.n, key, [&](int id) { return before.mass(id); }, goal);
  candidates.farthest = number_of(farthest);
}

/// Top-k, top-p, min-p, typical-p, each with the probabilities that the one before left.
__device__ __forceinline__ void narrow(SelectRoom &room, Candidates &candidates, const lmx_row_sampling &row, int possible) {
  const ProcessedLogits logits = candidates.logits;
  if (row.top_k > 0 && row.top_k < possible) {
    auto count = [&](int id) { return u64(logits(id) > -INFINITY); };
    keep_up_to(candidates, select_rank(room, candidates.n, logits, count, u64(row.top_k)));
  }
  if (row.top_p < 1.0f) {
    const u64 total = total_of(room, candidates).fixed;
    const u64 goal = goal_of(ceil(double(total) * double(row.top_p)), total);
    keep_up_to(candidates, select_rank(room, candidates.n, logits, [&](int id) { return candidates.mass(id); }, goal));
  }
  if (row.min_p > 0.0f) candidates.least = double(row.min_p);
  if (row.typical_p < 1.0f) keep_typical(room, candidates, double(row.typical_p));
}

/// The token that `share` of all probability, in [0, 1), falls on: in the order of ranks where anything was filtered, else
/// of ids.
__device__ __forceinline__ int draw(SelectRoom &room, const Candidates &candidates, const lmx_row_sampling &row, Sum total, double share) {
  const bool counted = row.top_k > 0 && row.top_k < candidates.n;
  const bool ranked = counted || row.top_p < 1.0f || row.min_p > 0.0f || row.typical_p < 1.0f;
  auto mass = [&](int id) { return candidates.mass(id); };
  const u64 goal = goal_of(floor(share * double(total.fixed)) + 1.0, total.fixed);
  return ranked ? select_rank(room, candidates.n, candidates.logits, mass, goal) : select_id(room, candidates.n, mass, goal);
}

}  // namespace lmx
