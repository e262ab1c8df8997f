import { join } from 'node:path';
import type { AdapterLease } from '../../src/adapters/adapter-record.js';
import { AdapterRegistry } from '../../src/adapters/registry.js';
import type { AdapterDtype } from '../../src/core/adapter.js';
import type { ModelManifest, PreparedModel } from '../../src/core/model-manifest.js';
import { BASE_NAME } from '../../src/core/names.js';
import { GREEDY_SAMPLING, PLAIN_REQUEST } from '../../src/core/request.js';
import { loadBinding } from '../../src/engine/addon.js';
import type { NativeEngine, NativeEngineOptions } from '../../src/engine/binding.js';
import { BASE_ROWS, oneAdapter } from '../../src/scheduler/row-adapters.js';
import { Scheduler } from '../../src/scheduler/scheduler.js';
import { adapterBackend } from '../../src/worker/adapter-backend.js';
import { ownPages } from '../../tests/helpers/own-pages.js';
import { distinctAdapters, type Job, type Timing } from './protocol.js';

/** Steps before the clock of a decode starts: the prefill and one that decodes. */
const WARM_UP_STEPS = 2;
const LIMITS = { maxModelLen: 1024, maxSequences: 64, maxBatchTokens: 1024 };
const KV_BLOCKS = 2048;
const ADAPTER_BYTES = 4 * 2 ** 30;

/** Where a session computes, if not on the CPU, and how many rows a step may have there. */
export interface SessionDevice {
  readonly cuda?: NativeEngineOptions['cuda'];
  readonly maxBatchTokens?: number;
}

/** An engine without a server: scheduler, steps, sampling, and nothing else. */
export class LoramuxSession {
  #nextId = 1;

  private constructor(
    readonly engine: NativeEngine,
    readonly registry: AdapterRegistry,
    readonly model: PreparedModel,
    private readonly limits: typeof LIMITS,
  ) {}

  static async open(
    model: PreparedModel,
    adapterRoot: string,
    threads: number,
    adapterDtype: AdapterDtype,
    { cuda, ...sizes }: SessionDevice = {},
  ): Promise<LoramuxSession> {
    const limits = { ...LIMITS, ...sizes };
    const binding = loadBinding();
    const tokenizer = binding.Tokenizer.fromFile(join(model.directory, model.manifest.tokenizer.file));
    const own = cuda === undefined ? null : ownPages(model.manifest, ADAPTER_BYTES, KV_BLOCKS);
    const engine = await binding.Engine.open(JSON.stringify(model.manifest), {
      directory: model.directory,
      threads,
      ...limits,
      ...(cuda === undefined ? {} : { cuda }),
      kvBlocks: KV_BLOCKS + (own?.count ?? 0),
      tokenCount: tokenizer.vocabSize(),
      adapterDtype,
    });
    const backend = adapterBackend(binding, engine);
    const registry = new AdapterRegistry({
      backend: own?.backend(backend) ?? backend,
      base: { ...model.manifest, adapterDtype },
      roots: [adapterRoot],
      ...(own?.registry ?? { capacityBytes: ADAPTER_BYTES }),
      emit: () => undefined,
    });
    return new LoramuxSession(engine, registry, model, limits);
  }

  /** Runs a job; its adapters are resident before the clock starts. */
  async run(job: Job): Promise<Timing> {
    const held = new Map<string, AdapterLease>();
    for (const name of distinctAdapters(job.adapters)) held.set(name, await this.registry.acquire(name));
    const scheduler = this.#scheduler();
    const firstId = this.#nextId;
    const first: number[] = [];
    for (const [row, adapter] of job.adapters.entries()) this.#enqueue(scheduler, job, row, held.get(adapter));

    const skipped = job.phase === 'decode' ? WARM_UP_STEPS : 0;
    let [seconds, engineSeconds, steps] = [0, 0, 0];
    for (let step = 0; ; step += 1) {
      const started = performance.now();
      const plan = scheduler.plan(step);
      if (plan === null) break;
      const batch = scheduler.buildBatch(plan);
      const handed = performance.now();
      const output = await this.engine.step(batch);
      const taken = performance.now() - handed;
      const events = scheduler.commit(plan, output, step);
      if (step === 0) for (const event of events) if (event.kind === 'token') first[event.id - firstId] = event.token;
      if (step < skipped) continue;
      steps += 1;
      seconds += (performance.now() - started) / 1000;
      engineSeconds += taken / 1000;
    }
    for (const lease of held.values()) lease.release();

    const prompts = job.prompts.reduce((sum, { length }) => sum + length, 0);
    const tokens = job.phase === 'decode' ? job.adapters.length * job.steps : prompts;
    const adapters = await Promise.all([...held.keys()].map((name) => this.registry.get(name)));
    const stepBytes = adapters.reduce((sum, { bytes }) => sum + bytes, matrixBytes(this.model.manifest));
    return { tokens, seconds, stepBytes, first, hostSeconds: (seconds - engineSeconds) / steps };
  }

  async close(): Promise<void> {
    await this.registry.close();
    await this.engine.close();
  }

  #scheduler(): Scheduler {
    return new Scheduler({
      ...this.limits,
      maxPrefillRows: this.limits.maxBatchTokens,
      maxQueue: this.limits.maxSequences,
      prefixCache: false,
      speculation: false,
      kvBlocks: KV_BLOCKS,
      blockSize: this.engine.blockSize,
      vocabSize: this.model.manifest.config.vocabSize,
    });
  }

  #enqueue(scheduler: Scheduler, job: Job, row: number, lease: AdapterLease | undefined): void {
    const adapter = job.adapters[row] ?? BASE_NAME;
    const request = {
      id: this.#nextId++,
      adapter,
      promptIds: Uint32Array.from(job.prompts[row] ?? []),
      maxNewTokens: job.phase === 'decode' ? job.steps + WARM_UP_STEPS : 1,
      stopIds: [],
      sampling: GREEDY_SAMPLING,
      ...PLAIN_REQUEST,
    };
    const servedBy = { adapter, digest: lease?.digest ?? null, tierAtArrival: null };
    scheduler.enqueue(request, lease === undefined ? BASE_ROWS : oneAdapter(lease.handle), 0, servedBy);
  }
}

const SCALE_BYTES = 4;
const SCALED_BLOCK = 32;

/** Bytes of the matrices that every step reads whole: of all sites, the head among them. */
function matrixBytes({ sites }: ModelManifest): number {
  const weights = sites.flatMap(({ modules }) => modules.map(({ weight }) => weight));
  return weights.reduce((sum, { format, rows, cols, scalesOffset, minsOffset }) => {
    const bits = Number(/\d+/.exec(format)?.[0]);
    const perBlock = [scalesOffset, minsOffset].filter((offset) => offset !== null).length * SCALE_BYTES;
    return sum + rows * ((cols * bits) / 8 + Math.ceil(cols / SCALED_BLOCK) * perBlock);
  }, 0);
}
