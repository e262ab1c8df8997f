import type { AdapterInfo, AdapterProof, AdapterState, AdapterTier, AdapterVariant } from '../core/adapter.js';
import type { AdminReplies } from '../core/adapter-admin.js';
import { type AdapterSource, describeSource, type FetchProgress } from '../core/adapter-source.js';
import type { AdapterText, AdapterTextInfo } from '../core/adapter-text.js';
import type { ErrorRecord, LoramuxError } from '../core/errors.js';
import type { Deferred } from './deferred.js';

export type EvictReason = Extract<import('../core/telemetry.js').Telemetry, { kind: 'adapter-evict' }>['reason'];

/** A request's hold on one resident adapter version: while it is held, neither eviction nor reload touches it. */
export interface AdapterLease {
  /** Native handle for the step's adapter table. */
  readonly handle: number;
  /** Hex SHA-256 of the files that the handle was compiled from. */
  readonly digest: string;
  readonly name: string;
  readonly variant: readonly AdapterVariant[];
  /** Of activated LoRA: the tokens that call it; null for all others. */
  readonly invocation: readonly number[] | null;
  /** Null = text is handled as the base handles it. */
  readonly text: AdapterText | null;
  readonly tierAtArrival: AdapterTier;
  /** Ends the hold; calling it again does nothing. */
  release(): void;
}

/** One compiled adapter in memory. A name moves from version to version; leases stay with theirs. */
export interface AdapterVersion {
  /** In `Residency`. */
  readonly key: number;
  readonly handle: number;
  readonly digest: string;
  readonly variant: readonly AdapterVariant[];
  readonly invocation: readonly number[] | null;
  readonly text: AdapterText | null;
  readonly bytes: number;
  readonly loadedAtMs: number;
  /** Why it no longer answers new requests; freed once no row holds it. */
  retired: EvictReason | null;
}

/** What the last good load found out; kept after eviction. */
export interface AdapterFacts {
  readonly digest: string;
  readonly bytes: number;
  readonly ranks: AdapterInfo['ranks'];
  readonly variant: readonly AdapterVariant[];
  readonly modules: AdapterInfo['modules'];
  readonly baseModel: string | null;
  readonly text: AdapterTextInfo;
  /** Null where nothing can run a probe. */
  readonly proof: AdapterProof | null;
  readonly warnings: readonly string[];
}

/** A failed load, remembered so that requests do not repeat it at once. */
export interface AdapterFailure {
  readonly error: ErrorRecord;
  readonly source: AdapterSource;
  /** `stampOf` the source before the load began. */
  readonly stamp: string;
  readonly atMs: number;
}

export type LoadResult =
  | {
      readonly ok: true;
      readonly outcome: Exclude<AdminReplies['load']['outcome'], 'accepted'>;
      readonly replaced: string | null;
    }
  | { readonly ok: false; readonly error: LoramuxError };

/** A request that waits for a load. Null asks it to look again: the name may mean something else by now. */
export interface Waiter {
  readonly tierAtArrival: AdapterLease['tierAtArrival'];
  readonly deferred: Deferred<AdapterLease | null>;
}

/** Who asked for a load and what it may do. Operators may join a load that requests began. */
export interface LoadIntent {
  /** Goes on without waiting requests. */
  operator: boolean;
  /** May move the name to another digest. */
  readonly replace: boolean;
  /** Sets the operator pin when it succeeds. */
  pin: boolean;
}

/** A load in flight; at most one per name. */
export interface ActiveLoad {
  readonly key: number;
  readonly source: AdapterSource;
  readonly intent: LoadIntent;
  readonly waiters: Set<Waiter>;
  state: AdapterState;
  /** Of the fetch in flight; null before and after it, and for directories. */
  progress: FetchProgress | null;
  /** Set when the load must come to nothing. */
  cancelled: LoramuxError | null;
  settled: Promise<LoadResult>;
}

/** Everything known under one adapter name. */
export interface AdapterRecord {
  readonly name: string;
  source: AdapterSource;
  current: AdapterVersion | null;
  /** All versions in memory: the current one and retired ones that rows still hold. */
  readonly versions: Set<AdapterVersion>;
  load: ActiveLoad | null;
  facts: AdapterFacts | null;
  failure: AdapterFailure | null;
  operatorPin: boolean;
  /** Set while an unload waits for rows; resolved when the last version is gone. */
  drain: Deferred<void> | null;
  requests: number;
  lastUsedAtMs: number | null;
}

export function createRecord(name: string, source: AdapterSource): AdapterRecord {
  return {
    name,
    source,
    current: null,
    versions: new Set(),
    load: null,
    facts: null,
    failure: null,
    operatorPin: false,
    drain: null,
    requests: 0,
    lastUsedAtMs: null,
  };
}

function stateOf(record: AdapterRecord): AdapterState {
  if (record.drain !== null) return 'draining';
  if (record.current !== null) return 'ready';
  if (record.load !== null) return record.load.state;
  return record.failure === null ? 'ready' : 'failed';
}

function isoOrNull(epochMs: number | null): string | null {
  return epochMs === null ? null : new Date(epochMs).toISOString();
}

/** The record as the admin API shows it; `rows` counts those of all its versions, `aliases` are those of its digest. */
export function describeRecord(
  record: AdapterRecord,
  tier: AdapterTier,
  rows: number,
  aliases: readonly string[],
): AdapterInfo {
  const { current, facts, failure } = record;
  const progress = record.load?.progress ?? null;
  return {
    name: record.name,
    aliases,
    digest: facts?.digest ?? null,
    state: stateOf(record),
    tier,
    bytes: current?.bytes ?? facts?.bytes ?? 0,
    ranks: facts?.ranks ?? null,
    variant: facts?.variant ?? [],
    modules: facts?.modules ?? null,
    proof: facts?.proof ?? null,
    baseModel: facts?.baseModel ?? null,
    text: facts?.text ?? null,
    source: describeSource(record.source),
    ...(progress === null ? {} : { progress }),
    pins: { rows, operator: record.operatorPin },
    loadedAt: isoOrNull(current?.loadedAtMs ?? null),
    lastUsedAt: isoOrNull(record.lastUsedAtMs),
    requests: record.requests,
    failure: failure?.error ?? null,
    warnings: facts?.warnings ?? [],
  };
}
