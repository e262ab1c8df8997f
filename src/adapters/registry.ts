import { createHash } from 'node:crypto';
import type { AdapterInfo, AdapterVariant, TierInfo } from '../core/adapter.js';
import type { AdminCall, AdminReplies, AliasInfo, AliasTarget } from '../core/adapter-admin.js';
import {
  type AdapterSource,
  type DirectorySource,
  type FileSource,
  isSameSource,
  type MergeSource,
  type RemoteSource,
} from '../core/adapter-source.js';
import { LoramuxError } from '../core/errors.js';
import { isAdapterName } from '../core/names.js';
import type { Telemetry } from '../core/telemetry.js';
import { AdapterRoots } from './adapter-directory.js';
import {
  type ActiveLoad,
  type AdapterLease,
  type AdapterRecord,
  createRecord,
  describeRecord,
  type LoadIntent,
  type Waiter,
} from './adapter-record.js';
import { AliasTable, nameTaken, staleAlias } from './aliases.js';
import { deferred } from './deferred.js';
import { LoadRunner } from './load-runner.js';
import { type AdapterBackend, AdapterLoader, unreachable } from './loader.js';
import type { BaseModel } from './plan.js';
import type { AdapterProver } from './proof.js';
import { abortedError, closedError, leavingError, notFound, otherSource } from './registry-errors.js';
import type { RemoteSources } from './sources/remote-sources.js';
import { VersionStore } from './version-store.js';

const DEFAULT_MAX_FILE_BYTES = 2 * 1024 ** 3;
/** Adapters that requests located themselves, remembered without being resident. */
const MAX_IDLE_LOCATED = 256;
/** Merges that are remembered without being resident. */
const MAX_IDLE_MERGES = 256;

export interface RegistryOptions {
  readonly backend: AdapterBackend;
  readonly base: BaseModel;
  /** Folders whose sub-folders are adapters named after them. */
  readonly roots: readonly string[];
  /** Further folders that admin loads may name. */
  readonly allowedRoots?: readonly string[];
  /** Where adapters come from that are no directories; null or absent = directories only. */
  readonly sources?: RemoteSources | null;
  readonly capacityBytes: number;
  readonly maxFileBytes?: number;
  /** Shows of each adapter that it reaches the logits; null or absent = loads carry no proof. */
  readonly prover?: AdapterProver | null;
  readonly emit: (fact: Telemetry) => void;
  /** Told about adapters that were accepted but look odd. */
  readonly warn?: (name: string, warning: string) => void;
  /** Milliseconds since the epoch, never running backwards. */
  readonly now?: () => number;
}

/** What an adapter name stands for. */
export interface AdapterIdentity {
  readonly digest: string;
  readonly variant: readonly AdapterVariant[];
  readonly source: FileSource;
}

type LoadCall = Omit<Extract<AdminCall, { op: 'load' }>, 'op'>;
type CheckCall = Omit<Extract<AdminCall, { op: 'check' }>, 'op'>;

/**
 * Adapter names and what they stand for. Hands out leases on resident adapters, loading them on first use, and
 * carries out the adapter part of the admin API. Lives in the engine worker; every method returns at once or waits
 * without blocking the thread.
 */
export class AdapterRegistry {
  readonly #options: RegistryOptions;
  readonly #roots: AdapterRoots;
  readonly #store: VersionStore;
  readonly #loads: LoadRunner;
  readonly #records = new Map<string, AdapterRecord>();
  readonly #aliases = new AliasTable(this.#records);
  /** Names that the operator unloaded: not found again in the roots until an admin load. */
  readonly #unloaded = new Set<string>();
  /** Names of records that requests made by saying where their adapter lies. */
  readonly #located = new Set<string>();
  #nextTicket = 1;
  #closed = false;

  constructor(options: RegistryOptions) {
    const { backend, base, capacityBytes, emit } = options;
    this.#options = options;
    const now = options.now ?? ((): number => performance.timeOrigin + performance.now());
    const warn = options.warn ?? ((): void => undefined);
    const nextTicket = (): number => this.#nextTicket++;
    const releaseAdapter = (handle: number): void => backend.releaseAdapter(handle);
    this.#roots = new AdapterRoots(options.roots, options.allowedRoots);
    this.#store = new VersionStore({ capacityBytes, now, releaseAdapter, emit });
    const { residency, memory } = this.#store;
    const maxFileBytes = options.maxFileBytes ?? DEFAULT_MAX_FILE_BYTES;
    const sources = options.sources ?? null;
    const prover = options.prover ?? null;
    const roots = this.#roots;
    const loader = new AdapterLoader({ backend, base, roots, sources, residency, memory, prover, maxFileBytes });
    sources?.keepUploads((digest) => this.#isUpload(digest));
    this.#loads = new LoadRunner({ loader, store: this.#store, emit, warn, now, nextTicket });
  }

  /** The adapter that an alias stands for now; null for any other name. ERR_ADAPTER_NOT_FOUND when it leads nowhere. */
  aliased(name: string): string | null {
    return this.#aliases.has(name) ? this.#aliases.holderOf(name) : null;
  }

  /** A lease if the adapter is resident and no overdue load goes first; null otherwise, then use `acquire`. */
  tryAcquire(name: string): AdapterLease | null {
    const digest = this.#aliases.digestOf(name);
    const record = this.#records.get(digest === null ? name : this.#aliases.holderOf(name));
    if (record === undefined || record.current === null || record.drain !== null) return null;
    if (digest !== null && record.current.digest !== digest) return null;
    if (this.#closed || !this.#store.mayLease()) return null;
    this.#options.emit({ kind: 'adapter-lookup', name: record.name, result: 'hit' });
    return this.#store.lease(record, record.current, 'host');
  }

  /**
   * A lease on the adapter, which is loaded first if it is not resident; requests for one name share one load. By an
   * alias, on the digest that the alias stands for now, or none.
   * Errors: ERR_ADAPTER_NOT_FOUND, ERR_ADAPTER_UNLOADED while it is being unloaded, ERR_ABORTED by `signal`,
   * ERR_ENGINE_CLOSED, and those of the load.
   */
  async acquire(name: string, signal?: AbortSignal): Promise<AdapterLease> {
    const digest = this.#aliases.digestOf(name);
    if (digest === null) return this.#acquire(name, signal);
    const lease = await this.#acquire(this.#aliases.holderOf(name), signal);
    if (lease.digest === digest) return lease;
    lease.release();
    throw staleAlias(name, digest);
  }

  async #acquire(name: string, signal: AbortSignal | undefined): Promise<AdapterLease> {
    const ticket = this.#nextTicket++;
    let tier: AdapterLease['tierAtArrival'] | null = null;
    for (;;) {
      this.#requireOpen(name, signal);
      const record = this.#records.get(name) ?? (await this.#find(name));
      this.#requireOpen(name, signal);
      requireStaying(record);
      if (tier === null) {
        tier = record.current === null ? 'disk' : 'host';
        this.#options.emit({ kind: 'adapter-lookup', name, result: tier === 'host' ? 'hit' : 'miss' });
      }
      if (record.current !== null) {
        if (this.#store.mayLease(ticket)) return this.#store.lease(record, record.current, tier);
        await this.#store.waitForTurn(ticket, signal);
        continue;
      }
      if (record.load === null) {
        const failure = await this.#loads.recentFailure(record);
        if (failure !== null) throw failure;
        this.#requireOpen(name, signal);
        if (record.current !== null || record.drain !== null || this.#records.get(name) !== record) continue;
      }
      const lease = await this.#join(
        record,
        record.load ?? this.#loads.start(record, record.source, byRequest()),
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
    const digest = this.#aliases.digestOf(name);
    const record = this.#records.get(digest === null ? name : this.#aliases.holderOf(name));
    if (record === undefined || record.facts === null || record.source.type === 'merge') return null;
    requireStaying(record);
    if (digest !== null && record.facts.digest !== digest) throw staleAlias(name, digest);
    return { digest: record.facts.digest, variant: record.facts.variant, source: record.source };
  }

  /**
   * The name under which a merge of other adapters is acquired; no request can spell it. Merges that are not resident
   * are forgotten when they become many.
   */
  derive(source: MergeSource): string {
    const name = `merge:${source.location}`;
    if (this.#records.has(name)) return name;
    const idle = [...this.#records.values()].filter(
      (record) => record.source.type === 'merge' && record.versions.size === 0 && record.load === null,
    );
    for (const record of idle.slice(0, Math.max(0, idle.length - MAX_IDLE_MERGES))) this.#records.delete(record.name);
    this.#records.set(name, createRecord(name, source));
    return name;
  }

  /**
   * The name under which an adapter is acquired that a request says where to find, if it is known already: its own, or
   * with a token one that no request can spell, so that only those who have the token get what it opened.
   * Errors: ERR_VALIDATION when the name stands for something else here.
   */
  located(name: string, source: RemoteSource): string | null {
    const known = nameForToken(name, source);
    const record = this.#records.get(known);
    if (this.#aliases.has(known) || (record !== undefined && !isSameSource(record.source, source))) {
      throw otherSource(name);
    }
    return record === undefined ? null : known;
  }

  /**
   * As `located`, making the adapter known if it is not. Those that are neither resident nor loading are forgotten when
   * they become many. Errors: as `located`, ERR_ADAPTER_NOT_FOUND for a name that the operator unloaded, and those of
   * sources that may not be fetched.
   */
  async locate(name: string, source: RemoteSource): Promise<string> {
    const known = nameForToken(name, source);
    if (this.located(name, source) !== null) return known;
    if (this.#unloaded.has(known)) throw notFound(name, true);
    const inRoots = await this.#roots.find(known);
    const admitted = await this.#admit(source);
    if (inRoots !== null) throw otherSource(name);
    if (this.located(name, source) !== null) return known;
    this.#forgetLocated();
    this.#located.add(known);
    this.#records.set(known, createRecord(known, admitted));
    return known;
  }

  #forgetLocated(): void {
    const isIdle = (record: AdapterRecord): boolean => record.versions.size === 0 && record.load === null;
    for (const name of this.#located) {
      const record = this.#records.get(name);
      if (record !== undefined && this.#located.size < MAX_IDLE_LOCATED) break;
      if (record !== undefined && !isIdle(record)) continue;
      this.#located.delete(name);
      this.#records.delete(name);
    }
  }

  /** Every adapter: those known and those in the scanned roots, sorted by name. */
  async list(): Promise<AdminReplies['list']> {
    for (const [name, directory] of await this.#roots.scan()) {
      if (!this.#records.has(name) && !this.#unloaded.has(name) && !this.#aliases.has(name))
        this.#records.set(name, createRecord(name, directorySource(directory)));
    }
    const records = [...this.#records.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
    return { adapters: records.map((record) => this.#describe(record)), tiers: this.tiers() };
  }

  /** By name or alias. ERR_ADAPTER_NOT_FOUND for an unknown one. */
  async get(nameOrAlias: string): Promise<AdapterInfo> {
    const name = this.#aliases.has(nameOrAlias) ? this.#aliases.holderOf(nameOrAlias) : nameOrAlias;
    return this.#describe(this.#records.get(name) ?? (await this.#find(name)));
  }

  tiers(): TierInfo[] {
    const disk = this.#options.sources?.tier();
    return disk === undefined ? this.#store.tiers() : [disk, ...this.#store.tiers()];
  }

  /**
   * Loads `source` under `name`. A name that serves other files moves to the new ones atomically when `replace`
   * is set: rows in flight finish on the old version. Errors: ERR_BAD_REQUEST for a malformed name or a taken one
   * without `replace`, ERR_ADAPTER_FORBIDDEN, ERR_ADAPTER_UNLOADED, and those of the load, which change nothing.
   */
  async load(call: LoadCall): Promise<AdminReplies['load']> {
    const { name, replace } = call;
    this.#requireFree(name);
    const source = await this.#admit(call.source);
    const { record, load } = await this.#startForOperator(name, source, { operator: true, replace, pin: call.pin });
    if (!call.wait) return { outcome: 'accepted', replaced: null, adapter: this.#describe(record) };
    const result = await load.settled;
    if (!result.ok) throw result.error;
    return { outcome: result.outcome, replaced: result.replaced, adapter: this.#describe(record) };
  }

  /**
   * All of a load but keeping it: afterwards no name is known that was not known before, and the memory is free
   * again. It makes room as a load does. Errors: as `load`.
   */
  async check(call: CheckCall): Promise<AdapterInfo> {
    const { name, replace } = call;
    this.#requireFree(name);
    this.#requireOpen(name, undefined);
    const source = await this.#admit(call.source);
    const record = this.#records.get(name) ?? (await this.#newRecord(name, source));
    this.#requireOpen(name, undefined);
    requireStaying(record);
    const facts = await this.#loads.rehearse(record, source, replace);
    return describeRecord({ ...createRecord(name, source), facts }, 0, this.#aliases.namesOf(facts.digest));
  }

  /** All aliases, sorted by name. */
  aliases(): AdminReplies['aliases'] {
    return { aliases: this.#aliases.list() };
  }

  /**
   * Points an alias at a digest that some adapter has; requests that began before end on what it stood for then.
   * Errors: ERR_BAD_REQUEST for a name that is malformed or an adapter's; ERR_ADAPTER_NOT_FOUND for a digest or
   * adapter that was never loaded.
   */
  async setAlias(name: string, target: AliasTarget): Promise<AdminReplies['alias']> {
    requireName(name);
    const inRoots = !this.#aliases.has(name) && !this.#unloaded.has(name) && (await this.#roots.find(name)) !== null;
    const digest = 'digest' in target ? target.digest : await this.#digestOf(target.adapter);
    this.#requireOpen(name, undefined);
    if (inRoots || this.#records.has(name)) throw nameTaken(name, 'an adapter');
    const replaced = this.#aliases.set(name, digest);
    return { replaced, alias: this.#aliases.describe(name) };
  }

  /** Forgets an alias and returns what it was. ERR_ADAPTER_NOT_FOUND when there is none. */
  deleteAlias(name: string): AliasInfo {
    return this.#aliases.delete(name);
  }

  /**
   * Takes a name out of service: new requests are refused at once, the memory goes with the last row, and the name
   * stays unknown until it is loaded again. With `cutRows` the rows in flight are ended: it is called with each
   * native handle in use and returns how many rows it failed. Resolves when everything is freed.
   */
  async unload(name: string, cutRows?: (handle: number) => number): Promise<AdminReplies['unload']> {
    const record = this.#records.get(name) ?? (await this.#find(name));
    const rows = this.#store.rows(record);
    const drain = record.drain ?? this.#leave(record);
    let rowsCut = 0;
    for (const { handle } of cutRows === undefined ? [] : [...record.versions]) rowsCut += cutRows?.(handle) ?? 0;
    await drain.promise;
    await record.load?.settled;
    if (this.#records.get(name) === record) {
      this.#records.delete(name);
      this.#unloaded.add(name);
    }
    return { drained: rows - rowsCut, rowsCut };
  }

  /** Sets or clears the operator pin; pinning loads the adapter first. Errors as `acquire`. */
  async pin(name: string, pinned: boolean): Promise<AdapterInfo> {
    const record = this.#records.get(name) ?? (await this.#find(name));
    for (;;) {
      this.#requireOpen(name, undefined);
      requireStaying(record);
      if (record.current !== null || !pinned) {
        record.operatorPin = pinned;
        if (record.current !== null) this.#store.setOperatorPin(record.current, pinned);
        return this.#describe(record);
      }
      const load = record.load ?? this.#loads.start(record, record.source, byRequest());
      load.intent.operator = true;
      load.intent.pin = true;
      const result = await load.settled;
      if (!result.ok) throw result.error;
    }
  }

  /** What does not add up; empty when all is well. */
  violations(): string[] {
    return this.#store.violations();
  }

  /** Refuses everything from now on and frees all that no row holds; the rest goes with its last row. */
  async close(): Promise<void> {
    this.#closed = true;
    const records = [...this.#records.values()];
    const loads = records.flatMap((record) => (record.load === null ? [] : [record.load.settled]));
    this.#loads.cancelRehearsals(closedError());
    for (const record of records) if (record.drain === null) this.#leave(record, closedError());
    await Promise.all(loads);
    await this.#options.sources?.close();
  }

  #describe(record: AdapterRecord): AdapterInfo {
    return describeRecord(record, this.#store.rows(record), this.#aliases.namesOf(record.facts?.digest ?? null));
  }

  /** The digest of an adapter or alias. ERR_ADAPTER_NOT_FOUND when it is not known or was never loaded. */
  async #digestOf(name: string): Promise<string> {
    const known = this.#aliases.digestOf(name);
    if (known !== null) return known;
    const { facts } = this.#records.get(name) ?? (await this.#find(name));
    if (facts !== null) return facts.digest;
    throw new LoramuxError(
      'ERR_ADAPTER_NOT_FOUND',
      `adapter ${name} was never loaded, so its digest is not known: load it first`,
    );
  }

  /** A name that an admin load may use. */
  #requireFree(name: string): void {
    requireName(name);
    if (this.#aliases.has(name)) throw nameTaken(name, 'an alias');
  }

  /** A record for an unknown name: of the folder's own adapter of this name, if there is one. */
  async #newRecord(name: string, source: AdapterSource): Promise<AdapterRecord> {
    const inRoots = this.#unloaded.has(name) ? null : await this.#roots.find(name);
    return createRecord(name, inRoots === null ? source : directorySource(inRoots));
  }

  /** True while a name stands for files that were uploaded. */
  #isUpload(digest: string): boolean {
    for (const { source, load } of this.#records.values()) {
      for (const each of [source, load?.source]) if (each?.type === 'upload' && each.location === digest) return true;
    }
    return false;
  }

  #requireOpen(name: string, signal: AbortSignal | undefined): void {
    if (this.#closed) throw closedError();
    if (signal?.aborted === true) throw abortedError(name);
  }

  /** The record of a name in the scanned roots. */
  async #find(name: string): Promise<AdapterRecord> {
    if (this.#aliases.has(name))
      throw new LoramuxError('ERR_ADAPTER_NOT_FOUND', `${name} is an alias: name its adapter`);
    const directory = this.#unloaded.has(name) ? null : await this.#roots.find(name);
    const known = this.#records.get(name);
    if (known !== undefined) return known;
    if (directory === null || this.#unloaded.has(name)) throw notFound(name, this.#unloaded.has(name));
    const record = createRecord(name, directorySource(directory));
    this.#records.set(name, record);
    return record;
  }

  /** The source with its real path, or taken over, once it may be loaded at all. */
  async #admit(source: FileSource): Promise<FileSource> {
    if (source.type !== 'dir') {
      const { sources } = this.#options;
      if (sources === undefined || sources === null) throw unreachable(source);
      return sources.admit(source);
    }
    const real = await this.#roots.resolve(source.location);
    if (real !== null) return directorySource(real);
    throw new LoramuxError(
      'ERR_ADAPTER_NOT_FOUND',
      `expected an adapter directory at ${source.location}, found nothing: check the path`,
    );
  }

  /** Starts an admin load once no other load of the name is in flight, creating its record if the name is new. */
  async #startForOperator(
    name: string,
    source: AdapterSource,
    intent: LoadIntent,
  ): Promise<{ record: AdapterRecord; load: ActiveLoad }> {
    const created = await this.#newRecord(name, source);
    for (;;) {
      if (this.#closed) throw closedError();
      const record = this.#records.get(name) ?? created;
      requireStaying(record);
      this.#requireFree(name);
      if (record.load === null) {
        this.#records.set(name, record);
        this.#unloaded.delete(name);
        this.#located.delete(name);
        return { record, load: this.#loads.start(record, source, intent) };
      }
      await record.load.settled;
    }
  }

  /** Waits for a load with the request's signal; gives the load up when nobody else wants it. */
  async #join(
    record: AdapterRecord,
    load: ActiveLoad,
    tierAtArrival: AdapterLease['tierAtArrival'],
    signal: AbortSignal | undefined,
  ): Promise<AdapterLease | null> {
    const waiter: Waiter = { tierAtArrival, deferred: deferred() };
    load.waiters.add(waiter);
    const abort = (): void => {
      if (!load.waiters.delete(waiter)) return;
      waiter.deferred.reject(abortedError(record.name));
      this.#loads.abandon(load);
    };
    signal?.addEventListener('abort', abort, { once: true });
    try {
      const lease = await waiter.deferred.promise;
      if (lease === null || signal?.aborted !== true) return lease;
      lease.release();
      throw abortedError(record.name);
    } catch (thrown) {
      const gone = thrown instanceof LoramuxError && thrown.code === 'ERR_ADAPTER_NOT_FOUND';
      if (gone && record.load === null && record.versions.size === 0 && this.#records.get(record.name) === record)
        this.#records.delete(record.name);
      throw thrown;
    } finally {
      signal?.removeEventListener('abort', abort);
    }
  }

  /** Begins to take a record out of service. */
  #leave(record: AdapterRecord, reason = leavingError(record.name)): NonNullable<AdapterRecord['drain']> {
    const drain = deferred<void>();
    record.drain = drain;
    record.operatorPin = false;
    if (record.load !== null) this.#loads.cancel(record.load, reason);
    if (record.versions.size === 0) drain.resolve();
    for (const version of [...record.versions]) this.#store.retire(record, version, version.retired ?? 'admin');
    return drain;
  }
}

function requireName(name: string): void {
  if (isAdapterName(name)) return;
  const expected = 'expected an adapter name of letters, digits, ".", "_", "-" and at most one "/"';
  throw new LoramuxError('ERR_BAD_REQUEST', `${expected}, found ${JSON.stringify(name)}`, { field: 'name' });
}

function directorySource(location: string): DirectorySource {
  return { type: 'dir', location };
}

/** A digest of the token is part of the name: `#` is in no name that a request or an operator can give. */
function nameForToken(name: string, source: RemoteSource): string {
  const token = source.type === 'hub' || source.type === 'http' ? source.token : null;
  if (token === null) return name;
  return `${name}#${createHash('sha256').update(token).digest('hex').slice(0, 32)}`;
}

/** The intent of a load that only requests asked for. A name follows its own directory to whatever it holds. */
function byRequest(): LoadIntent {
  return { operator: false, replace: true, pin: false };
}

function requireStaying(record: AdapterRecord): void {
  if (record.drain !== null) throw leavingError(record.name);
}
