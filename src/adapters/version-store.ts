import type { AdapterTier, TierInfo } from '../core/adapter.js';
import type { PagePool } from '../core/page-pool.js';
import type { Telemetry } from '../core/telemetry.js';
import { AdapterPages } from './adapter-pages.js';
import type { AdapterLease, AdapterRecord, AdapterVersion, EvictReason } from './adapter-record.js';
import { type Deferred, deferred } from './deferred.js';
import type { HostTier } from './host-tier.js';
import { MemoryQueue } from './memory-queue.js';
import { Residency } from './residency.js';

/** A load that waited this long for memory goes before new requests, resident or not: pins must drain for it. */
const MAX_MEMORY_WAIT_MS = 2_000;

/** Pages of a device that adapters share with the KV cache. */
export interface SharedPages {
  readonly pool: PagePool;
  readonly pageBytes: number;
}

export interface VersionStoreOptions {
  /** With `pages`, whole ones. */
  readonly capacityBytes: number;
  /** On a device; null where adapters lie anywhere, in memory of the host. */
  readonly pages: SharedPages | null;
  /** What is kept of adapters that leave a device; null where nothing is. */
  readonly host: HostTier | null;
  /** Milliseconds since the epoch, never running backwards. */
  readonly now: () => number;
  readonly releaseAdapter: (handle: number) => void;
  readonly emit: (fact: Telemetry) => void;
}

interface Held {
  readonly record: AdapterRecord;
  readonly version: AdapterVersion;
}

/** The compiled adapters in memory: leases on them, their publication, replacement and eviction. */
export class VersionStore {
  /** Where resident adapters are. */
  readonly tier: 'host' | 'device';
  readonly residency: Residency;
  readonly memory: MemoryQueue;
  readonly pages: AdapterPages | null;
  readonly #options: VersionStoreOptions;
  readonly #held = new Map<number, Held>();
  readonly #gated = new Set<{ readonly ticket: number; readonly turn: Deferred<void> }>();

  constructor(options: VersionStoreOptions) {
    this.#options = options;
    const { pages, capacityBytes } = options;
    this.tier = pages === null ? 'host' : 'device';
    this.residency = new Residency(
      capacityBytes,
      pages === null ? {} : { use: () => pages.pool.use(), flag: '--gpu-memory' },
    );
    const onEvicted = (keys: readonly number[]): void => this.#evict(keys);
    const { residency } = this;
    this.pages = pages === null ? null : new AdapterPages({ ...pages, residency, onEvicted });
    this.memory = new MemoryQueue({
      residency,
      pages: this.pages,
      now: options.now,
      onEvicted,
      onMoved: () => this.#openGates(),
    });
  }

  /** True when a request with `ticket` may use a resident adapter now, no older load being overdue for memory. */
  mayLease(ticket?: number): boolean {
    return !this.memory.isOverdue(MAX_MEMORY_WAIT_MS, ticket);
  }

  /** Resolves once `mayLease` may have changed for `ticket`; rejects with the reason of `signal`. */
  async waitForTurn(ticket: number, signal: AbortSignal | undefined): Promise<void> {
    const gate = { ticket, turn: deferred<void>() };
    const abort = (): void => gate.turn.resolve();
    this.#gated.add(gate);
    signal?.addEventListener('abort', abort, { once: true });
    try {
      await gate.turn.promise;
    } finally {
      this.#gated.delete(gate);
      signal?.removeEventListener('abort', abort);
    }
  }

  /** A lease on a resident version, pinned from now on. */
  lease(record: AdapterRecord, version: AdapterVersion, tierAtArrival: AdapterLease['tierAtArrival']): AdapterLease {
    this.residency.pin(version.key);
    return this.#hand(record, version, tierAtArrival);
  }

  /**
   * Makes a compiled adapter (its reservation held under `version.key`) the current one of its name, with one lease
   * for each entry of `tiers`, taken before anything else can evict it. The version it replaces is retired.
   */
  publish(
    record: AdapterRecord,
    version: AdapterVersion,
    tiers: readonly AdapterLease['tierAtArrival'][],
  ): AdapterLease[] {
    const old = record.current;
    this.residency.commit(version.key, tiers.length, record.operatorPin);
    this.#held.set(version.key, { record, version });
    record.versions.add(version);
    record.current = version;
    const leases = tiers.map((tier) => this.#hand(record, version, tier));
    if (old !== null) this.retire(record, old, 'replaced');
    this.memory.pump();
    return leases;
  }

  /** Takes a version out of service; its memory goes with its last row. */
  retire(record: AdapterRecord, version: AdapterVersion, reason: EvictReason): void {
    if (record.current === version) record.current = null;
    version.retired = reason;
    if (this.residency.rows(version.key) > 0) {
      this.residency.setOperatorPin(version.key, false);
      return;
    }
    this.residency.remove(version.key);
    this.#forget(version.key, reason);
    this.memory.pump();
  }

  setOperatorPin(version: AdapterVersion, pinned: boolean): void {
    this.residency.setOperatorPin(version.key, pinned);
    this.memory.pump();
  }

  /** Brings the load on that gathers pages, all but `spare`. */
  gatherPages(spare: number): void {
    const { pages } = this.#options;
    if (pages === null || this.memory.length === 0) return;
    pages.pool.spare = spare;
    this.memory.pump();
  }

  /** Gives back a compiled adapter that nobody may use. */
  discard(key: number, handle: number): void {
    this.residency.release(key);
    this.#options.releaseAdapter(handle);
    this.pages?.free(key);
    this.memory.pump();
  }

  /** Rows on any version of the name. */
  rows(record: AdapterRecord): number {
    let rows = 0;
    for (const version of record.versions) rows += this.residency.rows(version.key);
    return rows;
  }

  /** The nearest tier that has the current version, or what its source was read to last. */
  tierOf({ current, source }: AdapterRecord): AdapterTier {
    if (current !== null) return this.tier;
    return this.#options.host?.has(source) === true ? 'host' : 'disk';
  }

  tiers(): TierInfo[] {
    const { resident, reserved, capacity, pinned } = this.residency.totals();
    const { host } = this.#options;
    return [...(host === null ? [] : [host.tier()]), { tier: this.tier, bytes: resident + reserved, capacity, pinned }];
  }

  /** What does not add up between records, versions and bytes; empty when all is well. */
  violations(): string[] {
    const found = [...this.residency.violations(), ...(this.pages?.violations() ?? [])];
    let bytes = 0;
    for (const { record, version } of this.#held.values()) {
      bytes += version.bytes;
      if (!record.versions.has(version)) found.push(`a version of ${record.name} is held but not in its record`);
      if (version.retired !== null && record.current === version) found.push(`${record.name} serves a retired version`);
      if (version.retired !== null && this.residency.rows(version.key) === 0)
        found.push(`a retired version of ${record.name} outlives its rows`);
    }
    const { resident } = this.residency.totals();
    if (bytes !== resident) found.push(`versions take ${bytes} bytes, the residency counts ${resident}`);
    return found;
  }

  #hand(record: AdapterRecord, version: AdapterVersion, tierAtArrival: AdapterLease['tierAtArrival']): AdapterLease {
    record.requests += 1;
    record.lastUsedAtMs = this.#options.now();
    let held = true;
    return {
      handle: version.handle,
      digest: version.digest,
      variant: version.variant,
      invocation: version.invocation,
      text: version.text,
      name: record.name,
      tierAtArrival,
      release: () => {
        if (!held) return;
        held = false;
        this.#unpin(record, version);
      },
    };
  }

  #unpin(record: AdapterRecord, version: AdapterVersion): void {
    if (this.residency.unpin(version.key) > 0) return;
    if (version.retired !== null) this.retire(record, version, version.retired);
    else this.memory.pump();
  }

  #evict(keys: readonly number[]): void {
    for (const key of keys) {
      const held = this.#held.get(key);
      if (held !== undefined) {
        held.record.current = null;
        this.#options.host?.touch(held.record.source);
      }
      this.#forget(key, 'capacity');
    }
  }

  #forget(key: number, reason: EvictReason): void {
    const held = this.#held.get(key);
    if (held === undefined) throw new Error(`adapter version ${key} is unknown`);
    const { record, version } = held;
    this.#held.delete(key);
    record.versions.delete(version);
    const { releaseAdapter, emit } = this.#options;
    releaseAdapter(version.handle);
    this.pages?.free(key);
    emit({ kind: 'adapter-evict', tier: this.tier, name: record.name, reason, bytes: version.bytes });
    if (record.versions.size === 0) record.drain?.resolve();
  }

  #openGates(): void {
    for (const gate of this.#gated) if (this.mayLease(gate.ticket)) gate.turn.resolve();
  }
}
