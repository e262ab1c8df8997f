import type { GenerateRequest, SamplingParams, ServedBy } from '../core/request.js';
import { NO_CONSTRAINT, type RowBias } from '../core/step.js';
import type { CachedBlock } from './prefix-tree.js';
import { PromptLookup } from './prompt-lookup.js';
import { PromptScores } from './prompt-scores.js';
import type { RowAdapters } from './row-adapters.js';

/** Rank of arrival of the engine's own requests, which need not wait for a turn. */
export const BEFORE_ALL = -1;

/**
 * One request while the scheduler holds it. Its tokens are prompt and output in one run, because after a preemption
 * both are prefilled again alike.
 */
export class Sequence {
  readonly request: GenerateRequest;
  /** Rank by time of arrival. */
  readonly arrival: number;
  readonly arrivedMs: number;
  /** null = an adapter is still loading. */
  adapters: RowAdapters | null;
  servedBy: ServedBy;
  /** As the native side takes them, made once. */
  readonly bias: RowBias | null;
  readonly stopIds: Uint32Array;
  /** What may come next. */
  readonly lookup: PromptLookup;
  /** Matcher that its tokens must satisfy. It follows the output alone, so preemption does not touch it. */
  readonly constraint: number;

  /**
   * Null when no prompt token is left to score. While there are scores, prompt rows must run for their logits: cached
   * K/V cannot stand for them.
   */
  scores: PromptScores | null;

  /** Tokens whose K/V is in the cache, or will be after the step in flight that the next plan is made behind. */
  computed = 0;
  /** Tokens whose K/V is in the cache by steps that were committed. */
  settled = 0;
  /** 1 = that step samples its next token, which stands behind the known ones without being known; else 0. */
  awaited = 0;
  /** Tokens that were there at the last admission: below this, rows are prefill. */
  prefillLength = 0;
  /** Of these, tokens whose K/V was cached then. */
  prefillStart = 0;
  /** −1 while waiting. */
  slot = -1;
  /** Physical blocks in logical order. Prefill owns all it will need from the start, decode one at a time. */
  readonly blocks: number[] = [];
  /** The cached blocks that it begins with: while it runs all that it filled, while it waits those found last. */
  readonly path: CachedBlock[] = [];
  /** Rank by time of (the latest) admission; −1 before the first. */
  admission = -1;
  /** How many plans in flight it is part of: its slot and blocks must stay until they are settled. */
  inFlight = 0;
  /** Has had its terminal event, or was aborted; only kept while in flight. */
  ended = false;

  #tokens: Uint32Array;
  #length: number;

  constructor(
    request: GenerateRequest,
    adapters: RowAdapters | null,
    arrival: number,
    nowMs: number,
    servedBy: ServedBy,
    constraint: number = NO_CONSTRAINT,
  ) {
    this.request = request;
    this.constraint = constraint;
    this.bias = rowBias(request.sampling.logitBias);
    this.stopIds = Uint32Array.from(request.stopIds);
    const { promptLogprobs, promptIds } = request;
    this.scores = promptLogprobs === null ? null : new PromptScores(promptIds.length, promptLogprobs.top > 0);
    this.lookup = new PromptLookup(promptIds.length);
    this.servedBy = servedBy;
    this.adapters = adapters;
    this.arrival = arrival;
    this.arrivedMs = nowMs;
    // The prompt is not copied until the first append outgrows it.
    this.#tokens = request.promptIds;
    this.#length = request.promptIds.length;
  }

  get id(): number {
    return this.request.id;
  }

  /** A request of the engine's own. */
  get isOwn(): boolean {
    return this.arrival === BEFORE_ALL;
  }

  /** Prompt plus output so far. */
  get length(): number {
    return this.#length;
  }

  get generated(): number {
    return this.#length - this.request.promptIds.length;
  }

  /** Prompt plus output, the awaited token included: where the next one goes. */
  get end(): number {
    return this.#length + this.awaited;
  }

  get prefilling(): boolean {
    return this.computed < this.prefillLength;
  }

  /** Past its prefill, and to go on as far as can be said. */
  get decoding(): boolean {
    const { promptIds, maxNewTokens } = this.request;
    return !this.ended && !this.prefilling && this.end - promptIds.length < maxNewTokens;
  }

  /** True once it ran, also while it waits to run again after a preemption. */
  get everAdmitted(): boolean {
    return this.admission >= 0;
  }

  tokenAt(position: number): number {
    return this.#tokens[position] as number;
  }

  /** Prompt and output; a view that is valid until the next `append`. */
  tokens(): Uint32Array {
    return this.#tokens.subarray(0, this.#length);
  }

  append(token: number): void {
    if (this.#length === this.#tokens.length) {
      const most = this.request.promptIds.length + this.request.maxNewTokens;
      const grown = new Uint32Array(Math.min(most, Math.max(64, this.#length * 2)));
      grown.set(this.#tokens);
      this.#tokens = grown;
    }
    this.#tokens[this.#length] = token;
    this.#length += 1;
  }

  /** Starts running: everything known so far is to be prefilled, save the first `cached` tokens. */
  admit(slot: number, admission: number, cached: number): void {
    this.slot = slot;
    this.admission = admission;
    this.computed = cached;
    this.settled = cached;
    this.prefillStart = cached;
    this.prefillLength = this.#length;
  }

  /** Forgets slot and blocks; tokens stay. The caller gives slot and blocks back to their pools. */
  detach(): void {
    this.slot = -1;
    this.blocks.length = 0;
    this.computed = 0;
    this.settled = 0;
    this.prefillStart = 0;
    this.prefillLength = 0;
  }
}

function rowBias(logitBias: SamplingParams['logitBias']): RowBias | null {
  if (logitBias.size === 0) return null;
  return { ids: Uint32Array.from(logitBias.keys()), values: Float32Array.from(logitBias.values()) };
}
