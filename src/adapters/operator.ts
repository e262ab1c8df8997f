import type { AdapterInfo } from '../core/adapter.js';
import type { AdminCall, AdminReplies, AliasTarget } from '../core/adapter-admin.js';
import type { AdapterSource } from '../core/adapter-source.js';
import {
  type ActiveLoad,
  type AdapterRecord,
  createRecord,
  describeRecord,
  type LoadIntent,
} from './adapter-record.js';
import type { Admission } from './admission.js';
import { nameTaken } from './aliases.js';
import { deferred } from './deferred.js';
import type { HostTier } from './host-tier.js';
import { byRequest, type LoadRunner } from './load-runner.js';
import { type NameBook, requireName } from './name-book.js';
import { closedError, leavingError, requireStaying } from './registry-errors.js';
import type { VersionStore } from './version-store.js';

export type LoadCall = Omit<Extract<AdminCall, { op: 'load' }>, 'op'>;
export type CheckCall = Omit<Extract<AdminCall, { op: 'check' }>, 'op'>;

export interface OperatorOptions {
  readonly book: NameBook;
  readonly store: VersionStore;
  readonly loads: LoadRunner;
  /** Null where nothing is kept of adapters that leave. */
  readonly host: HostTier | null;
  readonly admission: Admission;
}

/** What operators do to adapters: loads, rehearsals, pins, aliases and unloads. */
export class Operator {
  readonly #options: OperatorOptions;

  constructor(options: OperatorOptions) {
    this.#options = options;
  }

  /**
   * Loads `source` under `name`. A name that serves other files moves to the new ones atomically when `replace`
   * is set: rows in flight finish on the old version. Errors: ERR_BAD_REQUEST for a malformed name or a taken one
   * without `replace`, ERR_ADAPTER_FORBIDDEN, ERR_ADAPTER_UNLOADED, and those of the load, which change nothing.
   */
  async load(call: LoadCall): Promise<AdminReplies['load']> {
    const { book } = this.#options;
    const { name, replace } = call;
    book.requireFree(name);
    const source = await book.admit(call.source);
    const { record, load } = await this.#startForOperator(name, source, { operator: true, replace, pin: call.pin });
    if (!call.wait) return { outcome: 'accepted', replaced: null, adapter: this.describe(record) };
    const result = await load.settled;
    if (!result.ok) throw result.error;
    return { outcome: result.outcome, replaced: result.replaced, adapter: this.describe(record) };
  }

  /**
   * All of a load but keeping it: afterwards no name is known that was not known before, and the memory is free
   * again. It makes room as a load does. Errors: as `load`.
   */
  async check(call: CheckCall): Promise<AdapterInfo> {
    const { book, loads, admission } = this.#options;
    const { name, replace } = call;
    book.requireFree(name);
    admission.require(name);
    const source = await book.admit(call.source);
    const record = book.records.get(name) ?? (await book.create(name, source));
    admission.require(name);
    requireStaying(record);
    const facts = await loads.rehearse(record, source, replace);
    return describeRecord({ ...createRecord(name, source), facts }, 'disk', 0, book.aliases.namesOf(facts.digest));
  }

  /**
   * Points an alias at a digest that some adapter has; requests that began before end on what it stood for then.
   * Errors: ERR_BAD_REQUEST for a name that is malformed or an adapter's; ERR_ADAPTER_NOT_FOUND for a digest or
   * adapter that was never loaded.
   */
  async setAlias(name: string, target: AliasTarget): Promise<AdminReplies['alias']> {
    const { book, admission } = this.#options;
    requireName(name);
    const inRoots = !book.aliases.has(name) && !book.unloaded.has(name) && (await book.roots.find(name)) !== null;
    const digest = 'digest' in target ? target.digest : await book.digestOf(target.adapter);
    admission.require(name);
    if (inRoots || book.records.has(name)) throw nameTaken(name, 'an adapter');
    const replaced = book.aliases.set(name, digest);
    return { replaced, alias: book.aliases.describe(name) };
  }

  /**
   * Takes a name out of service: new requests are refused at once, the memory goes with the last row, and the name
   * stays unknown until it is loaded again. With `cutRows` the rows in flight are ended: it is called with each
   * native handle in use and returns how many rows it failed. Resolves when everything is freed.
   */
  async unload(name: string, cutRows?: (handle: number) => number): Promise<AdminReplies['unload']> {
    const { book, store } = this.#options;
    const record = book.records.get(name) ?? (await book.find(name));
    const rows = store.rows(record);
    const drain = record.drain ?? this.#leave(record);
    let rowsCut = 0;
    for (const { handle } of cutRows === undefined ? [] : [...record.versions]) rowsCut += cutRows?.(handle) ?? 0;
    await drain.promise;
    await record.load?.settled;
    if (book.records.get(name) === record) {
      book.records.delete(name);
      book.unloaded.add(name);
    }
    return { drained: rows - rowsCut, rowsCut };
  }

  /** Sets or clears the operator pin; pinning loads the adapter first. Errors as `acquire`. */
  async pin(name: string, pinned: boolean): Promise<AdapterInfo> {
    const { book, store, loads, admission } = this.#options;
    const record = book.records.get(name) ?? (await book.find(name));
    for (;;) {
      admission.require(name);
      requireStaying(record);
      if (record.current !== null || !pinned) {
        record.operatorPin = pinned;
        if (record.current !== null) store.setOperatorPin(record.current, pinned);
        return this.describe(record);
      }
      const load = record.load ?? loads.start(record, record.source, byRequest());
      load.intent.operator = true;
      load.intent.pin = true;
      const result = await load.settled;
      if (!result.ok) throw result.error;
    }
  }

  /** Takes every adapter out of service; resolves when no load is in flight any more. */
  async close(): Promise<void> {
    const { book, loads } = this.#options;
    const records = [...book.records.values()];
    const inFlight = records.flatMap((record) => (record.load === null ? [] : [record.load.settled]));
    loads.cancelRehearsals(closedError());
    for (const record of records) if (record.drain === null) this.#leave(record, closedError());
    await Promise.all(inFlight);
  }

  /** The record as the admin API shows it. */
  describe(record: AdapterRecord): AdapterInfo {
    const { book, store } = this.#options;
    return describeRecord(
      record,
      store.tierOf(record),
      store.rows(record),
      book.aliases.namesOf(record.facts?.digest ?? null),
    );
  }

  /** Starts an admin load once no other load of the name is in flight, creating its record if the name is new. */
  async #startForOperator(
    name: string,
    source: AdapterSource,
    intent: LoadIntent,
  ): Promise<{ record: AdapterRecord; load: ActiveLoad }> {
    const { book, loads, admission } = this.#options;
    const created = await book.create(name, source);
    for (;;) {
      if (admission.isClosed) throw closedError();
      const record = book.records.get(name) ?? created;
      requireStaying(record);
      book.requireFree(name);
      if (record.load === null) {
        book.records.set(name, record);
        book.unloaded.delete(name);
        book.located.delete(name);
        return { record, load: loads.start(record, source, intent) };
      }
      await record.load.settled;
    }
  }

  /** Begins to take a record out of service. */
  #leave(record: AdapterRecord, reason = leavingError(record.name)): NonNullable<AdapterRecord['drain']> {
    const { store, loads, host } = this.#options;
    const drain = deferred<void>();
    record.drain = drain;
    record.operatorPin = false;
    host?.drop(record.source);
    if (record.load !== null) loads.cancel(record.load, reason);
    if (record.versions.size === 0) drain.resolve();
    for (const version of [...record.versions]) store.retire(record, version, version.retired ?? 'admin');
    return drain;
  }
}
