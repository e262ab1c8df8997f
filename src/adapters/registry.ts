import type { AdapterInfo, TierInfo } from '../core/adapter.js';
import type { AdminReplies, AliasInfo, AliasTarget } from '../core/adapter-admin.js';
import type { MergeSource, RemoteSource } from '../core/adapter-source.js';
import type { Telemetry } from '../core/telemetry.js';
import { AdapterRoots } from './adapter-directory.js';
import type { AdapterLease } from './adapter-record.js';
import { Admission } from './admission.js';
import { HostTier, type HostTierBackend } from './host-tier.js';
import { type AdapterIdentity, LeaseDesk } from './lease-desk.js';
import { LoadRunner } from './load-runner.js';
import { type AdapterBackend, AdapterLoader } from './loader.js';
import { NameBook } from './name-book.js';
import { type CheckCall, type LoadCall, Operator } from './operator.js';
import type { BaseModel } from './plan.js';
import type { AdapterProver } from './proof.js';
import { RequestNames } from './request-names.js';
import type { RemoteSources } from './sources/remote-sources.js';
import type { TextReader } from './text/text-cache.js';
import { type SharedPages, VersionStore } from './version-store.js';

const DEFAULT_MAX_FILE_BYTES = 2 * 1024 ** 3;

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
  /** Absent = adapters are resident in host memory. */
  readonly device?: {
    /** That adapters lie in and share with the KV cache. */
    readonly pages: SharedPages;
    /** Copies on the host of adapters that a device has or had; null = none. */
    readonly host: { readonly backend: HostTierBackend; readonly capacityBytes: number } | null;
  };
  readonly maxFileBytes?: number;
  /** Shows of each adapter that it reaches the logits; null or absent = loads carry no proof. */
  readonly prover?: AdapterProver | null;
  /** Reads the tokenizers and templates that adapters ship; null or absent = the base's serve all of them. */
  readonly texts?: TextReader | null;
  readonly emit: (fact: Telemetry) => void;
  /** Told about adapters that were accepted but look odd. */
  readonly warn?: (name: string, warning: string) => void;
  /** Milliseconds since the epoch, never running backwards. */
  readonly now?: () => number;
}

/**
 * Adapter names and what they stand for. Hands out leases on resident adapters, loading them on first use, and
 * carries out the adapter part of the admin API. Lives in the engine worker; every method returns at once or waits
 * without blocking the thread.
 */
export class AdapterRegistry {
  readonly #sources: RemoteSources | null;
  readonly #texts: TextReader | null;
  readonly #admission = new Admission();
  readonly #book: NameBook;
  readonly #store: VersionStore;
  readonly #desk: LeaseDesk;
  readonly #requestNames: RequestNames;
  readonly #operator: Operator;
  readonly #host: HostTier | null;

  constructor(options: RegistryOptions) {
    const { backend, base, capacityBytes, emit, prover = null, texts = null, sources = null } = options;
    const { maxFileBytes = DEFAULT_MAX_FILE_BYTES, warn = () => undefined, device } = options;
    const now = options.now ?? ((): number => performance.timeOrigin + performance.now());
    const releaseAdapter = (handle: number): void => backend.releaseAdapter(handle);
    const admission = this.#admission;
    const roots = new AdapterRoots(options.roots, options.allowedRoots);
    const book = new NameBook(roots, sources);
    const host = device?.host == null ? null : new HostTier({ ...device.host, emit, warn });
    const store = new VersionStore({ capacityBytes, pages: device?.pages ?? null, host, now, releaseAdapter, emit });
    const { residency, memory, pages } = store;
    const files = { backend, base, roots, sources, texts, maxFileBytes };
    const loader = new AdapterLoader({ ...files, residency, memory, pages, host, now, prover });
    const loads = new LoadRunner({ loader, store, host, emit, warn, now, nextTicket: () => admission.nextTicket() });
    sources?.keepUploads((digest) => book.isUpload(digest));
    this.#sources = sources;
    this.#texts = texts;
    this.#book = book;
    this.#store = store;
    this.#desk = new LeaseDesk({ book, store, loads, admission, emit });
    this.#requestNames = new RequestNames(book);
    this.#operator = new Operator({ book, store, loads, host, admission });
    this.#host = host;
  }

  /**
   * Brings the load on that gathers pages, for KV blocks may have come free; as many as `spare` pages stay for sequences
   * that run.
   */
  gatherPages(spare: number): void {
    this.#store.gatherPages(spare);
  }

  /** The adapter that an alias stands for now; null for any other name. ERR_ADAPTER_NOT_FOUND when it leads nowhere. */
  aliased(name: string): string | null {
    return this.#book.aliases.has(name) ? this.#book.aliases.holderOf(name) : null;
  }

  /** A lease if the adapter is resident and no overdue load goes first; null otherwise, then use `acquire`. */
  tryAcquire(name: string): AdapterLease | null {
    return this.#desk.tryAcquire(name);
  }

  /**
   * A lease on the adapter, which is loaded first if it is not resident; requests for one name share one load. By an
   * alias, on the digest that the alias stands for now, or none.
   * Errors: ERR_ADAPTER_NOT_FOUND, ERR_ADAPTER_UNLOADED while it is being unloaded, ERR_ABORTED by `signal`,
   * ERR_ENGINE_CLOSED, and those of the load.
   */
  acquire(name: string, signal?: AbortSignal): Promise<AdapterLease> {
    return this.#desk.acquire(name, signal);
  }

  /**
   * What a name stands for since it was last loaded, resident or not; null when it was not loaded yet.
   * Errors: ERR_ADAPTER_UNLOADED while it is being unloaded; those of an alias that leads nowhere.
   */
  identify(name: string): AdapterIdentity | null {
    return this.#desk.identify(name);
  }

  /**
   * The name under which a merge of other adapters is acquired; no request can spell it. Merges that are not resident
   * are forgotten when they become many.
   */
  derive(source: MergeSource): string {
    return this.#requestNames.derive(source);
  }

  /**
   * The name under which an adapter is acquired that a request says where to find, if it is known already: its own, or
   * with a token one that no request can spell, so that only those who have the token get what it opened.
   * Errors: ERR_VALIDATION when the name stands for something else here.
   */
  located(name: string, source: RemoteSource): string | null {
    return this.#requestNames.located(name, source);
  }

  /**
   * As `located`, making the adapter known if it is not. Those that are neither resident nor loading are forgotten when
   * they become many. Errors: as `located`, ERR_ADAPTER_NOT_FOUND for a name that the operator unloaded, and those of
   * sources that may not be fetched.
   */
  locate(name: string, source: RemoteSource): Promise<string> {
    return this.#requestNames.locate(name, source);
  }

  /** Every adapter: those known and those in the scanned roots, sorted by name. */
  async list(): Promise<AdminReplies['list']> {
    await this.#book.scan();
    const records = [...this.#book.records.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
    return { adapters: records.map((record) => this.#operator.describe(record)), tiers: this.tiers() };
  }

  /** By name or alias. ERR_ADAPTER_NOT_FOUND for an unknown one. */
  async get(nameOrAlias: string): Promise<AdapterInfo> {
    return this.#operator.describe(this.#book.known(nameOrAlias) ?? (await this.#book.find(nameOrAlias)));
  }

  tiers(): TierInfo[] {
    const disk = this.#sources?.tier();
    return disk === undefined ? this.#store.tiers() : [disk, ...this.#store.tiers()];
  }

  /**
   * Loads `source` under `name`. A name that serves other files moves to the new ones atomically when `replace`
   * is set: rows in flight finish on the old version. Errors: ERR_BAD_REQUEST for a malformed name or a taken one
   * without `replace`, ERR_ADAPTER_FORBIDDEN, ERR_ADAPTER_UNLOADED, and those of the load, which change nothing.
   */
  load(call: LoadCall): Promise<AdminReplies['load']> {
    return this.#operator.load(call);
  }

  /**
   * All of a load but keeping it: afterwards no name is known that was not known before, and the memory is free
   * again. It makes room as a load does. Errors: as `load`.
   */
  check(call: CheckCall): Promise<AdapterInfo> {
    return this.#operator.check(call);
  }

  /** All aliases, sorted by name. */
  aliases(): AdminReplies['aliases'] {
    return { aliases: this.#book.aliases.list() };
  }

  /**
   * Points an alias at a digest that some adapter has; requests that began before end on what it stood for then.
   * Errors: ERR_BAD_REQUEST for a name that is malformed or an adapter's; ERR_ADAPTER_NOT_FOUND for a digest or
   * adapter that was never loaded.
   */
  setAlias(name: string, target: AliasTarget): Promise<AdminReplies['alias']> {
    return this.#operator.setAlias(name, target);
  }

  /** Forgets an alias and returns what it was. ERR_ADAPTER_NOT_FOUND when there is none. */
  deleteAlias(name: string): AliasInfo {
    return this.#book.aliases.delete(name);
  }

  /**
   * Takes a name out of service: new requests are refused at once, the memory goes with the last row, and the name
   * stays unknown until it is loaded again. With `cutRows` the rows in flight are ended: it is called with each
   * native handle in use and returns how many rows it failed. Resolves when everything is freed.
   */
  unload(name: string, cutRows?: (handle: number) => number): Promise<AdminReplies['unload']> {
    return this.#operator.unload(name, cutRows);
  }

  /** Sets or clears the operator pin; pinning loads the adapter first. Errors as `acquire`. */
  pin(name: string, pinned: boolean): Promise<AdapterInfo> {
    return this.#operator.pin(name, pinned);
  }

  /** What does not add up; empty when all is well. */
  violations(): string[] {
    return this.#store.violations();
  }

  /** Refuses everything from now on and frees all that no row holds; the rest goes with its last row. */
  async close(): Promise<void> {
    this.#admission.close();
    this.#host?.close();
    await this.#operator.close();
    await this.#sources?.close();
    await this.#texts?.close();
  }
}
