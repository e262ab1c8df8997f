import type { LogprobOptions } from './request.js';

/** The step ABI: what one forward pass is given and what it gives back. T rows, N sequences, S segments, L logits rows, M of them sampled. */

/** One adapter in force for a segment, with its strength. */
export interface AdapterTerm {
  /** Native handle of a resident adapter. */
  readonly adapter: number;
  readonly weight: number;
}

/** Penalties of one row, as `SamplingParams` describes them. */
export interface RowPenalties {
  readonly repetition: number;
  readonly presence: number;
  readonly frequency: number;
  readonly scope: 'output' | 'sequence';
  /** Ids of prompt and output. */
  readonly history: Uint32Array;
  /** How many of them are the prompt. */
  readonly promptLength: number;
}

/** What is added to logits: `values[i]` to that of `ids[i]`; each id below the vocabulary size, at most once. */
export interface RowBias {
  readonly ids: Uint32Array;
  readonly values: Float32Array;
}

/** Sampling of one logits row, flattened for the native side. Null costs nothing. */
export interface RowSampling {
  readonly greedy: boolean;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly typicalP: number;
  /** Null when all of them are off. */
  readonly penalties: RowPenalties | null;
  readonly bias: RowBias | null;
  /** Ids that must not be chosen; those beyond the vocabulary are ignored. */
  readonly banned: Uint32Array | null;
  readonly seed: bigint;
  /** Which of a request's parallel choices this row belongs to. */
  readonly choice: number;
  /** Absolute position of the token being sampled: prompt length for the first one. */
  readonly position: number;
  readonly logprobs: LogprobOptions | null;
  /** Sequence slot whose `lastSampled` entry receives the token; -1 = none. */
  readonly slot: number;
  /** Matcher that the token must satisfy; NO_CONSTRAINT = none. */
  readonly constraint: number;
  /**
   * The row stands on a guess: it is sampled only if the sampled row before it chose this token, else its token is
   * NO_TOKEN and nothing remembers it. NOT_GUESSED = it is sampled in any case.
   */
  readonly follows: number;
}

/** In `RowSampling.follows`: what the row stands on is known. */
export const NOT_GUESSED = -1;

/** In `RowSampling.constraint`: any token will do. */
export const NO_CONSTRAINT = -1;

/** Greedy, with everything else off. */
export const GREEDY_ROW: RowSampling = {
  greedy: true,
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  typicalP: 1,
  penalties: null,
  bias: null,
  banned: null,
  seed: 0n,
  choice: 0,
  position: 0,
  logprobs: null,
  slot: -1,
  constraint: NO_CONSTRAINT,
  follows: NOT_GUESSED,
};

/** In `StepBatch.tokens`: what sequence slot `slot` sampled last, in the step before at the latest. */
export function lastSampledBy(slot: number): number {
  return -(slot + 1);
}

export interface StepBatch {
  /** int32 [T]; `lastSampledBy` a slot where the token is not known yet. */
  readonly tokens: Int32Array;
  /** int32 [N+1]: rows of sequence n are cuSeqlens[n] … cuSeqlens[n+1]. */
  readonly cuSeqlens: Int32Array;
  /** int32 [N]: KV length seen by attention after this step's rows are written. */
  readonly contextLens: Int32Array;
  /** int32 [N, maxBlocks], pad −1. */
  readonly blockTables: Int32Array;
  readonly maxBlocks: number;
  /** int32 [T]: blockId · blockSize + offset where the row's K/V goes; −1 = do not write. */
  readonly slotMapping: Int32Array;
  /** int32 [S+1]: bounds of runs of rows that share an entry of the adapter table. */
  readonly segmentIndptr: Int32Array;
  /** int32 [S]: index into `adapterTable`, −1 = base. */
  readonly segmentAdapters: Int32Array;
  readonly adapterTable: readonly (readonly AdapterTerm[])[];
  /** int32 [L], ascending: rows that need logits. */
  readonly logitsRows: Int32Array;
  /** [M]: of the logits rows that are sampled, in order. */
  readonly sampling: readonly RowSampling[];
  /** int32 [L]: the token whose raw log-probability is wanted; −1 = the row is sampled. */
  readonly scoredTokens: Int32Array;
  /** int32 [L]: how many of the likeliest tokens are wanted beside a scored one; 0 where the row is sampled. */
  readonly scoredTops: Int32Array;
  /** int32 [R]: indices of `logitsRows` whose logits come back, ascending. */
  readonly returnLogits: Int32Array;
}

/** The likeliest tokens of each logits row: those of row i lie from indptr[i] to indptr[i+1], likeliest first. */
export interface TopLists {
  /** int32 [L+1]. */
  readonly indptr: Int32Array;
  readonly ids: Uint32Array;
  readonly logprobs: Float32Array;
}

/** In `StepOutput.tokens`: the row had no logit above −∞ to choose, as after an adapter that overflowed, its constraint failed, or it stood on a wrong guess. */
export const NO_TOKEN = 0xffff_ffff;

/** A sampled row whose constraint allowed no token; its token is NO_TOKEN. */
export interface RowFailure {
  /** Index of `logitsRows`. */
  readonly row: number;
  readonly message: string;
}

export interface StepOutput {
  /** uint32 [L]: sampled or scored; NO_TOKEN where no logit was above −∞. */
  readonly tokens: Uint32Array;
  /** float32 [L]: of `tokens`; NaN where not asked for. */
  readonly logprobs: Float32Array;
  readonly top: TopLists;
  /** float32 [R, V], before any processing; null when R is 0. */
  readonly logits: Float32Array | null;
  readonly failures: readonly RowFailure[];
  /** Seconds spent in the session run and in sampling, constraints included. */
  readonly runSeconds: number;
  readonly sampleSeconds: number;
  /** Of the latter on constraints: masks and taking what was chosen; 0 when no row has one. */
  readonly maskSeconds: number;
}
