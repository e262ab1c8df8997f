import assert from 'node:assert/strict';
import { join } from 'node:path';
import { AdapterRegistry } from '../../src/adapters/registry.js';
import type { AdapterDtype } from '../../src/core/adapter.js';
import type { KvDtype, PreparedModel } from '../../src/core/model-manifest.js';
import {
  type GenerateRequest,
  GREEDY_SAMPLING,
  PLAIN_REQUEST,
  type PromptLogprobs,
  type SequenceEvent,
  type TopLogprobs,
} from '../../src/core/request.js';
import { NO_CONSTRAINT, type StepBatch, type StepOutput } from '../../src/core/step.js';
import { loadBinding } from '../../src/engine/addon.js';
import type { NativeEngine, NativeEngineOptions, NativeTokenizer } from '../../src/engine/binding.js';
import { checkBatch, checkSnapshot } from '../../src/scheduler/invariants.js';
import { Scheduler } from '../../src/scheduler/scheduler.js';
import type { StepPlan } from '../../src/scheduler/step-plan.js';
import { adapterBackend } from '../../src/worker/adapter-backend.js';
import { type Claim, claim } from '../../src/worker/claim.js';
import { returnedLogits } from '../../src/worker/returned-logits.js';
import { ownPages } from './own-pages.js';

export interface DirectOptions {
  readonly model: PreparedModel;
  readonly adapterRoots: readonly string[];
  readonly threads?: number;
  readonly maxModelLen?: number;
  readonly maxBatchTokens?: number;
  readonly maxSequences?: number;
  readonly kvBlocks?: number;
  /** Off when not given: most tests want every row computed. */
  readonly prefixCache?: boolean;
  readonly speculation?: boolean;
  /** Steps are planned, where that may be, while the one before runs. */
  readonly ahead?: boolean;
  readonly adapterDtype?: AdapterDtype;
  readonly kvDtype?: KvDtype;
  /** The CPU when not given. */
  readonly cuda?: NativeEngineOptions['cuda'];
}

/** What one request came to, with the logits that each of its tokens was chosen from. */
export interface Outcome {
  readonly tokens: number[];
  /** Of each token. */
  readonly logprobs: number[];
  readonly tops: (TopLogprobs | null)[];
  /** Set once, before the first token. */
  prompt: PromptLogprobs | null;
  readonly logits: Float32Array[];
  readonly distinctAdaptersSeen: Set<number>;
  /** Prompt tokens whose KV was there already. */
  cachedTokens: number;
}

/** A step that the engine is at, or soon is. */
interface Launched {
  readonly plan: StepPlan;
  readonly batch: StepBatch;
  readonly output: Promise<StepOutput>;
}

/** The engine without threads, queues or HTTP: scheduler and native step, invariants asserted at every step. */
export class DirectEngine {
  readonly tokenizer: NativeTokenizer;
  /** Sequences preempted so far. */
  preemptions = 0;
  /** Steps planned ahead so far. */
  ahead = 0;
  #nextId = 1;

  static async open(options: DirectOptions): Promise<DirectEngine> {
    const binding = loadBinding();
    const { directory, manifest } = options.model;
    const tokenizer = binding.Tokenizer.fromFile(join(directory, manifest.tokenizer.file));
    const defaults = { maxModelLen: 1024, maxBatchTokens: 256, maxSequences: 64, kvBlocks: 1024 };
    const sizes = { ...defaults, prefixCache: false, speculation: false, ahead: false, ...options };
    const own = options.cuda === undefined ? null : ownPages(manifest, 2 ** 26, sizes.kvBlocks);
    const engine = await binding.Engine.open(JSON.stringify(manifest), {
      directory,
      threads: options.threads ?? 2,
      maxModelLen: Math.min(sizes.maxModelLen, manifest.config.maxPositions),
      maxSequences: sizes.maxSequences,
      maxBatchTokens: sizes.maxBatchTokens,
      kvBlocks: sizes.kvBlocks + (own?.count ?? 0),
      tokenCount: tokenizer.vocabSize(),
      adapterDtype: options.adapterDtype ?? 'file',
      ...(options.kvDtype === undefined ? {} : { kvDtype: options.kvDtype }),
      ...(options.cuda === undefined ? {} : { cuda: options.cuda }),
    });
    const backend = adapterBackend(binding, engine);
    const registry = new AdapterRegistry({
      backend: own?.backend(backend) ?? backend,
      base: { ...manifest, adapterDtype: options.adapterDtype ?? 'file' },
      roots: options.adapterRoots,
      ...(own?.registry ?? { capacityBytes: 2 ** 30 }),
      emit: () => undefined,
    });
    return new DirectEngine(options.model, engine, registry, tokenizer, sizes);
  }

  private constructor(
    readonly model: PreparedModel,
    readonly engine: NativeEngine,
    readonly registry: AdapterRegistry,
    tokenizer: NativeTokenizer,
    readonly sizes: {
      readonly maxModelLen: number;
      readonly maxBatchTokens: number;
      readonly maxSequences: number;
      readonly kvBlocks: number;
      readonly prefixCache: boolean;
      readonly speculation: boolean;
      readonly ahead: boolean;
    },
  ) {
    this.tokenizer = tokenizer;
  }

  /** A greedy request. */
  request(
    adapter: string,
    promptIds: readonly number[],
    maxNewTokens: number,
    stopIds: readonly number[] = [],
  ): GenerateRequest {
    return {
      id: this.#nextId++,
      adapter,
      promptIds: Uint32Array.from(promptIds),
      maxNewTokens,
      stopIds,
      sampling: GREEDY_SAMPLING,
      ...PLAIN_REQUEST,
    };
  }

  /**
   * Runs requests together to their ends. Outcomes in the order of the requests. `during` is called while each step
   * is in flight.
   */
  async run(
    requests: readonly GenerateRequest[],
    options: {
      readonly logits?: boolean;
      readonly during?: (scheduler: Scheduler, plan: StepPlan, step: number) => void;
      readonly onStep?: (batch: StepBatch, output: StepOutput) => void;
    } = {},
  ): Promise<Outcome[]> {
    const { vocabSize } = this.model.manifest.config;
    const sized = { ...this.sizes, blockSize: this.engine.blockSize, maxQueue: requests.length + 1, vocabSize };
    const limits = { ...sized, maxPrefillRows: this.sizes.maxBatchTokens };
    const scheduler = new Scheduler(limits);
    const outcomes = new Map<number, Outcome>();
    const claims: Claim[] = [];
    const matchers: number[] = [];
    for (const request of requests) {
      const held = await claim(this.registry, request, new AbortController().signal);
      claims.push(held);
      const { constraint } = request;
      const matcher = constraint === null ? NO_CONSTRAINT : await this.engine.openConstraint(constraint);
      matchers.push(matcher);
      outcomes.set(request.id, {
        tokens: [],
        logprobs: [],
        tops: [],
        prompt: null,
        logits: [],
        distinctAdaptersSeen: new Set(),
        cachedTokens: 0,
      });
      scheduler.enqueue(request, held.rowsFor(request.promptIds), 0, held.servedBy, matcher);
    }
    const failures: SequenceEvent[] = [];
    const launch = (plan: StepPlan | null): Launched | null => {
      if (plan === null) return null;
      this.preemptions += plan.preempted.length;
      const batch = scheduler.buildBatch(plan, () => options.logits === true);
      assert.deepEqual(checkBatch(batch, plan, limits), []);
      return { plan, batch, output: this.engine.step(batch) };
    };
    let first: Launched | null = null;
    for (let step = 0; ; step += 1) {
      first ??= launch(scheduler.plan(step));
      if (first === null) break;
      const behind: Launched | null = this.sizes.ahead ? launch(scheduler.planAhead(step)) : null;
      const { plan, batch } = first;
      const output = await first.output;
      options.during?.(scheduler, plan, step);
      if (behind !== null) this.ahead += 1;
      options.onStep?.(batch, output);
      for (const { sequence } of plan.entries.filter((entry) => entry.samples)) {
        outcomes.get(sequence.id)?.distinctAdaptersSeen.add(plan.distinctAdapters);
      }
      for (const [id, logits] of returnedLogits(plan, batch, output)) outcomes.get(id)?.logits.push(logits.slice());
      for (const event of scheduler.commit(plan, output, step)) {
        const outcome = outcomes.get(event.id);
        if (outcome !== undefined) record(event, outcome);
        if (event.kind === 'error') failures.push(event);
      }
      assert.deepEqual(checkSnapshot(scheduler.snapshot()), []);
      first = behind;
    }
    for (const held of claims) held.release();
    for (const matcher of matchers) this.engine.releaseConstraint(matcher);
    assert.deepEqual(failures, []);
    assert.equal(scheduler.counts().usedBlocks, 0);
    return requests.map((request) => {
      const outcome = outcomes.get(request.id);
      assert.ok(outcome !== undefined);
      return outcome;
    });
  }

  async close(): Promise<void> {
    await this.registry.close();
    await this.engine.close();
  }
}

function record(event: SequenceEvent, outcome: Outcome): void {
  if (event.kind === 'prompt') {
    assert.equal(outcome.prompt, null, 'a prompt is reported once');
    assert.equal(outcome.tokens.length, 0, 'before the first token');
    outcome.prompt = event.prompt;
  }
  if (event.kind === 'admitted') outcome.cachedTokens = event.cachedTokens;
  if (event.kind !== 'token') return;
  outcome.tokens.push(event.token);
  outcome.logprobs.push(event.logprob);
  outcome.tops.push(event.top);
}

/** A reproducible shuffle (mulberry32). */
export function shuffled<T>(items: readonly T[], seed: number): T[] {
  const out = [...items];
  let state = seed;
  for (let i = out.length - 1; i > 0; i -= 1) {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    const j = ((t ^ (t >>> 14)) >>> 0) % (i + 1);
    [out[i], out[j]] = [out[j] as T, out[i] as T];
  }
  return out;
}
