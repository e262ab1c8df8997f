import { Counter, Gauge, Histogram, type Registry } from 'prom-client';
import {
  DISTINCT_ADAPTERS,
  FIRST_TOKEN_SECONDS,
  LORAX_SECONDS,
  loraxBatches,
  loraxTokens,
  MASK_SECONDS,
  ROWS,
  SECONDS,
  STEP_SECONDS,
} from './buckets.js';

/** Sizes that buckets of the LoRAX copies depend on. */
export interface FamilyLimits {
  readonly maxModelLen: number;
  readonly maxSequences: number;
}

type Make<M> = (registry: Registry, limits: FamilyLimits) => M;

function counter<L extends string = never>(name: string, help: string, ...labelNames: L[]): Make<Counter<L>> {
  return (registry) => new Counter({ name, help, labelNames, registers: [registry] });
}

function gauge<L extends string = never>(name: string, help: string, ...labelNames: L[]): Make<Gauge<L>> {
  return (registry) => new Gauge({ name, help, labelNames, registers: [registry] });
}

function histogram<L extends string = never>(
  name: string,
  help: string,
  buckets: number[] | ((limits: FamilyLimits) => number[]),
  ...labelNames: L[]
): Make<Histogram<L>> {
  return (registry, limits) =>
    new Histogram({
      name,
      help,
      buckets: typeof buckets === 'function' ? buckets(limits) : buckets,
      labelNames,
      registers: [registry],
    });
}

/**
 * Every metric there is: name, help, buckets, labels. Base units, `_total` on counters, ratios from 0 to 1. Label
 * values come from closed sets, except `adapter`, which AdapterLabels bounds. The `lorax_*` copies keep LoRAX's names.
 */
export const FAMILIES = {
  buildInfo: gauge('loramux_build_info', 'Always 1: what runs', 'version', 'node', 'backend'),
  modelInfo: gauge('loramux_model_info', 'Always 1: the base model', 'model_name', 'dtype', 'device', 'max_model_len'),
  ready: gauge('loramux_ready', '1 while new requests are welcome'),
  draining: gauge('loramux_draining', '1 from the start of a drain on'),

  requests: counter('loramux_requests_total', 'HTTP requests by status, 499 = client left', 'route', 'code'),
  requestSeconds: histogram(
    'loramux_request_duration_seconds',
    'HTTP request to the end of its reply',
    SECONDS,
    'route',
  ),
  queueSeconds: histogram('loramux_queue_seconds', 'Submission to admission into a step', SECONDS, 'route'),
  firstTokenSeconds: histogram(
    'loramux_time_to_first_token_seconds',
    'Arrival to first token; start = where the adapter was on arrival',
    FIRST_TOKEN_SECONDS,
    'route',
    'start',
  ),
  interTokenSeconds: histogram('loramux_inter_token_seconds', 'Between two tokens of one sequence', STEP_SECONDS),
  requestsRunning: gauge('loramux_requests_running', 'Sequences that take part in steps'),
  requestsWaiting: gauge('loramux_requests_waiting', 'Requests not yet running, by what they wait for', 'reason'),
  rejections: counter('loramux_rejections_total', 'Requests refused before they ran', 'reason'),
  disconnects: counter('loramux_disconnects_total', 'Generations whose client left, by how far they were', 'phase'),
  slowConsumers: counter('loramux_slow_consumers_total', 'Streams cut because nobody read them', 'transport'),

  adapters: gauge('loramux_adapters', 'Adapters known', 'tier', 'state'),
  adapterBytes: gauge('loramux_adapter_bytes', 'Bytes of adapters', 'tier'),
  adapterBytesLimit: gauge('loramux_adapter_bytes_limit', 'Byte budget of adapters', 'tier'),
  adapterResident: gauge('loramux_adapter_resident', '1 for each labelled adapter in memory', 'adapter', 'tier'),
  adapterPins: gauge('loramux_adapter_pins', 'Rows in flight that hold an adapter'),
  adapterCacheRequests: counter('loramux_adapter_cache_requests_total', 'Adapter lookups', 'tier', 'result'),
  adapterLoadSeconds: histogram(
    'loramux_adapter_load_seconds',
    'Adapter loads: their fetch, all of it, and again by itself what only came from the host to a device',
    SECONDS,
    'phase',
    'source',
  ),
  adapterWaitSeconds: histogram(
    'loramux_adapter_wait_seconds',
    'Requests that waited for their adapters, by where those were when they came',
    SECONDS,
    'tier',
  ),
  adapterLoads: counter('loramux_adapter_loads_total', 'Adapter loads by outcome', 'source', 'result'),
  adapterFetches: counter('loramux_adapter_fetches_total', 'Fetches to the disk tier by outcome', 'source', 'result'),
  adapterFetchBytes: counter('loramux_adapter_fetch_bytes_total', 'Bytes of new files that fetches brought', 'source'),
  adapterEvictions: counter('loramux_adapter_evictions_total', 'Adapters that left a tier', 'tier', 'reason'),

  steps: counter('loramux_steps_total', 'Forward passes', 'phase', 'path', 'base_rows'),
  stepSeconds: histogram('loramux_step_seconds', 'Planning to committed tokens', STEP_SECONDS, 'phase'),
  maskSeconds: histogram(
    'loramux_mask_seconds',
    'Constraints of a step that has any: masks of all its rows',
    MASK_SECONDS,
  ),
  stepRows: histogram('loramux_step_rows', 'Rows (tokens) of a step', ROWS),
  stepSegments: histogram('loramux_step_segments', 'Runs of rows of one adapter in a step', ROWS),
  stepDistinctAdapters: histogram('loramux_step_distinct_adapters', 'Adapters in a step', DISTINCT_ADAPTERS),
  loraRows: counter('loramux_lora_rows_total', 'Rows that an adapter touched'),
  baseRows: counter('loramux_base_rows_total', 'Rows of the plain base model'),
  preemptions: counter('loramux_preemptions_total', 'Sequences set back to waiting because KV blocks ran out'),
  kvUsage: gauge('loramux_kv_cache_usage_ratio', 'Share of the KV blocks in use, cached ones not counted'),
  kvBlocks: gauge('loramux_kv_blocks', 'KV blocks', 'state'),
  prefixCacheTokens: counter('loramux_prefix_cache_tokens_total', 'Prompt tokens looked up, once a request', 'result'),
  draftTokens: counter('loramux_draft_tokens_total', 'Guessed tokens that steps tried', 'result'),
  tokens: counter('loramux_tokens_total', 'Tokens of generations that ended', 'kind'),

  wsConnections: gauge('loramux_ws_connections', 'Open WebSockets'),
  wsStreams: gauge('loramux_ws_streams', 'Generations on them'),

  engineHeartbeat: gauge('loramux_engine_heartbeat_age_seconds', 'Since the last step while requests run, else 0'),
  eventLoopDelay: gauge('loramux_event_loop_delay_seconds', 'Main thread, since the last scrape', 'stat'),
  eventLoopUtilization: gauge('loramux_event_loop_utilization_ratio', 'Main thread, since the last scrape'),
  processMemory: gauge('loramux_process_memory_bytes', 'Memory of the process', 'kind'),

  adapterRequests: counter('loramux_adapter_requests_total', 'Generations', 'adapter', 'outcome'),
  adapterPromptTokens: counter('loramux_adapter_prompt_tokens_total', 'Prompt tokens', 'adapter'),
  adapterGeneratedTokens: counter('loramux_adapter_generated_tokens_total', 'Generated tokens', 'adapter'),
  adapterErrors: counter('loramux_adapter_errors_total', 'Failed generations', 'adapter', 'code'),
  adapterFirstTokenSeconds: counter(
    'loramux_adapter_first_token_seconds_total',
    'Sum of times to first token',
    'adapter',
  ),
  adapterFirstTokens: counter('loramux_adapter_first_tokens_total', 'First tokens behind that sum', 'adapter'),
  seriesDropped: counter('loramux_metrics_series_dropped_total', 'Counts given to the label "other"', 'family'),

  loraxCount: counter('lorax_request_count', 'Generate requests'),
  loraxSuccess: counter('lorax_request_success', 'Generate requests answered'),
  loraxFailure: counter('lorax_request_failure', 'Generate requests failed', 'err'),
  loraxDuration: histogram('lorax_request_duration', 'Seconds', LORAX_SECONDS),
  loraxValidation: histogram('lorax_request_validation_duration', 'Seconds', LORAX_SECONDS),
  loraxQueue: histogram('lorax_request_queue_duration', 'Seconds', LORAX_SECONDS),
  loraxInference: histogram('lorax_request_inference_duration', 'Seconds', LORAX_SECONDS),
  loraxTimePerToken: histogram('lorax_request_mean_time_per_token_duration', 'Seconds', LORAX_SECONDS),
  loraxInputLength: histogram('lorax_request_input_length', 'Prompt tokens', ({ maxModelLen }) =>
    loraxTokens(maxModelLen - 1),
  ),
  loraxMaxNewTokens: histogram('lorax_request_max_new_tokens', 'Effective limit', ({ maxModelLen }) =>
    loraxTokens(maxModelLen),
  ),
  loraxGeneratedTokens: histogram('lorax_request_generated_tokens', 'Generated tokens', ({ maxModelLen }) =>
    loraxTokens(maxModelLen),
  ),
  loraxSkippedTokens: histogram(
    'lorax_request_skipped_tokens',
    'Generated tokens that took no step of their own',
    ({ maxModelLen }) => loraxTokens(maxModelLen),
  ),
  loraxQueueLength: gauge('lorax_queue_length', 'Requests not yet running'),
  loraxBatchSize: gauge('lorax_batch_current_size', 'Running requests'),
  loraxBatchTokens: gauge('lorax_batch_current_max_tokens', 'Tokens that fit in the KV blocks in use'),
  loraxBatchNextSize: histogram('lorax_batch_next_size', 'Requests that a step began', ({ maxSequences }) =>
    loraxBatches(maxSequences),
  ),
  loraxBatchCount: counter('lorax_batch_inference_count', 'Steps, by whether prompts were part of them', 'method'),
  loraxBatchSuccess: counter('lorax_batch_inference_success', 'Steps that succeeded', 'method'),
  loraxBatchFailure: counter('lorax_batch_inference_failure', 'Steps that failed', 'method'),
  loraxBatchDuration: histogram('lorax_batch_inference_duration', 'Seconds', LORAX_SECONDS, 'method'),
} as const;

export type Instruments = { readonly [K in keyof typeof FAMILIES]: ReturnType<(typeof FAMILIES)[K]> };

/** Creates every metric in `registry`. */
export function createInstruments(registry: Registry, limits: FamilyLimits): Instruments {
  const made = Object.entries(FAMILIES).map(([key, make]) => [key, make(registry, limits)] as const);
  return Object.fromEntries(made) as unknown as Instruments;
}
