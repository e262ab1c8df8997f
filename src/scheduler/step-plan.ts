import type { AdapterEntry } from './row-adapters.js';
import type { Sequence } from './sequence.js';

/** Rows of one sequence in one step: positions start … start + count − 1. The last `drafts.length` are guessed. */
export interface PlanEntry {
  readonly sequence: Sequence;
  readonly phase: 'prefill' | 'decode';
  /** In force at the last row. */
  readonly adapter: AdapterEntry;
  /** Leading rows on the base instead: more than 0 only where the sequence's adapters begin within these rows. */
  readonly baseCount: number;
  readonly start: number;
  readonly count: number;
  readonly slot: number;
  /** Rank by time of admission. */
  readonly admission: number;
  /** Its rows at positions scoredFrom … scoredFrom + scoredCount − 1 score the prompt tokens that follow them. */
  readonly scoredFrom: number;
  readonly scoredCount: number;
  /** Reaches the last known token and more are wanted, so that one's row is sampled, and those of the drafts. */
  readonly samples: boolean;
  /** Guesses of what follows the last known token; empty in prefill. */
  readonly drafts: readonly number[];
  /** Blocks the sequence receives, to follow those it owns; held by it already. On admission cached ones come first. */
  readonly newBlocks: readonly number[];
}

/** `count` rows under one entry. */
export interface Segment {
  readonly entry: AdapterEntry;
  readonly count: number;
}

/** One step as decided, before anything of it has happened. Ends in exactly one `commit` or `rollback`. */
export interface StepPlan {
  readonly atMs: number;
  /** In row order: by adapter entry (base first), what begins on base rows first, then by admission. Never empty. */
  readonly entries: readonly PlanEntry[];
  /** Entries that start to run with this step, in queue order. */
  readonly admitted: readonly PlanEntry[];
  /** Sequences whose turn to run has come, in queue order: those admitted, and those that wait for a block being filled. */
  readonly turns: readonly Sequence[];
  /** Sequences that give up slot and blocks, most recently admitted first. The pool has their blocks back already. */
  readonly preempted: readonly Sequence[];
  /** Request ids of `preempted`, for telemetry. */
  readonly preemptedIds: readonly number[];
  readonly rows: number;
  readonly prefillRows: number;
  readonly decodeRows: number;
  readonly baseRows: number;
  readonly loraRows: number;
  /** Rows that are sampled, drafts included. */
  readonly sampledRows: number;
  readonly draftRows: number;
  /** Rows that score the token after them. No row is both. */
  readonly scoredRows: number;
  /** Maximal runs of rows under one entry, in row order. */
  readonly segments: readonly Segment[];
  /** Real adapters only, each counted once however many entries it is part of. */
  readonly distinctAdapters: number;
  /** Tokens that sequences admitted for the first time were looked up for in the cache, and those found. */
  readonly lookedUpTokens: number;
  readonly cachedTokens: number;
}

/** How many rows of an entry are sampled. */
export function sampledRowsOf({ samples, drafts }: Pick<PlanEntry, 'samples' | 'drafts'>): number {
  return samples ? 1 + drafts.length : 0;
}

/**
 * How many drafts of an entry were right, when `tokens[row]` is what its first sampled row chose. The row after the
 * last right one holds too: it stands on known tokens only.
 */
export function acceptedDrafts({ drafts }: Pick<PlanEntry, 'drafts'>, tokens: Uint32Array, row: number): number {
  const wrong = drafts.findIndex((draft, index) => tokens[row + index] !== draft);
  return wrong < 0 ? drafts.length : wrong;
}

/** How many of a step's drafts were right, when `tokens` is what its logits rows gave. */
export function acceptedDraftsOf({ entries }: Pick<StepPlan, 'entries'>, tokens: Uint32Array): number {
  let row = 0;
  let accepted = 0;
  for (const entry of entries) {
    row += entry.scoredCount;
    accepted += acceptedDrafts(entry, tokens, row);
    row += sampledRowsOf(entry);
  }
  return accepted;
}
