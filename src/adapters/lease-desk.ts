import type { AdapterVariant } from '../core/adapter.js';
import type { FileSource } from '../core/adapter-source.js';
import { LoramuxError } from '../core/errors.js';
import type { Telemetry } from '../core/telemetry.js';
import type { ActiveLoad, AdapterLease, AdapterRecord, Waiter } from './adapter-record.js';
import type { Admission } from './admission.js';
import { staleAlias } from './aliases.js';
import { deferred } from './deferred.js';
import { byRequest, type LoadRunner } from './load-runner.js';
import type { NameBook } from './name-book.js';
import { abortedError, requireStaying } from './registry-errors.js';
import type { VersionStore } from './version-store.js';

/** What an adapter name stands for. */
export interface AdapterIdentity {
  readonly digest: string;
  readonly variant: readonly AdapterVariant[];
  readonly source: FileSource;
}

export interface LeaseDeskOptions {
  readonly book: NameBook;
  readonly store: VersionStore;
  readonly loads: LoadRunner;
  readonly admission: Admission;
  readonly emit: (fact: Telemetry) => void;
}

/** Hands requests their leases, loading adapters on first use. */
export class LeaseDesk {
  readonly #options: LeaseDeskOptions;

  constructor(options: LeaseDeskOptions) {
    this.#options = options;
  }

  /** A lease if the adapter is resident and no overdue load goes first; null otherwise, then use `acquire`. */
  tryAcquire(name: string): AdapterLease | null {
    const { book, store, admission, emit } = this.#options;
    const digest = book.aliases.digestOf(name);
    const record = book.records.get(digest === null ? name : book.aliases.holderOf(name));
    if (record === undefined || record.current === null || record.drain !== null) return null;
    if (digest !== null && record.current.digest !== digest) return null;
    if (admission.isClosed || !store.mayLease()) return null;
    const { tier } = store;
    emit({ kind: 'adapter-lookup', tier, name: record.name, result: 'hit' });
    return store.lease(record, record.current, tier);
  }

  /**
   * A lease on the adapter, which is loaded first if it is not resident; requests for one name share one load. By an
   * alias, on the digest that the alias stands for now, or none.
   * Errors: ERR_ADAPTER_NOT_FOUND, ERR_ADAPTER_UNLOADED while it is being unloaded, ERR_ABORTED by `signal`,
   * ERR_ENGINE_CLOSED, and those of the load.
   */
  async acquire(name: string, signal?: AbortSignal): Promise<AdapterLease> {
    const { book } = this.#options;
    const digest = book.aliases.digestOf(name);
    if (digest === null) return this.#acquire(name, signal);
    const lease = await this.#acquire(book.aliases.holderOf(name), signal);
    if (lease.digest === digest) return lease;
    lease.release();
    throw staleAlias(name, digest);
  }

  async #acquire(name: string, signal: AbortSignal | undefined): Promise<AdapterLease> {
    const { book, store, loads, admission, emit } = this.#options;
    const ticket = admission.nextTicket();
    let tier: AdapterLease['tierAtArrival'] | null = null;
    for (;;) {
      admission.require(name, signal);
      const record = book.records.get(name) ?? (await book.find(name));
      admission.require(name, signal);
      requireStaying(record);
      if (tier === null) {
        tier = store.tierOf(record);
        emit({ kind: 'adapter-lookup', tier: store.tier, name, result: record.current === null ? 'miss' : 'hit' });
      }
      if (record.current !== null) {
        if (store.mayLease(ticket)) return store.lease(record, record.current, tier);
        await store.waitForTurn(ticket, signal);
        continue;
      }
      if (record.load === null) {
        const failure = await loads.recentFailure(record);
        if (failure !== null) throw failure;
        admission.require(name, signal);
        if (record.current !== null || record.drain !== null || book.records.get(name) !== record) continue;
      }
      const lease = await this.#join(
        record,
        record.load ?? loads.start(record, record.source, byRequest()),
        tier,
        signal,
      );
      if (lease !== null) return lease;
    }
  }

  /**
   * What a name stands for since it was last loaded, resident or not; null when it was not loaded yet.
   * Errors: ERR_ADAPTER_UNLOADED while it is being unloaded; those of an alias that leads nowhere.
   */
  identify(name: string): AdapterIdentity | null {
    const { book } = this.#options;
    const digest = book.aliases.digestOf(name);
    const record = book.records.get(digest === null ? name : book.aliases.holderOf(name));
    if (record === undefined || record.facts === null || record.source.type === 'merge') return null;
    requireStaying(record);
    if (digest !== null && record.facts.digest !== digest) throw staleAlias(name, digest);
    return { digest: record.facts.digest, variant: record.facts.variant, source: record.source };
  }

  /** Waits for a load with the request's signal; gives the load up when nobody else wants it. */
  async #join(
    record: AdapterRecord,
    load: ActiveLoad,
    tierAtArrival: AdapterLease['tierAtArrival'],
    signal: AbortSignal | undefined,
  ): Promise<AdapterLease | null> {
    const { book, loads } = this.#options;
    const waiter: Waiter = { tierAtArrival, deferred: deferred() };
    load.waiters.add(waiter);
    const abort = (): void => {
      if (!load.waiters.delete(waiter)) return;
      waiter.deferred.reject(abortedError(record.name));
      loads.abandon(load);
    };
    signal?.addEventListener('abort', abort, { once: true });
    try {
      const lease = await waiter.deferred.promise;
      if (lease === null || signal?.aborted !== true) return lease;
      lease.release();
      throw abortedError(record.name);
    } catch (thrown) {
      const gone = thrown instanceof LoramuxError && thrown.code === 'ERR_ADAPTER_NOT_FOUND';
      if (gone && record.load === null && record.versions.size === 0 && book.records.get(record.name) === record)
        book.records.delete(record.name);
      throw thrown;
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }
}
