import { Registry } from 'prom-client';
import type { AdapterInfo } from '../core/adapter.js';
import type { EngineClient } from '../core/engine-client.js';
import type { ErrorCode } from '../core/errors.js';
import type { Telemetry } from '../core/telemetry.js';
import type { GenerationSummary } from '../generation/observer.js';
import type { RequestEnd } from '../server/plugins/request-end.js';
import { AdapterMetrics } from './adapter-metrics.js';
import { Backlog } from './backlog.js';
import { recordTelemetry } from './engine-metrics.js';
import { createInstruments, type Instruments } from './families.js';
import { recordGeneration, recordRejection } from './generation-metrics.js';
import { toJsonForm } from './json-form.js';
import { ProcessGauges, recordAdapters, recordState } from './scrape.js';
import { ROUTER_NAMES, VllmMetrics } from './vllm-metrics.js';

/** How long a rendered answer serves further scrapes. */
const CACHE_MS = 100;
/** Gaps between tokens, and facts of the engine, that wait to be counted together. */
const GAPS_AT_ONCE = 1_024;
const FACTS_AT_ONCE = 64;
/** How long a scrape waits for the engine's list of adapters before it shows the last one. */
const LIST_TIMEOUT_MS = 250;
/** How old the list of adapters may be that a gateway is told. */
const ROUTER_LIST_MS = 1_000;

export interface MetricsDeps {
  readonly engine: EngineClient;
  readonly version: string;
  /** Milliseconds, monotonic. */
  readonly now: () => number;
  readonly isReady: () => boolean;
  readonly isDraining: () => boolean;
}

/** WebSockets that are open now, and the generations on them. */
export interface SocketCounts {
  readonly connections: number;
  readonly streams: number;
}

/** All metrics of the process: told what happens, and rendered for `/metrics`. */
export class Metrics {
  readonly #deps: MetricsDeps;
  readonly #registry = new Registry();
  readonly #of: Instruments;
  /** Adapters are resident on a device. */
  readonly #hasDevice: boolean;
  readonly #byAdapter: AdapterMetrics;
  readonly #vllm: VllmMetrics;
  readonly #process = new ProcessGauges();
  readonly #gaps = new Backlog<number>(GAPS_AT_ONCE, (seconds) => {
    this.#of.interTokenSeconds.observe(seconds);
    this.#vllm.interToken(seconds);
  });
  readonly #facts = new Backlog<Telemetry>(FACTS_AT_ONCE, (fact) => {
    recordTelemetry(this.#of, fact);
    this.#vllm.telemetry(fact);
  });
  #sockets: () => SocketCounts = () => ({ connections: 0, streams: 0 });
  #listedMs = Number.NEGATIVE_INFINITY;
  #text: { readonly atMs: number; readonly text: Promise<string> } | null = null;

  constructor(deps: MetricsDeps) {
    this.#deps = deps;
    const { limits } = deps.engine;
    this.#hasDevice = deps.engine.state().tiers.some(({ tier }) => tier === 'device');
    this.#of = createInstruments(this.#registry, limits);
    this.#byAdapter = new AdapterMetrics(this.#of, deps.now);
    this.#vllm = new VllmMetrics(this.#registry, limits, () => performance.timeOrigin + performance.now());
    this.#of.buildInfo.set({ version: deps.version, node: process.version, backend: limits.device }, 1);
    this.#of.modelInfo.set(
      {
        model_name: limits.modelId,
        dtype: limits.precision,
        device: limits.device,
        max_model_len: String(limits.maxModelLen),
      },
      1,
    );
    deps.engine.onTelemetry((fact) => this.#facts.add(fact));
    this.#process.start();
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** `count` is asked at each scrape. */
  watchSockets(count: () => SocketCounts): void {
    this.#sockets = count;
  }

  interToken(seconds: number): void {
    this.#gaps.add(seconds);
  }

  rejected(code: ErrorCode): void {
    recordRejection(this.#of, code);
  }

  ended(summary: GenerationSummary): void {
    recordGeneration(this.#of, summary, this.#hasDevice);
    this.#byAdapter.ended(summary);
    this.#vllm.ended(summary);
  }

  requestEnded({ route, status, seconds, facts }: RequestEnd): void {
    const of = this.#of;
    of.requests.inc({ route, code: String(status) });
    of.requestSeconds.observe({ route }, seconds);
    if (!facts.generation) return;
    of.loraxCount.inc();
    if (facts.results.length === 0) {
      of.loraxFailure.inc({ err: loraxReason(status, facts.code) });
      return;
    }
    of.loraxSuccess.inc();
    this.#vllm.answered(facts.choices);
    of.loraxDuration.observe(seconds);
  }

  /** Prometheus text, at most CACHE_MS old: a fast scraper does not load the event loop. */
  render(): Promise<string> {
    const atMs = this.#deps.now();
    if (this.#text === null || atMs - this.#text.atMs >= CACHE_MS) {
      this.#text = { atMs, text: this.#refresh().then(() => this.#registry.metrics()) };
    }
    return this.#text.text;
  }

  /**
   * What gateways poll, as it is now; of the adapters as they were at most ROUTER_LIST_MS ago. Cheap: it formats a
   * handful of samples and waits for nothing but the first list.
   */
  async renderForRouter(): Promise<string> {
    const { engine, now } = this.#deps;
    const isFirst = this.#listedMs === Number.NEGATIVE_INFINITY;
    if (now() - this.#listedMs >= ROUTER_LIST_MS) {
      this.#listedMs = now();
      const listed = this.#refreshAdapters();
      if (isFirst) await listed;
    }
    this.#vllm.state(engine.state());
    const families = await Promise.all(ROUTER_NAMES.map((name) => this.#registry.getSingleMetricAsString(name)));
    return `${families.join('\n')}\n`;
  }

  /** LoRAX's JSON form. */
  async renderJson(): Promise<unknown> {
    await this.#refresh();
    return toJsonForm(await this.#registry.getMetricsAsJSON());
  }

  close(): void {
    this.#process.stop();
  }

  async #refresh(): Promise<void> {
    const { engine, isReady, isDraining } = this.#deps;
    this.#gaps.flush();
    this.#facts.flush();
    this.#of.ready.set(isReady() ? 1 : 0);
    this.#of.draining.set(isDraining() ? 1 : 0);
    recordState(this.#of, engine.state());
    const { connections, streams } = this.#sockets();
    this.#of.wsConnections.set(connections);
    this.#of.wsStreams.set(streams);
    this.#vllm.state(engine.state());
    this.#process.record(this.#of);
    await this.#refreshAdapters();
  }

  async #refreshAdapters(): Promise<void> {
    const adapters = await this.#listAdapters();
    if (adapters === null) return;
    recordAdapters(this.#of, adapters);
    this.#byAdapter.resident(adapters);
    this.#vllm.adapters(adapters, this.#deps.engine.state());
  }

  /** null when the engine does not answer in time: a scrape never hangs on it. */
  async #listAdapters(): Promise<readonly AdapterInfo[] | null> {
    const { promise: timeout, stop } = expireAfter(LIST_TIMEOUT_MS);
    const list = this.#deps.engine.admin({ op: 'list' }).then(
      ({ adapters }) => adapters,
      () => null,
    );
    try {
      return await Promise.race([list, timeout]);
    } finally {
      stop();
    }
  }
}

function expireAfter(milliseconds: number): { readonly promise: Promise<null>; readonly stop: () => void } {
  let stop = (): void => {};
  const promise = new Promise<null>((resolve) => {
    const timer = setTimeout(() => resolve(null), milliseconds);
    stop = () => clearTimeout(timer);
  });
  return { promise, stop };
}

/** LoRAX's word for a failed request. */
function loraxReason(status: number, code: ErrorCode | null): string {
  if (status === 499 || code === 'ERR_ABORTED') return 'dropped';
  if (status === 429 || status === 503) return 'overloaded';
  if (status === 422) return 'validation';
  return status >= 500 ? 'incomplete' : 'generation';
}
