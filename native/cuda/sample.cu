// lmx_sample: a token, its log-probability and the likeliest others from every row of logits; native/src/sampler/mod.rs
// on the GPU, a block of threads for each row, then one that settles which rows stood on a wrong guess.
#include "random.cuh"
#include "sample_candidates.cuh"
#include "sample_report.cuh"

using namespace lmx;

namespace {

template <class T>
__global__ void __launch_bounds__(SELECT_THREADS) sample(lmx_sampling call) {
  __shared__ SelectRoom room;
  __shared__ FewRoom few;
  __shared__ ListRoom list;
  const int row = blockIdx.x;
  const lmx_row_sampling &wishes = call.rows_sampling[row];
  const int n = min(call.token_count, call.vocab);
  const OwnLogits<T> own{static_cast<const T *>(call.logits) + size_t(row) * call.vocab};
  const Report report{call, row, wishes.top};
  if (wishes.kind == KIND_NONE) return report.nothing();

  if (wishes.kind == KIND_SCORED) {
    const Overview overview = look_over(room, n, own);
    if (overview.highest == -INFINITY) return report.nothing();
    report.of_logits(room, list, n, own, overview, int(wishes.score_token));
    return;
  }

  float *processed = call.processed + size_t(row) * call.vocab;
  const ProcessedLogits logits{processed};
  const bool plain = wishes.greedy && !adjusts(wishes);
  if (!plain) process(call, wishes, n, own, processed);
  const Overview overview = plain ? look_over(room, n, own) : look_over(room, n, logits);
  if (overview.highest == -INFINITY) return report.nothing();

  int chosen = overview.likeliest;
  Candidates candidates = all_candidates(logits, n, overview.highest);
  Sum total{0, 0.0};
  if (!wishes.greedy) {
    narrow(room, few, candidates, wishes, overview.possible);
    total = total_of(room, candidates);
    chosen = draw(room, candidates, wishes, n, total, uniform(wishes.seed, wishes.choice, wishes.position));
  }
  const int token = candidates.id_of(chosen);
  if (wishes.logprobs == LOGPROBS_NONE) return report.token_alone(token);
  if (wishes.logprobs == LOGPROBS_OWN || plain) {
    report.of_logits(room, list, n, own, plain ? overview : look_over(room, n, own), token);
  } else if (wishes.greedy) {
    report.of_logits(room, list, n, logits, overview, token);
  } else {
    report.of_candidates(room, list, candidates, total.real, chosen);
  }
}

constexpr int CHAIN_THREADS = 256;

/// Rows whose guess was wrong get no token, and what follows them neither; the others' slots remember their tokens.
__global__ void __launch_bounds__(CHAIN_THREADS) settle(lmx_sampling call) {
  __shared__ uint32_t tokens[CHAIN_THREADS];
  __shared__ int32_t follows[CHAIN_THREADS], slots[CHAIN_THREADS], kinds[CHAIN_THREADS];
  __shared__ bool passed[CHAIN_THREADS];
  uint32_t before = uint32_t(LMX_NO_TOKEN);
  for (int first = 0; first < call.rows; first += CHAIN_THREADS) {
    const int row = first + int(threadIdx.x);
    __syncthreads();
    if (row < call.rows) {
      tokens[threadIdx.x] = call.tokens[row];
      follows[threadIdx.x] = call.rows_sampling[row].follows;
      slots[threadIdx.x] = call.rows_sampling[row].slot;
      kinds[threadIdx.x] = call.rows_sampling[row].kind;
      passed[threadIdx.x] = false;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int i = 0; i < CHAIN_THREADS && first + i < call.rows; ++i) {
        if (kinds[i] == KIND_SCORED) continue;
        passed[i] = follows[i] >= 0 && uint32_t(follows[i]) != before;
        before = passed[i] ? uint32_t(LMX_NO_TOKEN) : tokens[i];
        if (!passed[i] && slots[i] >= 0) call.last_sampled[slots[i]] = before;
      }
    }
    __syncthreads();
    if (row < call.rows && passed[threadIdx.x]) {
      call.tokens[row] = uint32_t(LMX_NO_TOKEN);
      call.logprobs[row] = NAN;
      call.top_counts[row] = 0;
    }
  }
}

}  // namespace

lmx_status lmx_sample(const lmx_sampling *host_call, lmx_stream stream) {
  const lmx_sampling &call = *host_call;
  if (call.token_count < 1 || call.vocab < 1) return cudaErrorInvalidValue;
  const auto queue = static_cast<cudaStream_t>(stream);
  const lmx_status status = with_dtype(call.dtype, [&](auto type) -> lmx_status {
    return launch(sample<typename decltype(type)::type>, Shape{dim3(call.rows), dim3(SELECT_THREADS)}, queue, call);
  });
  return status != 0 ? status : launch(settle, Shape{dim3(1), dim3(CHAIN_THREADS)}, queue, call);
}
