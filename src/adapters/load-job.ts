import type { AdapterProof, AdapterState } from '../core/adapter.js';
import type { AdapterSource, FetchProgress } from '../core/adapter-source.js';
import type { AdapterText } from '../core/adapter-text.js';
import type { PlanFacts } from './plan.js';

/** One load as the loader sees it. */
export interface LoadJob {
  /** For messages and metrics. */
  readonly name: string;
  /** Of the version being made: names its reservation. */
  readonly key: number;
  /** Order among loads. */
  readonly ticket: number;
  readonly source: AdapterSource;
  /** Ask a remote source whether it has moved on, also when there is a copy. */
  readonly refresh: boolean;
  /** What is loaded may be kept on the host. */
  readonly keeps: boolean;
  readonly onState: (state: AdapterState) => void;
  readonly onProgress: (progress: FetchProgress) => void;
  /** Asked before each costly stage; false ends the load with ERR_ABORTED. */
  readonly isWanted: () => boolean;
  /** Told the digest before memory is taken; `unchanged` ends the load well, throwing refuses it. */
  readonly accept: (digest: string) => 'load' | 'unchanged';
  /** An earlier proof of the same files that will do; null asks for a new one. */
  readonly proofOf: (digest: string) => AdapterProof | null;
}

export type LoadOutcome =
  | { readonly kind: 'unchanged'; readonly digest: string }
  | {
      /** The reservation of the job's key holds `bytes` and is the caller's to commit or release. */
      readonly kind: 'compiled';
      /** Its image on the host was there, and nothing was read. */
      readonly fromHost: boolean;
      readonly digest: string;
      readonly handle: number;
      readonly bytes: number;
      /** As of `NativeCompiledAdapter`: the pages that it needs. */
      readonly runs: readonly number[];
      readonly plan: PlanFacts;
      readonly text: AdapterText | null;
      readonly baseModel: string | null;
      readonly proof: AdapterProof | null;
      readonly warnings: readonly string[];
    };

/** A load that brought an adapter. */
export type Compiled = Extract<LoadOutcome, { kind: 'compiled' }>;
