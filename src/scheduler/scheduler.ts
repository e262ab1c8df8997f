import { type ErrorRecord, LoramuxError } from '../core/errors.js';
import { PagePool } from '../core/page-pool.js';
import type { GenerateRequest, SequenceEvent, ServedBy } from '../core/request.js';
import { NO_CONSTRAINT, NO_TOKEN, type StepBatch, type StepOutput } from '../core/step.js';
import { BlockPool } from './block-pool.js';
import { checkSampling } from './check-sampling.js';
import { type Flight, mayPlanAhead, takeOff, writtenBlocks } from './flight.js';
import { planStep } from './planner.js';
import { checkLimits, checkRequest, finishReason, type SchedulerLimits } from './policy.js';
import { PrefixCache } from './prefix-cache.js';
import { PrefixTree } from './prefix-tree.js';
import { WaitingQueue } from './queue.js';
import type { RowAdapters } from './row-adapters.js';
import { BEFORE_ALL, Sequence } from './sequence.js';
import { errorEvent, failureOf, noToken, topOf } from './sequence-events.js';
import { SlotPool } from './slot-pool.js';
import { type SchedulerCounts, type SchedulerSnapshot, snapshotSequence } from './snapshot.js';
import { StepBatchBuilder } from './step-batch.js';
import { StepCost } from './step-cost.js';
import { acceptedDrafts, type PlanEntry, type StepPlan, sampledRowsOf } from './step-plan.js';

/**
 * Continuous batching: decides which rows each step holds and keeps the account of slots and KV blocks. Pure
 * bookkeeping on one thread: no I/O, no timers, no clock (times are passed in).
 *
 * A step is `plan` → `buildBatch` → the caller runs it → `commit` or `rollback`. While it runs, `planAhead` may decide the
 * step behind it, which the caller runs after it and settles after it; never more than these two. Between plan and
 * commit everything else may be called: sequences of a plan keep their slot and blocks until it is settled.
 * Every request gets exactly one terminal event, from `commit`, `rollback`, `fail` or `failByAdapter`, unless it was
 * aborted: then none.
 */
export class Scheduler {
  readonly #limits: SchedulerLimits;
  readonly #pool: BlockPool;
  readonly #cache: PrefixCache;
  readonly #slots: SlotPool;
  readonly #builder: StepBatchBuilder;
  readonly #cost = new StepCost();
  readonly #queue = new WaitingQueue();
  /** Requests without a terminal event yet, by id. */
  readonly #live = new Map<number, Sequence>();
  /** In order of admission. */
  #running: Sequence[] = [];
  /** In the order in which they run; two at most. */
  #flights: Flight[] = [];
  #arrivals = 0;
  #admissions = 0;
  #steps = 0;
  #lastStepMs: number | null = null;

  /** Of `pages`, as many as `limits.kvBlocks`, it becomes the first tenant. Errors: ERR_CONFIG for limits that cannot work. */
  constructor(limits: SchedulerLimits, pages: PagePool = new PagePool(limits.kvBlocks)) {
    checkLimits(limits);
    this.#limits = { ...limits };
    const tree = new PrefixTree();
    this.#pool = new BlockPool(pages, {
      onEvict: (block) => tree.remove(block),
      buildOn: (block) => tree.below(block),
    });
    this.#cache = new PrefixCache(limits.prefixCache, limits.blockSize, this.#pool, tree);
    this.#slots = new SlotPool(limits.maxSequences);
    this.#builder = new StepBatchBuilder(limits.blockSize);
  }

  /**
   * Accepts a request. `adapters` is what its rows run under, or null while some adapter is loading: then
   * `adapterReady` or `fail` must follow. `servedBy` comes back in the `admitted` event. `constraint` is the matcher of
   * the request's constraint; it must stay open until the request has ended and is in no step.
   * Errors: ERR_QUEUE_FULL; ERR_PROMPT_TOO_LONG if it could never fit; ERR_VALIDATION for an empty prompt or output,
   * sampling that cannot be, or an id in use. A refused request leaves no trace.
   */
  enqueue(
    request: GenerateRequest,
    adapters: RowAdapters | null,
    nowMs: number,
    servedBy: ServedBy,
    constraint: number = NO_CONSTRAINT,
  ): void {
    this.#check(request);
    this.requireRoom(0);
    const sequence = new Sequence(request, adapters, this.#arrivals, nowMs, servedBy, constraint);
    this.#arrivals += 1;
    this.#live.set(request.id, sequence);
    this.#queue.insert(sequence);
  }

  /**
   * Accepts a request of the engine's own that others wait for: it goes before all that never ran, and a full queue
   * takes it too. Errors: as `enqueue`.
   */
  enqueueFirst(request: GenerateRequest, adapters: RowAdapters, nowMs: number, servedBy: ServedBy): void {
    this.#check(request);
    const sequence = new Sequence(request, adapters, BEFORE_ALL, nowMs, servedBy, NO_CONSTRAINT);
    this.#live.set(request.id, sequence);
    this.#queue.insertFirst(sequence);
  }

  /** Errors: ERR_QUEUE_FULL when no request could be accepted beside `elsewhere` that are on their way here. */
  requireRoom(elsewhere: number): void {
    if (this.#queue.size + elsewhere < this.#limits.maxQueue) return;
    throw new LoramuxError(
      'ERR_QUEUE_FULL',
      `expected at most ${this.#limits.maxQueue} waiting requests, and that many wait: try again later`,
    );
  }

  #check(request: GenerateRequest): void {
    checkRequest(request, this.#limits);
    checkSampling(request, this.#limits.vocabSize);
    if (this.#live.has(request.id)) {
      throw new LoramuxError(
        'ERR_VALIDATION',
        `expected a request id not in use, got ${request.id}: give each its own`,
      );
    }
  }

  /**
   * The adapters of a waiting request are resident; `servedBy` replaces the one given at `enqueue`, for its digest may
   * not have been known then. Does nothing for a request that ended meanwhile.
   */
  adapterReady(id: number, adapters: RowAdapters, servedBy?: ServedBy): void {
    const sequence = this.#queue.takeLoaded(id);
    if (sequence === null) return;
    sequence.adapters = adapters;
    if (servedBy !== undefined) sequence.servedBy = servedBy;
    this.#queue.insert(sequence);
  }

  /** Ends a request without an event and frees what it holds, after the step in flight if it is in it. */
  abort(id: number): boolean {
    return this.#end(id);
  }

  /** Ends a request with an error event; null when there is no such request (any more). */
  fail(id: number, error: ErrorRecord | LoramuxError): SequenceEvent | null {
    return this.#end(id) ? errorEvent(id, error) : null;
  }

  /** Ends every request that uses an adapter, alone or among others, waiting or running, with an error event each. */
  failByAdapter(handle: number, error: ErrorRecord | LoramuxError): SequenceEvent[] {
    const events: SequenceEvent[] = [];
    for (const sequence of [...this.#live.values()]) {
      if (!sequence.adapters?.entry.terms.some((term) => term.adapter === handle)) continue;
      this.#end(sequence.id);
      events.push(errorEvent(sequence.id, error));
    }
    return events;
  }

  /**
   * Decides the next step; null when nothing can run. No sequence changes until `commit` or `rollback`. Blocks do: the
   * plan holds what it gives to its sequences, and what it takes from preempted ones is free.
   */
  plan(nowMs: number): StepPlan | null {
    if (this.#flights.length > 0) {
      throw new LoramuxError('ERR_ENGINE_FATAL', 'expected the plan in flight to be settled: commit or roll it back');
    }
    return this.#plan(nowMs, false);
  }

  /**
   * Decides the step behind the one in flight, whose tokens are not known: a sequence goes on with whatever it samples
   * there, unless its length ends it. Null when nothing can run or it is better to wait: for tokens that must be known
   * first, or for blocks, as nobody is preempted while in flight. Where a token ends its sequence after all, the row is
   * computed in vain, and slot and blocks come free one step later.
   */
  planAhead(nowMs: number): StepPlan | null {
    const [flight, behind] = this.#flights;
    if (flight === undefined || behind !== undefined) {
      throw new LoramuxError(
        'ERR_ENGINE_FATAL',
        `expected one plan in flight, got ${this.#flights.length}: plan one step ahead at most`,
      );
    }
    if (!mayPlanAhead(flight.plan, this.#limits, this.#cost)) return null;
    this.#advance(flight);
    return this.#plan(nowMs, true);
  }

  #plan(nowMs: number, ahead: boolean): StepPlan | null {
    const plan = planStep(
      {
        limits: this.#limits,
        running: this.#running,
        runnable: this.#queue.runnable(),
        pool: this.#pool,
        cache: this.#cache,
        slots: this.#slots,
        cost: this.#cost,
        nextAdmission: this.#admissions,
        ahead,
      },
      nowMs,
    );
    if (plan !== null) this.#flights.push(takeOff(plan));
    return plan;
  }

  /**
   * The plan as arrays for the native step; all but `sampling` and `returnLogits` are reused, so valid until the next
   * `buildBatch`, which must follow `plan` or `planAhead` before any other plan is settled. `wantsLogits` tells
   * by request id whose sampled rows hand their logits back.
   */
  buildBatch(plan: StepPlan, wantsLogits: (requestId: number) => boolean = () => false): StepBatch {
    if (!this.#flights.some((flight) => flight.plan === plan)) throw notInFlight();
    return this.#builder.build(plan, wantsLogits);
  }

  /**
   * Makes a step that ran part of the visible state. Events per request: `admitted` (first time only, at the time of
   * the plan), `prompt`, `token`, `finish`.
   * Errors: ERR_NATIVE when the output does not fit the plan; nothing has changed then, so roll back.
   */
  commit(plan: StepPlan, output: StepOutput, nowMs: number): SequenceEvent[] {
    const flight = this.#first(plan);
    const { tokens, logprobs, top } = output;
    const rows = [tokens.length, logprobs.length, top.indptr.length - 1];
    const wanted = plan.scoredRows + plan.sampledRows;
    if (rows.some((count) => count !== wanted)) {
      throw new LoramuxError(
        'ERR_NATIVE',
        `expected a step output of ${wanted} tokens, logprobs and lists of tokens, got ${rows.join(', ')}: ` +
          'roll the step back and report a fault of the engine',
      );
    }
    const events: SequenceEvent[] = [];
    this.#advance(flight);
    this.#land(flight);
    for (const { sequence, start } of flight.newcomers) {
      if (sequence.ended) continue;
      const { id, servedBy } = sequence;
      events.push({ kind: 'admitted', id, atMs: plan.atMs, servedBy, cachedTokens: start });
    }
    let row = 0;
    for (const entry of plan.entries) {
      this.#takeScores(entry, output, row, events);
      row += entry.scoredCount;
      const accepted = this.#acceptAll(entry, output, row, events);
      row += sampledRowsOf(entry);
      this.#publish(entry, accepted);
      this.#releaseIfOver(entry.sequence);
    }
    this.#dropReleased();
    if (plan.decodeRows > 0) this.#cost.observe(plan.rows, output.runSeconds);
    this.#steps += 1;
    this.#lastStepMs = nowMs;
    return events;
  }

  /**
   * Settles a step that failed: its sequences end with an error event each, all others go on as before. Sequences
   * that the plan preempted stay preempted, since the failed step may have overwritten their blocks. Of a step behind it
   * only the rows of other sequences count.
   */
  rollback(plan: StepPlan, error: ErrorRecord | LoramuxError): SequenceEvent[] {
    const flight = this.#first(plan);
    const events: SequenceEvent[] = [];
    if (!flight.advanced) this.#detachPreempted(plan);
    this.#land(flight);
    for (const { sequence, newBlocks, samples } of plan.entries) {
      if (!flight.advanced) this.#pool.release(newBlocks);
      else if (samples) sequence.awaited -= 1;
      if (!sequence.ended) {
        this.#live.delete(sequence.id);
        events.push(errorEvent(sequence.id, error));
      }
      sequence.ended = true;
      this.#releaseIfOver(sequence);
    }
    this.#dropReleased();
    return events;
  }

  counts(): SchedulerCounts {
    return {
      waiting: this.#queue.size,
      waitingForAdapter: this.#queue.loadingCount,
      running: this.#running.length,
      totalBlocks: this.#pool.total,
      usedBlocks: this.#pool.used,
      cachedBlocks: this.#pool.idle,
      adapterBlocks: this.#pool.elsewhere,
      steps: this.#steps,
      lastStepMs: this.#lastStepMs,
    };
  }

  /** A copy of all state; costs time in proportion to it. */
  snapshot(): SchedulerSnapshot {
    const ahead = this.#flights.filter(({ advanced }) => !advanced).map(({ plan }) => plan);
    return {
      limits: this.#limits,
      plansInFlight: this.#flights.length,
      plannedBlocks: ahead.flatMap(({ entries }) => entries.flatMap(({ newBlocks }) => newBlocks)),
      replacedBlocks: this.#flights.flatMap(({ replaced }) => replaced),
      writtenBlocks: this.#flights.flatMap(({ plan }) => writtenBlocks(plan, this.#limits.blockSize)),
      preemptedIds: ahead.flatMap(({ preemptedIds }) => preemptedIds),
      running: this.#running.map(snapshotSequence),
      waiting: Array.from(this.#queue.runnable(), snapshotSequence),
      waitingForAdapter: Array.from(this.#queue.loading(), snapshotSequence),
      liveIds: [...this.#live.keys()],
      blankBlockIds: this.#pool.blankIds(),
      cachedBlockIds: this.#pool.idleIds(),
      elsewhereIds: this.#pool.elsewhereIds(),
      publishedBlockIds: this.#pool.publishedIds(),
      blockHolders: Array.from({ length: this.#pool.total }, (_, block) => this.#pool.holders(block)),
      usedBlocks: this.#pool.used,
      freeSlots: this.#slots.free,
    };
  }

  /** The flight of a plan that is to be settled: steps run one after another, and so they are settled. */
  #first(plan: StepPlan): Flight {
    const [flight] = this.#flights;
    if (flight?.plan !== plan) throw notInFlight();
    return flight;
  }

  /** Brings the sequences of a plan to where they stand when its step is done, save what only its output tells. */
  #advance(flight: Flight): void {
    if (flight.advanced) return;
    const { plan } = flight;
    flight.advanced = true;
    flight.newcomers = plan.admitted.filter(({ sequence }) => !sequence.everAdmitted);
    this.#detachPreempted(plan);
    for (const sequence of plan.turns) this.#queue.takeTurn(sequence);
    for (const entry of plan.admitted) this.#admit(entry);
    for (const { sequence, newBlocks, count, drafts, samples } of plan.entries) {
      for (const block of newBlocks) sequence.blocks.push(block);
      sequence.computed += count - drafts.length;
      if (samples) sequence.awaited += 1;
    }
    this.#dropReleased();
  }

  /** What a plan preempted goes back to the head of the queue. */
  #detachPreempted({ preempted }: StepPlan): void {
    for (const victim of preempted) {
      victim.inFlight -= 1;
      this.#slots.release(victim.slot);
      victim.detach();
      if (!victim.ended) this.#queue.pushFront(victim);
    }
  }

  /** The step of the first plan in flight is over. */
  #land({ plan, replaced }: Flight): void {
    this.#flights.shift();
    for (const { sequence } of plan.entries) sequence.inFlight -= 1;
    this.#pool.release(replaced);
  }

  #admit({ sequence, slot, admission, start }: PlanEntry): void {
    this.#queue.remove(sequence);
    sequence.admit(slot, admission, start);
    this.#slots.take(slot);
    this.#running.push(sequence);
    this.#admissions = admission + 1;
  }

  /** Takes what the scoring rows of an entry, from `row` of the output on, say of the prompt; reports it when it is all there. */
  #takeScores({ sequence, scoredCount }: PlanEntry, output: StepOutput, row: number, events: SequenceEvent[]): void {
    const { scores, request, id } = sequence;
    if (scores === null || sequence.ended) return;
    const withTop = (request.promptLogprobs?.top ?? 0) > 0;
    for (let at = row; at < row + scoredCount; at += 1) {
      if (output.tokens[at] === NO_TOKEN) {
        this.#finish(sequence, errorEvent(id, noToken(sequence, scores.known)), events);
        return;
      }
      scores.add(output.logprobs[at] as number, withTop ? topOf(output, at) : null);
    }
    if (!scores.complete) return;
    sequence.scores = null;
    events.push({ kind: 'prompt', id, prompt: scores.result() });
    if (request.maxNewTokens === 0) this.#finish(sequence, { kind: 'finish', id, reason: 'length' }, events);
  }

  /** Ends a sequence of the plan being committed with its terminal event. */
  #finish(sequence: Sequence, event: SequenceEvent, events: SequenceEvent[]): void {
    sequence.ended = true;
    this.#live.delete(sequence.id);
    events.push(event);
  }

  /**
   * Takes what an entry's rows sampled, from row `row` of the output on: one token, and one for each right draft.
   * Returns how many drafts those were.
   */
  #acceptAll(entry: PlanEntry, output: StepOutput, row: number, events: SequenceEvent[]): number {
    const { sequence, samples } = entry;
    if (!samples) return 0;
    sequence.awaited -= 1;
    const right = acceptedDrafts(entry, output.tokens, row);
    let accepted = 0;
    for (let at = 0; at <= right && !sequence.ended; at += 1) {
      accepted = at;
      this.#accept(sequence, output, row + at, at > 0, events);
    }
    // The K/V of drafts that were right is there already.
    sequence.computed += accepted;
    return accepted;
  }

  /**
   * Makes known what an entry's rows, its first `accepted` drafts among them, left in full blocks: unless they stand on
   * rows of a step that failed, or a token that never came.
   */
  #publish({ sequence, start, count, drafts }: PlanEntry, accepted: number): void {
    if (start !== sequence.settled) return;
    sequence.settled = Math.min(start + count - drafts.length + accepted, sequence.length);
    const replaced = this.#cache.publish(sequence);
    // The step behind may still read them.
    if (sequence.inFlight > 0) this.#flights[0]?.replaced.push(...replaced);
    else this.#pool.release(replaced);
  }

  /** Takes what row `row` of the output sampled. */
  #accept(sequence: Sequence, output: StepOutput, row: number, speculated: boolean, events: SequenceEvent[]): void {
    const token = output.tokens[row] as number;
    if (token === NO_TOKEN) {
      const error = noToken(sequence, sequence.length, failureOf(output, row));
      this.#finish(sequence, errorEvent(sequence.id, error), events);
      return;
    }
    sequence.append(token);
    const { logprobs } = sequence.request;
    const logprob = logprobs === null ? Number.NaN : (output.logprobs[row] as number);
    const top = logprobs === null || logprobs.top === 0 ? null : topOf(output, row);
    events.push({ kind: 'token', id: sequence.id, token, logprob, top, speculated });
    const reason = finishReason(sequence.request, sequence.generated, token);
    if (reason !== null) this.#finish(sequence, { kind: 'finish', id: sequence.id, reason }, events);
  }

  /** Ends a live request; false when there is none of that id. */
  #end(id: number): boolean {
    const sequence = this.#live.get(id);
    if (sequence === undefined) return false;
    this.#live.delete(id);
    sequence.ended = true;
    if (sequence.inFlight > 0) return true;
    this.#releaseIfOver(sequence);
    this.#dropReleased();
    return true;
  }

  /**
   * Gives back what a sequence has, slot and blocks or its place in the queue, if it has ended and no step in flight
   * has rows of it. Call `#dropReleased` before anyone looks.
   */
  #releaseIfOver(sequence: Sequence): void {
    if (!sequence.ended || sequence.inFlight > 0) return;
    if (sequence.slot < 0) {
      this.#queue.remove(sequence);
      return;
    }
    this.#pool.release(sequence.blocks);
    this.#slots.release(sequence.slot);
    sequence.detach();
  }

  #dropReleased(): void {
    this.#running = this.#running.filter((sequence) => sequence.slot >= 0);
  }
}

function notInFlight(): LoramuxError {
  return new LoramuxError('ERR_ENGINE_FATAL', 'expected the plan in flight, got another: settle each plan once');
}
