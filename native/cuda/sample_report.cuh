// What is said of a row: its token, log-probability, and the likeliest tokens with theirs; native/src/sampler/logprobs.rs.
#pragma once

#include "sample_candidates.cuh"

namespace lmx {

/// Values of lmx_row_sampling.kind and .logprobs.
constexpr int KIND_SCORED = 1, KIND_NONE = 2, LOGPROBS_NONE = 0, LOGPROBS_OWN = 2;

struct ListRoom {
  u64 entries[LMX_MOST_TOP];
  int count;
};

struct Report {
  const lmx_sampling &call;
  int row, top;

  __device__ void write(uint32_t token, float logprob, int count) const {
    if (threadIdx.x != 0) return;
    call.tokens[row] = token;
    call.logprobs[row] = logprob;
    call.top_counts[row] = count;
  }
  __device__ void nothing() const { write(uint32_t(LMX_NO_TOKEN), NAN, 0); }
  __device__ void token_alone(int token) const { write(uint32_t(token), NAN, 0); }

  // The likeliest of the tokens whose logit is above −∞ and which `counts`, `logprob(logit)` beside each; how many.
  template <class Logits, class Counts, class Logprob, class IdOf>
  __device__ int likeliest(SelectRoom &room, ListRoom &list, int n, Logits logits, int possible, Counts counts, Logprob logprob, IdOf id_of) const {
    const int count = min(min(top, int(LMX_MOST_TOP)), possible);
    if (count <= 0) return 0;
    auto key = [&](int id) { return u64(falling(logits(id))); };
    auto one = [&](int id) { return u64(counts(id)); };
    u64 goal = u64(count);
    const u64 last_key = select_key<32>(room, n, key, one, goal);
    const int last_id = select_id(room, n, [&](int id) { return key(id) == last_key ? one(id) : u64(0); }, goal);
    if (threadIdx.x == 0) list.count = 0;
    __syncthreads();
    for (int id = threadIdx.x; id < n; id += SELECT_THREADS) {
      const u64 k = key(id);
      if ((k < last_key || (k == last_key && id <= last_id)) && counts(id)) list.entries[atomicAdd(&list.count, 1)] = k << 32 | unsigned(id);
    }
    __syncthreads();
    if (int(threadIdx.x) < count) {
      const u64 own = list.entries[threadIdx.x];
      int rank = 0;
      for (int i = 0; i < count; ++i) rank += list.entries[i] < own;
      const int id = int(own & 0xffffffffu);
      call.top_ids[size_t(row) * LMX_MOST_TOP + rank] = uint32_t(id_of(id));
      call.top_logprobs[size_t(row) * LMX_MOST_TOP + rank] = logprob(id);
    }
    return count;
  }

  // Under the softmax of all `logits`.
  template <class Logits>
  __device__ void of_logits(SelectRoom &room, ListRoom &list, int n, Logits logits, const Overview &overview, int token) const {
    double total = 0;
    each_token(n, logits, [&](int, float logit) { total += weight_of(logit, overview.highest); });
    const double log_total = log(block_join(total, Add(), room.numbers));
    auto logprob = [&](int id) {
      const float logit = logits(id);
      const double below = logit == overview.highest ? 0.0 : double(logit - overview.highest);
      return float(below - log_total);
    };
    auto counts = [&](int id) { return logits(id) > -INFINITY; };
    const int count = likeliest(room, list, n, logits, overview.possible, counts, logprob, [](int id) { return id; });
    write(uint32_t(token), unsigned(token) < unsigned(n) ? logprob(token) : -INFINITY, count);
  }

  // Among those that could be drawn, whose weights add up to `total`, of which entry `chosen` was.
  __device__ void of_candidates(SelectRoom &room, ListRoom &list, const Candidates &candidates, double total, int chosen) const {
    u64 possible = 0;
    for (int entry = threadIdx.x; entry < candidates.n; entry += SELECT_THREADS) possible += candidates.weight(entry) > 0;
    possible = block_join(possible, Add(), room.numbers);
    auto logprob = [&](int entry) { return float(log(candidates.weight(entry) / total)); };
    auto counts = [&](int entry) { return candidates.weight(entry) > 0; };
    auto id_of = [&](int entry) { return candidates.id_of(entry); };
    const int count = likeliest(room, list, candidates.n, candidates.logits, int(possible), counts, logprob, id_of);
    write(uint32_t(id_of(chosen)), logprob(chosen), count);
  }
};

}  // namespace lmx
