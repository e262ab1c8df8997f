import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import {
  CHOICES,
  ITERATION_TOKENS,
  VLLM_FIRST_TOKEN_SECONDS,
  VLLM_REQUEST_SECONDS,
  VLLM_TOKEN_SECONDS,
  vllmTokens,
} from './buckets.js';

/** On every copy but `vllm:lora_requests_info`. */
export const VLLM_LABELS = ['model_name', 'engine'] as const;

type Label = (typeof VLLM_LABELS)[number];

interface VllmLimits {
  readonly maxModelLen: number;
}

type Make<M> = (registry: Registry, limits: VllmLimits) => M;

function counter<L extends string = never>(name: string, help: string, ...more: L[]): Make<Counter<Label | L>> {
  return (registry) =>
    new Counter({ name: `vllm:${name}`, help, labelNames: [...VLLM_LABELS, ...more], registers: [registry] });
}

function gauge<L extends string = never>(name: string, help: string, ...more: L[]): Make<Gauge<Label | L>> {
  return (registry) =>
    new Gauge({ name: `vllm:${name}`, help, labelNames: [...VLLM_LABELS, ...more], registers: [registry] });
}

function histogram(
  name: string,
  help: string,
  buckets: number[] | ((limits: VllmLimits) => number[]),
): Make<Histogram<Label>> {
  return (registry, limits) =>
    new Histogram({
      name: `vllm:${name}`,
      help,
      buckets: typeof buckets === 'function' ? buckets(limits) : buckets,
      labelNames: [...VLLM_LABELS],
      registers: [registry],
    });
}

const tokensUpToLength = ({ maxModelLen }: VllmLimits): number[] => vllmTokens(maxModelLen);

/** vLLM's metrics by vLLM's names, for the gateways and dashboards that read those. Never with an adapter label. */
export const VLLM_FAMILIES = {
  running: gauge('num_requests_running', 'Requests that take part in steps'),
  waiting: gauge('num_requests_waiting', 'Requests not yet running'),
  kvUsage: gauge('kv_cache_usage_perc', 'Share of the KV blocks in use, 0 to 1'),
  gpuCacheUsage: gauge('gpu_cache_usage_perc', 'The same by its old name'),
  cacheConfig: gauge('cache_config_info', 'Always 1: the KV blocks', 'block_size', 'num_gpu_blocks'),
  promptTokens: counter('prompt_tokens_total', 'Prompt tokens of generations that began'),
  generationTokens: counter('generation_tokens_total', 'Generated tokens'),
  preemptions: counter('num_preemptions_total', 'Sequences set back to waiting'),
  prefixQueries: counter('prefix_cache_queries_total', 'Prompt tokens looked up in the prefix cache'),
  prefixHits: counter('prefix_cache_hits_total', 'Prompt tokens found there'),
  gpuPrefixQueries: counter('gpu_prefix_cache_queries_total', 'prefix_cache_queries by its old name'),
  gpuPrefixHits: counter('gpu_prefix_cache_hits_total', 'prefix_cache_hits by its old name'),
  draftTokens: counter('spec_decode_num_draft_tokens_total', 'Guessed tokens that steps tried'),
  acceptedTokens: counter('spec_decode_num_accepted_tokens_total', 'Those that were right'),
  success: counter('request_success_total', 'Generations that ended', 'finished_reason'),
  firstToken: histogram('time_to_first_token_seconds', 'Arrival to first token', VLLM_FIRST_TOKEN_SECONDS),
  interToken: histogram('inter_token_latency_seconds', 'Between two tokens of one sequence', VLLM_TOKEN_SECONDS),
  outputToken: histogram(
    'request_time_per_output_token_seconds',
    'Mean gap between the tokens of one request',
    VLLM_TOKEN_SECONDS,
  ),
  oldOutputToken: histogram('time_per_output_token_seconds', 'inter_token_latency by its old name', VLLM_TOKEN_SECONDS),
  endToEnd: histogram('e2e_request_latency_seconds', 'Arrival to the last token', VLLM_REQUEST_SECONDS),
  queueTime: histogram('request_queue_time_seconds', 'Submission to admission into a step', VLLM_REQUEST_SECONDS),
  inferenceTime: histogram('request_inference_time_seconds', 'Admission to the last token', VLLM_REQUEST_SECONDS),
  prefillTime: histogram('request_prefill_time_seconds', 'Admission to the first token', VLLM_REQUEST_SECONDS),
  decodeTime: histogram('request_decode_time_seconds', 'First token to the last', VLLM_REQUEST_SECONDS),
  requestPrompt: histogram('request_prompt_tokens', 'Prompt tokens of a request', tokensUpToLength),
  requestGeneration: histogram('request_generation_tokens', 'Generated tokens of a request', tokensUpToLength),
  requestMaxTokens: histogram('request_params_max_tokens', 'Limit of generated tokens', tokensUpToLength),
  requestMaxGeneration: histogram('request_max_num_generation_tokens', 'The same', tokensUpToLength),
  requestParamsN: histogram('request_params_n', 'Answers to each prompt of a request', CHOICES),
  iterationTokens: histogram('iteration_tokens_total', 'Rows (tokens) of a step', ITERATION_TOKENS),
  loraRequests: ((registry) =>
    new Gauge({
      name: 'vllm:lora_requests_info',
      help: 'Unix time at which the lists of adapters changed',
      labelNames: ['max_lora', 'running_lora_adapters', 'waiting_lora_adapters'],
      registers: [registry],
    })) as Make<Gauge<'max_lora' | 'running_lora_adapters' | 'waiting_lora_adapters'>>,
} as const;

export type VllmInstruments = { readonly [K in keyof typeof VLLM_FAMILIES]: ReturnType<(typeof VLLM_FAMILIES)[K]> };

/** Creates vLLM's metrics in `registry`. */
export function createVllmInstruments(registry: Registry, limits: VllmLimits): VllmInstruments {
  const made = Object.entries(VLLM_FAMILIES).map(([key, make]) => [key, make(registry, limits)] as const);
  return Object.fromEntries(made) as unknown as VllmInstruments;
}
