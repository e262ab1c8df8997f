import type { BlockPool } from './block-pool.js';
import { blocksFor, canAdmit, longPromptRows, maxScoredRows, type SchedulerLimits } from './policy.js';
import type { PrefixCache } from './prefix-cache.js';
import { type AdapterEntry, BASE_ENTRY, compareEntries, type RowAdapters } from './row-adapters.js';
import type { Sequence } from './sequence.js';
import type { SlotPool } from './slot-pool.js';
import { Speculation } from './speculation.js';
import type { StepCost } from './step-cost.js';
import { type PlanEntry, type Segment, type StepPlan, sampledRowsOf } from './step-plan.js';

/** What a plan is made from; nothing in it changes but who holds blocks of the pool. */
export interface PlanningState {
  readonly limits: SchedulerLimits;
  /** In order of admission. */
  readonly running: readonly Sequence[];
  /** In the order they are to be admitted. */
  readonly runnable: Iterable<Sequence>;
  readonly pool: BlockPool;
  readonly cache: PrefixCache;
  readonly slots: SlotPool;
  readonly cost: StepCost;
  /** Rank that the next admission gets. */
  readonly nextAdmission: number;
  /** A step is in flight, and the sequences stand as they will when it is done: nobody is preempted. */
  readonly ahead: boolean;
}

/**
 * Decides the next step, or returns null when nothing can run, or, `ahead`, when a running sequence lacks a block. Decode
 * rows come first, so that a running sequence never waits for a prefill, each with the guesses of what follows that are
 * worth their rows; then prefills go on, oldest first, in a step with decode rows only so many that those do not wait
 * long, long prompts in chunks; then the queue is admitted in order until rows, slots or blocks run out. The head of the queue is
 * never passed over, or a long prompt could wait for ever.
 * Time: O(rows + entries · log entries), and O(waiting adapters) where something can be admitted.
 */
export function planStep(state: PlanningState, atMs: number): StepPlan | null {
  const builder = new PlanBuilder(state);
  if (!builder.decode()) return builder.abandon();
  builder.continuePrefill();
  builder.admit();
  return builder.entries.length === 0 ? null : finishPlan(builder, state.cache, atMs);
}

/** Nobody waits for the engine's own requests as for a token: they are spread over steps that decode. */
const OWN_ROWS_BESIDE_DECODE = 1;

/** A plan being made. */
class PlanBuilder {
  readonly entries: PlanEntry[] = [];
  readonly admitted: PlanEntry[] = [];
  readonly preempted: Sequence[] = [];
  readonly turns: Sequence[] = [];
  readonly #state: PlanningState;
  /** running[0 … kept − 1] stay; what lies behind was preempted. */
  #kept: number;
  #rowsLeft: number;
  /** Rows that one of the engine's own requests may take of this step. */
  #ownRows = Number.POSITIVE_INFINITY;
  /** Rows that prompts too long for one step may take of this one. */
  #longRows = { each: Number.POSITIVE_INFINITY, together: Number.POSITIVE_INFINITY };
  /** Blocks that prefills of this step are filling, by `nextFilled`; null = not asked for yet. */
  #filling: Set<string | null> | null = null;
  #scoresLeft: number;

  constructor(state: PlanningState) {
    this.#state = state;
    this.#kept = state.running.length;
    this.#rowsLeft = state.limits.maxBatchTokens;
    this.#scoresLeft = maxScoredRows(state.limits.vocabSize);
  }

  /**
   * One row and its drafts for each sequence past its prefill, oldest first; preempts from the other end when blocks run
   * out. False when one lacks a block and nobody may be preempted.
   */
  decode(): boolean {
    const { running, limits, cost, ahead } = this.#state;
    const decoding = running.reduce((count, sequence) => count + (sequence.decoding ? 1 : 0), 0);
    const speculation = new Speculation(limits, cost, decoding);
    for (let index = 0; index < this.#kept; index += 1) {
      const sequence = running[index] as Sequence;
      if (!sequence.decoding) continue;
      const newBlocks: number[] = [];
      if (sequence.end > sequence.blocks.length * limits.blockSize) {
        const block = ahead ? this.#state.pool.take() : this.#blockFor(index);
        if (block < 0 && ahead) return false;
        if (block < 0) break;
        newBlocks.push(block);
      }
      const capacity = (sequence.blocks.length + newBlocks.length) * limits.blockSize;
      this.#addRunning(sequence, 'decode', newBlocks, speculation.drafts(sequence, capacity));
    }
    if (this.entries.length === 0) return true;
    this.#rowsLeft = Math.min(this.#rowsLeft, limits.maxPrefillRows);
    this.#ownRows = OWN_ROWS_BESIDE_DECODE;
    this.#longRows = longPromptRows(limits.maxPrefillRows);
    return true;
  }

  /** Gives back what was taken from the pool: there will be no plan. */
  abandon(): null {
    for (const { newBlocks } of this.entries.toReversed()) this.#state.pool.release(newBlocks);
    return null;
  }

  continuePrefill(): void {
    for (let index = 0; index < this.#kept && this.#rowsLeft > 0; index += 1) {
      const sequence = this.#state.running[index] as Sequence;
      if (sequence.ended || !sequence.prefilling || this.#mostRows(sequence, sequence.computed) === 0) continue;
      this.#addRunning(sequence, 'prefill', []);
    }
  }

  /**
   * Blocks for a whole prefill are handed over at admission, so that a prefill once begun cannot get stuck. What
   * preempted sequences gave up is not offered: admitting would only undo the preemption.
   *
   * A sequence whose next block a running prefill is about to fill waits for that, as it would compute the same. What
   * is behind it may be admitted meanwhile if that takes nothing from it: its slot and blocks are set aside, and the
   * whole prefill must fit into this step, so that no row of a later one goes to those that came after it.
   */
  admit(): void {
    if (this.preempted.length > 0 || this.#rowsLeft === 0 || this.#state.slots.free === 0) return;
    const { runnable, pool, cache, slots, limits } = this.#state;
    let slot = -1;
    let aside = { slots: 0, blocks: 0 };
    for (const sequence of runnable) {
      const headroom = {
        rows: this.#rowsLeft,
        slots: slots.free - this.admitted.length - aside.slots,
        blocks: pool.available - aside.blocks,
      };
      if (!canAdmit(headroom, 0)) break;
      cache.match(sequence);
      const fresh = blocksFor(sequence.length, limits.blockSize) - sequence.path.length;
      const taken = fresh + cache.idleOf(sequence);
      const cached = sequence.path.length * limits.blockSize;
      const most = this.#mostRows(sequence, cached);
      if (!canAdmit(headroom, taken) || most === 0) break;
      if (this.#isBeingFilled(sequence)) {
        this.turns.push(sequence);
        aside = { slots: aside.slots + 1, blocks: aside.blocks + taken };
        continue;
      }
      const remaining = sequence.length - cached;
      if (aside.slots > 0 && remaining > Math.min(this.#rowsLeft, most)) break;
      slot = slots.nextFree(slot + 1);
      this.turns.push(sequence);
      this.#admitOne(sequence, slot, fresh);
    }
  }

  #admitOne(sequence: Sequence, slot: number, fresh: number): void {
    const { pool, cache, limits, nextAdmission } = this.#state;
    const newBlocks = sequence.path.map(({ block }) => block);
    for (const block of newBlocks) pool.hold(block);
    const cached = newBlocks.length * limits.blockSize;
    for (let count = 0; count < fresh; count += 1) newBlocks.push(pool.take());
    const admission = nextAdmission + this.admitted.length;
    this.admitted.push(this.#add(sequence, 'prefill', cached, slot, admission, newBlocks));
    this.#filling?.add(cache.nextFilled(sequence));
  }

  /** True when the next block that `sequence` lacks is one that a prefill, running or just admitted, is to publish. */
  #isBeingFilled(sequence: Sequence): boolean {
    const { running, cache } = this.#state;
    if (!cache.wantsMore(sequence)) return false;
    this.#filling ??= new Set(running.filter(fills).map((other) => cache.nextFilled(other)));
    return this.#filling.has(cache.nextFilled(sequence));
  }

  /**
   * A block for running[index], taken from the most recently admitted sequence if none is available; −1 when that is
   * the sequence itself, which then steps back. Never taking from an older one means that the oldest always gets on,
   * so work ends in bounded time and two sequences cannot preempt each other in turn.
   */
  #blockFor(index: number): number {
    const { pool, running } = this.#state;
    for (;;) {
      const block = pool.take();
      if (block >= 0) return block;
      this.#kept -= 1;
      const victim = running[this.#kept] as Sequence;
      this.preempted.push(victim);
      pool.release(victim.blocks);
      if (this.#kept === index) return -1;
    }
  }

  /** Rows from `start` on that one sequence may have of what is left of the step; Infinity when all of it. */
  #mostRows(sequence: Sequence, start: number): number {
    const { each, together } = this.#longRows;
    const long = this.#isLong(sequence, start) ? Math.min(each, together) : Number.POSITIVE_INFINITY;
    const own = sequence.isOwn ? this.#ownRows : Number.POSITIVE_INFINITY;
    return Math.min(long, own, this.#scorable(sequence, start));
  }

  /** True for a prompt of more rows, from its admission on, than a step that decodes may have; `start` is where it begins. */
  #isLong({ slot, prefillStart, length }: Sequence, start: number): boolean {
    return length - (slot < 0 ? start : prefillStart) > this.#state.limits.maxPrefillRows;
  }

  /** Rows from `start` on that the step's budget of scored rows leaves; Infinity when it does not matter. */
  #scorable({ scores, request }: Sequence, start: number): number {
    if (scores === null) return Number.POSITIVE_INFINITY;
    const firstScored = Math.max(start, scores.known - 1);
    const wanted = request.promptIds.length - 1 - firstScored;
    return wanted <= this.#scoresLeft ? Number.POSITIVE_INFINITY : firstScored + this.#scoresLeft - start;
  }

  #addRunning(
    sequence: Sequence,
    phase: PlanEntry['phase'],
    newBlocks: number[],
    drafts: readonly number[] = [],
  ): void {
    this.#add(sequence, phase, sequence.computed, sequence.slot, sequence.admission, newBlocks, drafts);
  }

  /** Rows from `start` on, as many as are known or drafted and fit. */
  #add(
    sequence: Sequence,
    phase: PlanEntry['phase'],
    start: number,
    slot: number,
    admission: number,
    newBlocks: number[],
    drafts: readonly number[] = [],
  ): PlanEntry {
    const remaining = sequence.end + drafts.length - start;
    const count = Math.min(remaining, this.#rowsLeft, this.#mostRows(sequence, start));
    this.#rowsLeft -= count;
    if (this.#isLong(sequence, start)) this.#longRows.together -= count;
    const scored = scoredRows(sequence, start, count);
    this.#scoresLeft -= scored.scoredCount;
    const { entry: adapter, from } = sequence.adapters as RowAdapters;
    const before = adapter.terms.length === 0 ? 0 : Math.min(count, Math.max(0, from - start));
    const entry: PlanEntry = {
      sequence,
      phase,
      adapter: before === count ? BASE_ENTRY : adapter,
      baseCount: before === count ? 0 : before,
      start,
      count,
      slot,
      admission,
      ...scored,
      samples: count === remaining && sequence.request.maxNewTokens > 0,
      drafts,
      newBlocks,
    };
    this.entries.push(entry);
    return entry;
  }
}

/** Some step, in flight or to come, brings it K/V that nobody else can find yet. */
function fills({ prefilling, settled, computed }: Sequence): boolean {
  return prefilling || settled < computed;
}

/** Which of `count` rows from `start` on score the prompt token after them: those whose token has no score yet. */
function scoredRows({ scores, request }: Sequence, start: number, count: number) {
  if (scores === null) return { scoredFrom: start, scoredCount: 0 };
  const scoredFrom = Math.max(start, scores.known - 1);
  const end = Math.min(start + count, request.promptIds.length - 1);
  return { scoredFrom, scoredCount: Math.max(0, end - scoredFrom) };
}

/** Brings entries into row order and counts what they add up to. */
function finishPlan(builder: PlanBuilder, cache: PrefixCache, atMs: number): StepPlan {
  const { entries, admitted, preempted, turns } = builder;
  entries.sort(inRowOrder);
  let prefillRows = 0;
  let decodeRows = 0;
  let baseRows = 0;
  let sampledRows = 0;
  let draftRows = 0;
  let scoredRows = 0;
  for (const entry of entries) {
    if (entry.phase === 'prefill') prefillRows += entry.count;
    else decodeRows += entry.count;
    baseRows += entry.adapter.terms.length === 0 ? entry.count : entry.baseCount;
    sampledRows += sampledRowsOf(entry);
    draftRows += entry.drafts.length;
    scoredRows += entry.scoredCount;
  }
  const rows = prefillRows + decodeRows;
  const lookedUp = admitted.filter(({ sequence }) => !sequence.everAdmitted && cache.serves(sequence));
  const segments = segmentsOf(entries);
  return {
    atMs,
    entries,
    admitted,
    turns,
    preempted,
    preemptedIds: preempted.map((sequence) => sequence.id),
    rows,
    prefillRows,
    decodeRows,
    baseRows,
    loraRows: rows - baseRows,
    sampledRows,
    draftRows,
    scoredRows,
    segments,
    distinctAdapters: new Set(segments.flatMap(({ entry }) => entry.terms.map(({ adapter }) => adapter))).size,
    lookedUpTokens: lookedUp.reduce((sum, { sequence }) => sum + sequence.length, 0),
    cachedTokens: lookedUp.reduce((sum, { start }) => sum + start, 0),
  };
}

/** Rows of one entry lie together; those that begin on the base come first, next to the base rows before them. */
function inRowOrder(a: PlanEntry, b: PlanEntry): number {
  const split = Number(b.baseCount > 0) - Number(a.baseCount > 0);
  return compareEntries(a.adapter, b.adapter) || split || a.admission - b.admission;
}

function segmentsOf(entries: readonly PlanEntry[]): Segment[] {
  const segments: { entry: AdapterEntry; count: number }[] = [];
  const extend = (entry: AdapterEntry, count: number): void => {
    const last = segments.at(-1);
    if (last?.entry.key === entry.key) last.count += count;
    else segments.push({ entry, count });
  };
  for (const { adapter, baseCount, count } of entries) {
    if (baseCount > 0) extend(BASE_ENTRY, baseCount);
    extend(adapter, count - baseCount);
  }
  return segments;
}
