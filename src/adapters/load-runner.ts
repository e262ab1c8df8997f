import { type AdapterSource, describeSource, isSameSource } from '../core/adapter-source.js';
import { textInfo } from '../core/adapter-text.js';
import { LoramuxError, toLoramuxError } from '../core/errors.js';
import type { Telemetry } from '../core/telemetry.js';
import { stampOf } from './adapter-directory.js';
import type { ActiveLoad, AdapterFacts, AdapterRecord, LoadIntent, LoadResult } from './adapter-record.js';
import type { HostTier } from './host-tier.js';
import type { Compiled, LoadJob, LoadOutcome } from './load-job.js';
import type { AdapterLoader } from './loader.js';
import { closedError } from './registry-errors.js';
import type { VersionStore } from './version-store.js';

/** A failed load is not repeated for requests within this time unless its files changed. */
const FAILURE_MEMORY_MS = 5_000;

export interface LoadRunnerOptions {
  readonly loader: AdapterLoader;
  readonly store: VersionStore;
  /** Null where nothing is kept of adapters that leave. */
  readonly host: HostTier | null;
  readonly emit: (fact: Telemetry) => void;
  readonly warn: (name: string, warning: string) => void;
  readonly now: () => number;
  /** Next number in the order of requests and loads. */
  readonly nextTicket: () => number;
}

/** Runs loads for records: one at a time per name, published or remembered as failed, everybody waiting answered. */
export class LoadRunner {
  readonly #options: LoadRunnerOptions;
  readonly #rehearsals = new Set<ActiveLoad>();
  #nextKey = 1;

  constructor(options: LoadRunnerOptions) {
    this.#options = options;
  }

  /** Begins a load from `source` for a record that has none in flight. */
  start(record: AdapterRecord, source: AdapterSource, intent: LoadIntent): ActiveLoad {
    const load = this.#create(source, intent);
    record.load = load;
    load.settled = this.#run(record, load);
    return load;
  }

  /**
   * Carries a load of `source` for a record to its end and keeps nothing of it: neither the record nor the memory
   * changes. Returns what it found out. Errors: as a load.
   */
  async rehearse(record: AdapterRecord, source: AdapterSource, replace: boolean): Promise<AdapterFacts> {
    const load = this.#create(source, { operator: true, replace, pin: false });
    this.#rehearsals.add(load);
    try {
      const job = this.#jobOf(record, load, this.#options.nextTicket());
      const outcome = await this.#options.loader.load({
        ...job,
        keeps: false,
        accept: (digest) => {
          job.accept(digest);
          return 'load';
        },
      });
      // Never so: every digest is accepted to be loaded.
      if (outcome.kind === 'unchanged') throw new Error('a rehearsed load came to nothing');
      this.#options.store.discard(load.key, outcome.handle);
      if (load.cancelled !== null) throw load.cancelled;
      return factsOf(outcome);
    } catch (thrown) {
      throw load.cancelled ?? toLoramuxError(thrown);
    } finally {
      this.#rehearsals.delete(load);
    }
  }

  /** Ends all rehearsals with `reason`. */
  cancelRehearsals(reason: LoramuxError): void {
    for (const load of this.#rehearsals) this.cancel(load, reason);
  }

  /** Ends a load that no one wants any more, if it is still waiting; otherwise it runs on and may find new takers. */
  abandon(load: ActiveLoad): void {
    if (!isWanted(load)) this.#options.loader.cancel(load.key);
  }

  /** Makes a load come to nothing, failing everybody who waits for it with `reason`. */
  cancel(load: ActiveLoad, reason: LoramuxError): void {
    load.cancelled = reason;
    for (const waiter of load.waiters) waiter.deferred.reject(reason);
    load.waiters.clear();
    this.#options.loader.cancel(load.key);
  }

  /** The error of a recent failed load of the same unchanged files, or null when a new load is worth trying. */
  async recentFailure(record: AdapterRecord): Promise<LoramuxError | null> {
    const failure = record.failure;
    if (failure === null || !isSameSource(failure.source, record.source)) return null;
    if (this.#options.now() - failure.atMs >= FAILURE_MEMORY_MS) return null;
    const stamp = await stampOfSource(failure.source);
    return stamp === failure.stamp && record.failure === failure ? LoramuxError.fromRecord(failure.error) : null;
  }

  #create(source: AdapterSource, intent: LoadIntent): ActiveLoad {
    return {
      key: this.#nextKey++,
      source,
      intent,
      waiters: new Set(),
      state: 'queued',
      progress: null,
      cancelled: null,
      settled: Promise.resolve({ ok: false, error: closedError() }),
    };
  }

  #jobOf(record: AdapterRecord, load: ActiveLoad, ticket: number): LoadJob {
    return {
      name: record.name,
      key: load.key,
      ticket,
      source: load.source,
      refresh: load.intent.operator,
      keeps: true,
      onState: (state) => {
        load.state = state;
        if (state !== 'fetching') load.progress = null;
      },
      onProgress: (progress) => {
        load.progress = progress;
      },
      isWanted: () => isWanted(load),
      accept: (digest) => acceptDigest(record, load, digest),
      // What an eviction threw out comes back without another probe; an operator always gets a new one.
      proofOf: (digest) => (!load.intent.operator && record.facts?.digest === digest ? record.facts.proof : null),
    };
  }

  /** One load from start to published or failed; never rejects. */
  async #run(record: AdapterRecord, load: ActiveLoad): Promise<LoadResult> {
    const { loader, now, nextTicket } = this.#options;
    const startedMs = now();
    const ticket = nextTicket();
    const stamp = await stampOfSource(load.source);
    try {
      const outcome = await loader.load(this.#jobOf(record, load, ticket));
      if (load.cancelled !== null) {
        if (outcome.kind === 'compiled') this.#options.store.discard(load.key, outcome.handle);
        this.#options.host?.drop(load.source);
        throw load.cancelled;
      }
      const result = this.#settle(record, load, outcome);
      this.#report(record, load, startedMs, null, outcome.kind === 'compiled' ? outcome : null);
      return result;
    } catch (thrown) {
      const error = load.cancelled ?? toLoramuxError(thrown);
      if (load.cancelled === null && error.code !== 'ERR_ABORTED') {
        record.failure = { error: error.toRecord(), source: load.source, stamp, atMs: now() };
        this.#report(record, load, startedMs, error.code, null);
      }
      return this.#fail(record, load, error);
    }
  }

  /** Publishes what a load made and answers those who waited. */
  #settle(record: AdapterRecord, load: ActiveLoad, outcome: LoadOutcome): LoadResult {
    const { store, now, warn } = this.#options;
    const previous = record.facts?.digest ?? null;
    const waiters = [...load.waiters];
    load.waiters.clear();
    if (record.load === load) record.load = null;
    if (!isSameSource(record.source, load.source)) this.#options.host?.drop(record.source);
    record.source = load.source;
    record.failure = null;
    if (load.intent.pin) record.operatorPin = true;
    if (outcome.kind === 'unchanged') {
      if (record.current !== null) store.setOperatorPin(record.current, record.operatorPin);
      for (const waiter of waiters) waiter.deferred.resolve(null);
      return { ok: true, outcome: 'unchanged', replaced: null };
    }
    const { digest, handle, bytes, plan, text, warnings } = outcome;
    record.facts = factsOf(outcome);
    const { variant, invocation } = plan;
    const of = { key: load.key, handle, digest, variant, invocation, text, bytes };
    const version = { ...of, loadedAtMs: now(), retired: null };
    const tiers = waiters.map((waiter) => waiter.tierAtArrival);
    const leases = store.publish(record, version, tiers);
    for (const [at, waiter] of waiters.entries()) waiter.deferred.resolve(leases[at] ?? null);
    for (const warning of warnings) warn(record.name, warning);
    if (previous === null) return { ok: true, outcome: 'created', replaced: null };
    if (previous === digest) return { ok: true, outcome: 'unchanged', replaced: null };
    return { ok: true, outcome: 'replaced', replaced: previous };
  }

  #fail(record: AdapterRecord, load: ActiveLoad, error: LoramuxError): LoadResult {
    if (record.load === load) record.load = null;
    // A failed replacement says nothing about the files that the name still stands for.
    const lookAgain = error.code === 'ERR_ABORTED' || !isSameSource(load.source, record.source);
    for (const waiter of load.waiters) {
      if (lookAgain) waiter.deferred.resolve(null);
      else waiter.deferred.reject(error);
    }
    load.waiters.clear();
    return { ok: false, error };
  }

  #report(
    record: AdapterRecord,
    load: ActiveLoad,
    startedMs: number,
    code: Extract<Telemetry, { kind: 'adapter-load' }>['code'],
    compiled: Compiled | null,
  ): void {
    const seconds = (this.#options.now() - startedMs) / 1000;
    const result = code === null ? 'ok' : 'failed';
    const source = load.source.type;
    const { bytes = 0, fromHost = false } = compiled ?? {};
    this.#options.emit({ kind: 'adapter-load', name: record.name, source, fromHost, result, code, seconds, bytes });
  }
}

/** The intent of a load that only requests asked for. A name follows its own directory to whatever it holds. */
export function byRequest(): LoadIntent {
  return { operator: false, replace: true, pin: false };
}

function factsOf(outcome: Compiled): AdapterFacts {
  const { digest, bytes, plan, text, baseModel, proof, warnings } = outcome;
  const { ranks, variant, moduleCounts } = plan;
  return { digest, bytes, ranks, variant, modules: moduleCounts, baseModel, text: textInfo(text), proof, warnings };
}

/** What is behind a remote source shows only by asking it, so its failures are remembered for their time. */
async function stampOfSource(source: AdapterSource): Promise<string> {
  return source.type === 'dir' ? stampOf(source.location) : '';
}

function isWanted(load: ActiveLoad): boolean {
  return load.cancelled === null && (load.intent.operator || load.waiters.size > 0);
}

/** What a load's digest means for the name: nothing new, or a load that the name is free for. */
function acceptDigest(record: AdapterRecord, load: ActiveLoad, digest: string): 'load' | 'unchanged' {
  if (record.current?.digest === digest) return 'unchanged';
  const taken = record.facts !== null ? record.facts.digest !== digest : !isSameSource(record.source, load.source);
  if (!load.intent.replace && taken) {
    throw new LoramuxError(
      'ERR_BAD_REQUEST',
      `${record.name} already names ${describeSource(record.source)}, expected a free name: choose another or set replace`,
      { field: 'replace' },
    );
  }
  return 'load';
}
