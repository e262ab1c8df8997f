/** The step ABI: what one forward pass is given and what it gives back. T rows, N sequences, S segments, L logits rows. */

/** One adapter in force for a segment, with its strength. */
export interface AdapterTerm {
  /** Native handle of a resident adapter. */
  readonly adapter: number;
  readonly weight: number;
}

/** Sampling of one logits row, flattened for the native side. */
export interface RowSampling {
  readonly greedy: boolean;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly repetitionPenalty: number;
  readonly seed: bigint;
  /** Which of a request's parallel choices this row belongs to. */
  readonly choice: number;
  /** Absolute position of the token being sampled: prompt length for the first one. */
  readonly position: number;
  readonly logprob: boolean;
  /** Sequence slot whose `lastSampled` entry receives the token; -1 = none. */
  readonly slot: number;
  /** Ids the repetition penalty looks at (prompt and output); empty when the penalty is 1. */
  readonly history: Uint32Array;
}

export interface StepBatch {
  /** int32 [T]; a negative value −(s+1) stands for what sequence slot s sampled last. */
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
  /** [L]. */
  readonly sampling: readonly RowSampling[];
  /** Also hand back the raw logits (tests). */
  readonly returnLogits: boolean;
}

/** In `StepOutput.tokens`: the row had no logit above −∞ to choose, as after an adapter that overflowed. */
export const NO_TOKEN = 0xffff_ffff;

export interface StepOutput {
  /** uint32 [L]; NO_TOKEN where nothing could be chosen. */
  readonly tokens: Uint32Array;
  /** float32 [L]; NaN where not asked for. */
  readonly logprobs: Float32Array;
  /** float32 [L, V] when asked for, before any processing. */
  readonly logits: Float32Array | null;
  /** Seconds spent in the session run and in sampling. */
  readonly runSeconds: number;
  readonly sampleSeconds: number;
}
