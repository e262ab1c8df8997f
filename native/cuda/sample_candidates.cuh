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

/// The candidates where only few are left, in the order of their ids.
constexpr int FEW = 1024;
struct FewRoom {
  float logits[FEW];
  uint32_t ids[FEW];
};

/// Those that may be drawn: of tokens 0 .. n, or, where few are left, of entries 0 .. n of a FewRoom.
struct Candidates {
  ProcessedLogits logits;
  const uint32_t *ids;  // of the entries; null: token i is entry i
  int n;
  float highest;
  double unit;        // fixed-point mass of weight 1
  uint32_t last_key;  // candidates rank before this key, or are of it and stand at most at last_place
  int last_place;
  double least;                     // and weigh this much
  double total, entropy, farthest;  // and their information is within `farthest` of the entropy, if total > 0

  __device__ double distance(double weight) const { return fabs(-log(weight / total) - entropy); }

  __device__ int id_of(int entry) const { return ids == nullptr ? entry : static_cast<int>(ids[entry]); }

  __device__ bool ranks(int entry, float logit) const {
    const uint32_t key = falling(logit);
    return key < last_key || (key == last_key && entry <= last_place);
  }

  /// 0 for those that cannot be drawn.
  __device__ double weight(int entry) const {
    const float logit = logits(entry);
    if (!ranks(entry, logit)) return 0.0;
    const double weight = weight_of(logit, highest);
    if (weight < least) return 0.0;
    return total > 0 && weight > 0 && distance(weight) > farthest ? 0.0 : weight;
  }

  __device__ u64 mass(int entry) const { return u64(llrint(weight(entry) * unit)); }
};

__device__ __forceinline__ Candidates all_candidates(ProcessedLogits logits, int n, float highest) {
  // n weights of at most 1 stay below 2^63.
  const double unit = double(u64(1) << (__clz(n) + 31));
  return {logits, nullptr, n, highest, unit, 0xffffffffu, n, 0.0, 0.0, 0.0, 0.0};
}

__device__ __forceinline__ Sum total_of(SelectRoom &room, const Candidates &candidates) {
  Sum sum{0, 0.0};
  each_token<2>(candidates.n, [&](int entry) { return candidates.weight(entry); }, [&](int, double weight) {
    sum.fixed += u64(llrint(weight * candidates.unit));
    sum.real += weight;
  });
  return {block_join(sum.fixed, Add(), room.numbers), block_join(sum.real, Add(), room.numbers)};
}

/// `exact`, a share of `total`, as a goal that running totals reach.
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

/// Keeps those that rank up to the entry; where they are few, in shared memory from now on.
__device__ inline void keep_up_to(SelectRoom &room, FewRoom &few, Candidates &candidates, int entry) {
  candidates.last_key = falling(candidates.logits(entry));
  candidates.last_place = entry;
  if (candidates.n <= FEW) return;
  const unsigned lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32, first = stretch_begin(candidates.n), length = stretch_length(candidates.n);
  const auto kept = [&](int i) {
    const int place = first + i + static_cast<int>(lane);
    return place < candidates.n && candidates.ranks(place, candidates.logits(place));
  };
  unsigned own = 0;
  for (int i = 0; i < length; i += 32) own += __popc(__ballot_sync(ALL_LANES, kept(i)));
  __syncthreads();
  if (lane == 0) room.numbers.whole[warp] = own;
  __syncthreads();
  u64 before = 0, all = 0;
  for (int w = 0; w < SELECT_THREADS / 32; ++w) {
    if (w < warp) before += room.numbers.whole[w];
    all += room.numbers.whole[w];
  }
  if (all > FEW) return;
  for (int i = 0; i < length; i += 32) {
    const bool mine = kept(i);
    const unsigned together = __ballot_sync(ALL_LANES, mine);
    if (mine) {
      const u64 place = before + __popc(together & ((1u << lane) - 1));
      few.logits[place] = candidates.logits(first + i + static_cast<int>(lane));
      few.ids[place] = first + i + lane;
    }
    before += __popc(together);
  }
  __syncthreads();
  candidates.logits = {few.logits};
  candidates.ids = few.ids;
  candidates.n = static_cast<int>(all);
  candidates.last_key = 0xffffffffu;
  candidates.last_place = candidates.n;
}

/// Keeps the tokens whose information is nearest to the expected until their share reaches `mass`, and those as near as the
/// last. Locally typical sampling (arXiv 2202.00666).
__device__ __forceinline__ void keep_typical(SelectRoom &room, Candidates &candidates, double mass) {
  const Sum sum = total_of(room, candidates);
  double entropy = 0;
  for (int entry = threadIdx.x; entry < candidates.n; entry += SELECT_THREADS) {
    const double share = candidates.weight(entry) / sum.real;
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

/// Top-k, top-p, min-p, typical-p, each with the probabilities that the one before left; `possible` logits are above −∞.
__device__ __forceinline__ void narrow(SelectRoom &room, FewRoom &few, Candidates &candidates, const lmx_row_sampling &row, int possible) {
  if (row.top_k > 0 && row.top_k < possible) {
    auto count = [&](int entry) { return u64(candidates.logits(entry) > -INFINITY); };
    keep_up_to(room, few, candidates, select_rank(room, candidates.n, candidates.logits, count, u64(row.top_k)));
  }
  if (row.top_p < 1.0f) {
    const u64 total = total_of(room, candidates).fixed;
    const u64 goal = goal_of(ceil(double(total) * double(row.top_p)), total);
    auto mass = [&](int entry) { return candidates.mass(entry); };
    keep_up_to(room, few, candidates, select_rank(room, candidates.n, candidates.logits, mass, goal));
  }
  if (row.min_p > 0.0f) candidates.least = double(row.min_p);
  if (row.typical_p < 1.0f) keep_typical(room, candidates, double(row.typical_p));
}

/// The entry that `share` of all probability, in [0, 1), falls on: in the order of ranks where anything was filtered, else
/// of ids.
__device__ __forceinline__ int draw(SelectRoom &room, const Candidates &candidates, const lmx_row_sampling &row, int n, Sum total, double share) {
  const bool ranked = (row.top_k > 0 && row.top_k < n) || row.top_p < 1.0f || row.min_p > 0.0f || row.typical_p < 1.0f;
  auto mass = [&](int entry) { return candidates.mass(entry); };
  const u64 goal = goal_of(floor(share * double(total.fixed)) + 1.0, total.fixed);
  return ranked ? select_rank(room, candidates.n, candidates.logits, mass, goal) : select_id(room, candidates.n, mass, goal);
}

}  // namespace lmx
