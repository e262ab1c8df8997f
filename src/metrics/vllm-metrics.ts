import type { Registry } from 'prom-client';
import type { AdapterInfo } from '../core/adapter.js';
import type { EngineState } from '../core/adapter-admin.js';
import type { EngineLimits } from '../core/engine-client.js';
import type { FinishReason } from '../core/request.js';
import type { Telemetry } from '../core/telemetry.js';
import type { GenerationSummary } from '../generation/observer.js';
import { type LoraRequests, loraRequests } from './lora-requests.js';
import { createVllmInstruments, type VllmInstruments } from './vllm-families.js';

/** What gateways poll many times a second. */
export const ROUTER_NAMES: readonly string[] = [
  'vllm:num_requests_running',
  'vllm:num_requests_waiting',
  'vllm:kv_cache_usage_perc',
  'vllm:cache_config_info',
  'vllm:lora_requests_info',
];

const FINISHED: Readonly<Record<FinishReason, string>> = {
  length: 'length',
  eos_token: 'stop',
  stop_sequence: 'stop',
};

/** The copies under vLLM's names, filled from the same facts as our own. */
export class VllmMetrics {
  readonly #of: VllmInstruments;
  readonly #labels: { readonly model_name: string; readonly engine: string };
  /** Milliseconds since the epoch. */
  readonly #now: () => number;
  #lora: { readonly labels: LoraRequests; readonly changedSeconds: number } | null = null;

  constructor(registry: Registry, limits: EngineLimits, now: () => number) {
    this.#of = createVllmInstruments(registry, limits);
    this.#labels = { model_name: limits.modelId, engine: '0' };
    this.#now = now;
  }

  interToken(seconds: number): void {
    this.#of.interToken.observe(this.#labels, seconds);
    this.#of.oldOutputToken.observe(this.#labels, seconds);
  }

  telemetry(fact: Telemetry): void {
    const of = this.#of;
    const labels = this.#labels;
    if (fact.kind === 'preemption') of.preemptions.inc(labels);
    if (fact.kind !== 'step') return;
    of.iterationTokens.observe(labels, fact.prefillRows + fact.decodeRows);
    for (const queries of [of.prefixQueries, of.gpuPrefixQueries]) queries.inc(labels, fact.lookedUpTokens);
    of.draftTokens.inc(labels, fact.draftedTokens);
    of.acceptedTokens.inc(labels, fact.acceptedTokens);
    for (const hits of [of.prefixHits, of.gpuPrefixHits]) hits.inc(labels, fact.cachedTokens);
  }

  ended({ reason, promptTokens, generatedTokens, maxNewTokens, times }: GenerationSummary): void {
    const of = this.#of;
    const labels = this.#labels;
    const { receivedMs, submittedMs, admittedMs, firstTokenMs, endedMs } = times;
    const finished = reason === null ? 'abort' : FINISHED[reason];
    of.success.inc({ ...labels, finished_reason: finished });
    of.generationTokens.inc(labels, generatedTokens);
    if (admittedMs === null || firstTokenMs === null) return;
    of.promptTokens.inc(labels, promptTokens);
    of.firstToken.observe(labels, (firstTokenMs - receivedMs) / 1_000);
    of.queueTime.observe(labels, (admittedMs - submittedMs) / 1_000);
    of.prefillTime.observe(labels, (firstTokenMs - admittedMs) / 1_000);
    if (reason === null) return;
    of.decodeTime.observe(labels, (endedMs - firstTokenMs) / 1_000);
    of.inferenceTime.observe(labels, (endedMs - admittedMs) / 1_000);
    of.endToEnd.observe(labels, (endedMs - receivedMs) / 1_000);
    of.outputToken.observe(labels, (endedMs - firstTokenMs) / 1_000 / Math.max(generatedTokens - 1, 1));
    of.requestPrompt.observe(labels, promptTokens);
    of.requestGeneration.observe(labels, generatedTokens);
    of.requestMaxTokens.observe(labels, maxNewTokens);
    of.requestMaxGeneration.observe(labels, maxNewTokens);
  }

  /** A request was answered, with `choices` answers to each prompt. */
  answered(choices: number): void {
    this.#of.requestParamsN.observe(this.#labels, choices);
  }

  /** Sets the gauges. */
  state({ running, waiting, kvBlocks: { total, used, blockSize } }: EngineState): void {
    const usage = total === 0 ? 0 : used / total;
    this.#of.running.set(this.#labels, running);
    this.#of.waiting.set(this.#labels, waiting);
    this.#of.kvUsage.set(this.#labels, usage);
    this.#of.gpuCacheUsage.set(this.#labels, usage);
    this.#of.cacheConfig.set({ ...this.#labels, block_size: String(blockSize), num_gpu_blocks: String(total) }, 1);
  }

  /** One series, whose value says when it changed and never goes back. */
  adapters(adapters: readonly AdapterInfo[], { tiers }: EngineState): void {
    const labels = loraRequests(adapters, tiers);
    const { loraRequests: gauge } = this.#of;
    if (this.#lora === null || JSON.stringify(labels) !== JSON.stringify(this.#lora.labels)) {
      this.#lora = { labels, changedSeconds: Math.max(this.#now() / 1_000, this.#lora?.changedSeconds ?? 0) };
      gauge.reset();
    }
    gauge.set({ ...labels }, Math.round(this.#lora.changedSeconds * 1_000) / 1_000);
  }
}
