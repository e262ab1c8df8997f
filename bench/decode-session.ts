import { join } from 'node:path';
import { AdapterRegistry } from '../src/adapters/registry.js';
import type { PreparedModel } from '../src/core/model-manifest.js';
import { BASE_NAME } from '../src/core/names.js';
import { GREEDY_SAMPLING, PLAIN_REQUEST } from '../src/core/request.js';
import { loadBinding, type NativeEngine } from '../src/engine/binding.js';
import { BASE_ROWS, oneAdapter } from '../src/scheduler/row-adapters.js';
import { Scheduler } from '../src/scheduler/scheduler.js';

const PROMPT_TOKENS = 32;
const WARM_UP_STEPS = 2;

/** Seconds of each timed decode step of one run. */
export type StepTimes = readonly number[];

/** One engine that decodes batches of sequences, each with an adapter of the caller's choice. */
export class DecodeSession {
  #nextId = 1;

  private constructor(
    readonly engine: NativeEngine,
    readonly registry: AdapterRegistry,
    readonly vocabSize: number,
  ) {}

  static async open(model: PreparedModel, adapterRoot: string, threads: number): Promise<DecodeSession> {
    const binding = loadBinding();
    const tokenizer = binding.Tokenizer.fromFile(join(model.directory, model.manifest.tokenizer.file));
    const engine = await binding.Engine.open(JSON.stringify(model.manifest), {
      directory: model.directory,
      threads,
      maxModelLen: 1024,
      maxSequences: 64,
      maxBatchTokens: 1024,
      kvBlocks: 2048,
      tokenCount: tokenizer.vocabSize(),
    });
    const registry = new AdapterRegistry({
      backend: {
        openAdapterFile: (path, maxBytes) => binding.openAdapterFile(path, maxBytes),
        firstMatches: (patterns, names) => binding.firstMatches(patterns, names),
        mergeAdapterFiles: (files, recipe) => binding.mergeAdapterFiles(files, recipe),
        compileAdapter: (file, planJson) => engine.compileAdapter(file, planJson),
        releaseAdapter: (handle) => engine.releaseAdapter(handle),
      },
      base: model.manifest,
      roots: [adapterRoot],
      capacityBytes: 4 * 2 ** 30,
      emit: () => undefined,
    });
    return new DecodeSession(engine, registry, model.manifest.config.vocabSize);
  }

  /** Decodes `steps` tokens for one sequence per entry of `adapters`, all in one batch; prefill is not timed. */
  async decode(adapters: readonly string[], steps: number): Promise<StepTimes> {
    const scheduler = new Scheduler({
      maxSequences: 64,
      maxBatchTokens: 1024,
      maxPrefillRows: 1024,
      maxQueue: 64,
      prefixCache: false,
      speculation: false,
      kvBlocks: 2048,
      blockSize: this.engine.blockSize,
      maxModelLen: 1024,
      vocabSize: this.vocabSize,
    });
    const leases = [];
    for (const [row, adapter] of adapters.entries()) {
      const lease = adapter === BASE_NAME ? null : await this.registry.acquire(adapter);
      if (lease !== null) leases.push(lease);
      const promptIds = Uint32Array.from({ length: PROMPT_TOKENS }, (_, i) => 100 + ((row * 37 + i * 11) % 4000));
      const sampling = GREEDY_SAMPLING;
      const request = {
        id: this.#nextId++,
        adapter,
        promptIds,
        maxNewTokens: steps + WARM_UP_STEPS + 1,
        stopIds: [],
        sampling,
        ...PLAIN_REQUEST,
      };
      scheduler.enqueue(request, lease === null ? BASE_ROWS : oneAdapter(lease.handle), 0, {
        adapter,
        digest: lease?.digest ?? null,
        tierAtArrival: null,
      });
    }
    const times: number[] = [];
    for (let step = 0; ; step += 1) {
      const started = performance.now();
      const plan = scheduler.plan(step);
      if (plan === null) break;
      const output = await this.engine.step(scheduler.buildBatch(plan));
      scheduler.commit(plan, output, step);
      if (step > WARM_UP_STEPS) times.push((performance.now() - started) / 1000);
    }
    for (const lease of leases) lease.release();
    return times;
  }

  async close(): Promise<void> {
    await this.registry.close();
    await this.engine.close();
  }
}
