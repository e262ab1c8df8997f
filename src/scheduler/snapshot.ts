import type { SchedulerLimits } from './policy.js';
import type { RowAdapters } from './row-adapters.js';
import type { Sequence } from './sequence.js';

/** One sequence as it stands; plain data. */
export interface SequenceSnapshot {
  readonly id: number;
  readonly adapters: RowAdapters | null;
  readonly arrivedMs: number;
  readonly promptLength: number;
  readonly length: number;
  /** With the token that is awaited, if one is. */
  readonly end: number;
  readonly computed: number;
  readonly settled: number;
  readonly prefillLength: number;
  readonly prefillStart: number;
  /** Prompt tokens that need no score (any more); null when none does. */
  readonly scored: number | null;
  readonly slot: number;
  readonly blocks: readonly number[];
  /** Those of `blocks` that are published, while it runs. */
  readonly published: readonly number[];
  readonly admission: number;
  readonly inFlight: boolean;
  readonly ended: boolean;
}

/** Everything the scheduler holds, copied: for invariants, tests and debugging. */
export interface SchedulerSnapshot {
  readonly limits: SchedulerLimits;
  readonly plansInFlight: number;
  /** In order of admission. */
  readonly running: readonly SequenceSnapshot[];
  /** Runnable, in the order they will be admitted. */
  readonly waiting: readonly SequenceSnapshot[];
  readonly waitingForAdapter: readonly SequenceSnapshot[];
  /** Requests that still owe their terminal event. */
  readonly liveIds: readonly number[];
  /** Blocks that a plan in flight gives to its sequences, which do not have them yet. */
  readonly plannedBlocks: readonly number[];
  /** Blocks that rows in flight read and whose sequences have others now. */
  readonly replacedBlocks: readonly number[];
  /** Blocks that rows in flight are written to. */
  readonly writtenBlocks: readonly number[];
  /** Sequences whose blocks a plan in flight has given back already. */
  readonly preemptedIds: readonly number[];
  readonly blankBlockIds: readonly number[];
  /** Held by nobody, but kept; the one to go first first. */
  readonly cachedBlockIds: readonly number[];
  /** Pages that adapters have, or are about to. */
  readonly elsewhereIds: readonly number[];
  /** Blocks whose content may be shared, cached ones included. */
  readonly publishedBlockIds: readonly number[];
  /** How many hold each block. */
  readonly blockHolders: readonly number[];
  readonly usedBlocks: number;
  readonly freeSlots: number;
}

/** Cheap totals for probes and metrics. */
export interface SchedulerCounts {
  /** Requests that do not run, those waiting for an adapter included. */
  readonly waiting: number;
  readonly waitingForAdapter: number;
  readonly running: number;
  readonly totalBlocks: number;
  readonly usedBlocks: number;
  /** Blocks that nobody uses and the prefix cache keeps: free to whoever needs them. */
  readonly cachedBlocks: number;
  /** Pages that are not the KV cache's: adapters have them, or are about to. */
  readonly adapterBlocks: number;
  /** Steps committed so far. */
  readonly steps: number;
  /** When the last step was committed, on the caller's clock; null before the first. */
  readonly lastStepMs: number | null;
}

export function snapshotSequence(sequence: Sequence): SequenceSnapshot {
  return {
    id: sequence.id,
    adapters: sequence.adapters,
    arrivedMs: sequence.arrivedMs,
    promptLength: sequence.request.promptIds.length,
    length: sequence.length,
    end: sequence.end,
    computed: sequence.computed,
    settled: sequence.settled,
    prefillLength: sequence.prefillLength,
    prefillStart: sequence.prefillStart,
    scored: sequence.scores?.known ?? null,
    slot: sequence.slot,
    blocks: [...sequence.blocks],
    published: sequence.slot < 0 ? [] : sequence.path.map(({ block }) => block),
    admission: sequence.admission,
    inFlight: sequence.inFlight > 0,
    ended: sequence.ended,
  };
}
