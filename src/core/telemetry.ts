import type { AdapterTier } from './adapter.js';
import type { FetchableSource } from './adapter-fetch.js';
import type { AdapterSource } from './adapter-source.js';
import type { ErrorCode } from './errors.js';

/** Tiers in memory. */
type MemoryTier = Exclude<AdapterTier, 'disk'>;

/** Facts that the engine worker reports for metrics and logs; sent in the step's one message, never awaited. */
export type Telemetry =
  | {
      readonly kind: 'step';
      /** Rows by phase; a step with both is `mixed`. */
      readonly prefillRows: number;
      readonly decodeRows: number;
      /** Requests that began to run. */
      readonly admitted: number;
      /** Rows that no adapter touched / some adapter touched. */
      readonly baseRows: number;
      readonly loraRows: number;
      readonly segments: number;
      /** Real adapters only, base not counted. */
      readonly distinctAdapters: number;
      /** Prompt tokens that were looked up in the prefix cache, and those found there. */
      readonly lookedUpTokens: number;
      readonly cachedTokens: number;
      /** Guessed tokens that were tried, and those that were right. */
      readonly draftedTokens: number;
      readonly acceptedTokens: number;
      readonly planSeconds: number;
      readonly runSeconds: number;
      readonly sampleSeconds: number;
      /** Of sampling, on constraints; null when no row has one. */
      readonly maskSeconds: number | null;
      /** To committed events from the start of planning, or from those of the step before where it was planned during that. */
      readonly stepSeconds: number;
    }
  | {
      readonly kind: 'step-failed';
      /** Of the step that was tried. */
      readonly prefillRows: number;
    }
  | {
      readonly kind: 'adapter-load';
      readonly name: string;
      readonly source: AdapterSource['type'];
      /** The host had kept it for its device: nothing was read. */
      readonly fromHost: boolean;
      readonly result: 'ok' | 'failed';
      readonly code: string | null;
      readonly seconds: number;
      readonly bytes: number;
    }
  | {
      readonly kind: 'adapter-evict';
      /** `host` beside a `device`: the copies that are kept there. */
      readonly tier: MemoryTier;
      readonly name: string;
      readonly reason: 'capacity' | 'admin' | 'replaced';
      readonly bytes: number;
    }
  | {
      readonly kind: 'adapter-lookup';
      /** Of requests, where adapters are resident; of loads, the copies that the host keeps for a device. */
      readonly tier: MemoryTier;
      readonly name: string;
      readonly result: 'hit' | 'miss';
    }
  | {
      /** A request got its adapters, which were not free for it at once. */
      readonly kind: 'adapter-wait';
      /** Of the adapter that was furthest away when it came. */
      readonly tierAtArrival: AdapterTier;
      readonly seconds: number;
    }
  | {
      /** One fetch to the disk tier, whoever waited for it. */
      readonly kind: 'adapter-fetch';
      readonly source: FetchableSource['type'];
      /** Null when all files came. */
      readonly code: ErrorCode | null;
      readonly seconds: number;
      /** Of files that were not here before; 0 for a failed fetch. */
      readonly bytes: number;
    }
  /** Whether the disk tier had what a load asked of it. */
  | { readonly kind: 'disk-lookup'; readonly result: 'hit' | 'miss' }
  | { readonly kind: 'disk-evict'; readonly reason: 'capacity' | 'failed'; readonly bytes: number }
  | { readonly kind: 'preemption'; readonly requestId: number };
