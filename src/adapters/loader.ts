import type { AdapterProof } from '../core/adapter.js';
import {
  type AdapterSource,
  describeSource,
  type FileSource,
  type MergeSource,
  type RemoteSource,
} from '../core/adapter-source.js';
import { textBytes } from '../core/adapter-text.js';
import { LoramuxError } from '../core/errors.js';
import type { NativeAdapterPlan, NativeBinding, NativeCompiledAdapter, NativeEngine } from '../engine/binding.js';
import { AdapterRoots } from './adapter-directory.js';
import type { AdapterPages } from './adapter-pages.js';
import { mergeAdapters } from './composition/merge-adapters.js';
import { type Deferred, deferred } from './deferred.js';
import { filesOf, fingerprintOf } from './fingerprint.js';
import type { HostTier, KeptAdapter } from './host-tier.js';
import type { Compiled, LoadJob, LoadOutcome } from './load-job.js';
import type { MemoryQueue } from './memory-queue.js';
import { type BaseModel, planFacts } from './plan.js';
import type { AdapterProver } from './proof.js';
import { type CheckedAdapter, naming, readAdapter } from './read-adapter.js';
import type { Residency } from './residency.js';
import type { LocalCopy, RemoteSources } from './sources/remote-sources.js';
import type { TextReader } from './text/text-cache.js';

/** What loading needs of the native side. */
export type AdapterBackend = Pick<NativeBinding, 'openAdapterFile' | 'firstMatches' | 'mergeAdapterFiles'> &
  Pick<NativeEngine, 'compileAdapter' | 'placeAdapter' | 'releaseAdapter'>;

export interface LoaderOptions {
  readonly backend: AdapterBackend;
  readonly base: BaseModel;
  readonly roots: AdapterRoots;
  /** Null where adapters come from directories only. */
  readonly sources: RemoteSources | null;
  readonly residency: Residency;
  readonly memory: MemoryQueue;
  /** Null where adapters lie anywhere. */
  readonly pages: AdapterPages | null;
  /** What is kept of adapters that leave; null where nothing is. */
  readonly host: HostTier | null;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** Null where nothing can run a probe. */
  readonly prover: AdapterProver | null;
  /** Null = text is handled as the base handles it, whatever an adapter ships. */
  readonly texts: TextReader | null;
  /** Longest safetensors file that is opened. */
  readonly maxFileBytes: number;
}

/** Loads at a time: each holds a whole adapter file in memory beside the budget. */
const MAX_CONCURRENT_LOADS = 2;

/** Reads, checks, plans and compiles adapters, a few at a time in order of arrival; nothing of it blocks the thread. */
export class AdapterLoader {
  readonly #options: LoaderOptions;
  /** By ticket. */
  readonly #queue: { readonly key: number; readonly ticket: number; readonly turn: Deferred<void> }[] = [];
  readonly #fetches = new Map<number, AbortController>();
  #running = 0;

  constructor(options: LoaderOptions) {
    this.#options = options;
  }

  /**
   * Carries one load to a compiled adapter. Errors: those of the source, directory, configuration and plan;
   * ERR_ADAPTER_NO_SPACE; ERR_ABORTED when nobody wants it any more; whatever the native side reports. A failed load
   * leaves no bytes in memory.
   */
  async load(job: LoadJob): Promise<LoadOutcome> {
    job.onState('queued');
    // A slow source keeps no turn from loads that have their files.
    const copies: (LocalCopy | null)[] = [];
    try {
      for (const source of filesOf(job.source))
        copies.push(source.type === 'dir' ? null : await this.#fetch(job, source));
      const { host, roots, now } = this.#options;
      const fingerprint = host === null ? null : await fingerprintOf(job.source, copies, roots, now);
      const kept = job.refresh ? undefined : host?.find(job.name, job.source, fingerprint);
      // Without a turn: nothing is read, and what is read for others may take long.
      if (kept != null) return await this.#restore(job, kept);
      await this.#takeTurn(job);
      try {
        const outcome = await this.#load(job, copies);
        if (outcome.kind === 'compiled' && job.keeps)
          await host?.keep(job.name, job.source, fingerprint, outcome.handle, outcome);
        return outcome;
      } finally {
        this.#endTurn();
      }
    } finally {
      for (const copy of copies) copy?.release();
    }
  }

  /**
   * Takes a load that waits for its files, its turn or memory out with ERR_ABORTED; false when it is doing anything
   * else.
   */
  cancel(key: number): boolean {
    const fetch = this.#fetches.get(key);
    if (fetch !== undefined) {
      fetch.abort(aborted());
      return true;
    }
    const at = this.#queue.findIndex((waiting) => waiting.key === key);
    if (at < 0) return this.#options.memory.cancel(key, aborted());
    const [waiting] = this.#queue.splice(at, 1);
    waiting?.turn.reject(aborted());
    return true;
  }

  async #fetch(job: LoadJob, source: RemoteSource): Promise<LocalCopy> {
    const { sources } = this.#options;
    if (sources === null) throw unreachable(source);
    requireWanted(job);
    const controller = new AbortController();
    this.#fetches.set(job.key, controller);
    job.onState('fetching');
    try {
      const { refresh, onProgress } = job;
      return await sources.open(source, { refresh, onProgress, signal: controller.signal });
    } finally {
      this.#fetches.delete(job.key);
    }
  }

  async #load(job: LoadJob, copies: readonly (LocalCopy | null)[]): Promise<LoadOutcome> {
    const { backend } = this.#options;
    requireWanted(job);
    job.onState('fetching');
    const adapter =
      job.source.type === 'merge'
        ? await this.#merge(job.source, copies, () => job.onState('validating'))
        : await this.#read(job.source, copies[0] ?? null, () => job.onState('validating'));
    const { digest, weights, plan, text, baseModel, file } = adapter;
    let compiled: NativeCompiledAdapter;
    try {
      requireWanted(job);
      if (job.accept(digest) === 'unchanged') return { kind: 'unchanged', digest };
      const planJson = JSON.stringify({ modules: plan.modules, ...plan.extras } satisfies NativeAdapterPlan);
      const compile = () => naming(file, backend.compileAdapter(weights, planJson));
      compiled =
        this.#options.pages === null
          ? await this.#compile(job, plan.bytes, textBytes(text), compile)
          : await this.#place(job, this.#options.pages, compile);
    } finally {
      weights.close();
    }
    const found = { digest, plan: planFacts(plan), text, baseModel, warnings: adapter.warnings };
    return this.#proven(job, file, { kind: 'compiled', ...found, ...compiled, fromHost: false });
  }

  /** Brings an adapter back that the host kept. */
  async #restore(job: LoadJob, kept: KeptAdapter): Promise<LoadOutcome> {
    try {
      const found = kept.facts;
      requireWanted(job);
      if (job.accept(found.digest) === 'unchanged') return { kind: 'unchanged', digest: found.digest };
      const { handle } = await this.#inPages(job, found.runs, null, (pages) => kept.restore(pages));
      return await this.#proven(job, describeSource(job.source), {
        kind: 'compiled',
        ...kept.facts,
        handle,
        fromHost: true,
      });
    } finally {
      kept.end();
    }
  }

  /** What was compiled, with its proof. `place`: where it came from, for messages. */
  async #proven(job: LoadJob, place: string, compiled: Omit<Compiled, 'proof'>): Promise<LoadOutcome> {
    const proof = job.proofOf(compiled.digest) ?? (await this.#prove(job, compiled.handle, place));
    const warnings = new Set(compiled.warnings);
    if (proof?.maxLogitDelta === 0) {
      warnings.add(
        `moves no logit of the probe prompt, though all ${compiled.plan.moduleCounts.applied} modules are applied: its weights add nothing there`,
      );
    }
    return { ...compiled, proof, warnings: [...warnings] };
  }

  /** `onRead` is told when the files are there, before they are planned. */
  async #read(source: FileSource, copy: LocalCopy | null, onRead: () => void): Promise<CheckedAdapter> {
    const roots = copy === null ? this.#options.roots : new AdapterRoots([], [copy.root]);
    return readAdapter(copy?.directory ?? source.location, roots, this.#options, async (digest) => {
      if (copy !== null && copy.digest !== digest) throw await this.#damaged(source, copy);
      onRead();
    });
  }

  /** Reads the members one by one and merges them. */
  async #merge(
    source: MergeSource,
    copies: readonly (LocalCopy | null)[],
    onRead: () => void,
  ): Promise<CheckedAdapter> {
    const members: CheckedAdapter[] = [];
    try {
      for (const [at, member] of source.members.entries()) {
        members.push(await this.#read(member.source, copies[at] ?? null, () => undefined));
      }
      onRead();
      return await mergeAdapters(source, members, this.#options);
    } finally {
      for (const { weights } of members) weights.close();
    }
  }

  /**
   * Compiles within a reservation, in which `beside` bytes of the adapter are not the native side's. The estimate may fall short of what the native side takes; then the adapter gives
   * everything back and waits again for the true size, because waiting with memory in hand could block for ever.
   */
  async #compile(
    job: LoadJob,
    estimate: number,
    beside: number,
    compile: () => Promise<NativeCompiledAdapter>,
  ): Promise<NativeCompiledAdapter> {
    const { memory } = this.#options;
    for (let needed = estimate + beside; ; ) {
      await memory.reserve(job.key, needed, job.ticket);
      let compiled: NativeCompiledAdapter | null = null;
      try {
        requireWanted(job);
        compiled = await compile();
        needed = Math.max(1, compiled.bytes + beside);
        if (memory.resize(job.key, needed)) return { ...compiled, bytes: compiled.bytes + beside };
      } catch (thrown) {
        this.#giveBack(job.key, compiled);
        throw thrown;
      }
      this.#giveBack(job.key, compiled);
    }
  }

  /**
   * Compiles into memory of the host, which tells the pages that the adapter needs, waits for those, and has it brought
   * there. What waits holds its file's bytes in host memory and no page that it could go without.
   */
  async #place(
    job: LoadJob,
    pages: AdapterPages,
    compile: () => Promise<NativeCompiledAdapter>,
  ): Promise<NativeCompiledAdapter> {
    const compiled = await compile();
    const { handle, runs } = compiled;
    await this.#inPages(job, runs, compiled, (where) => this.#options.backend.placeAdapter(handle, where));
    return { handle, runs, bytes: pages.bytesOf(runs) };
  }

  /**
   * Waits for the pages that an adapter needs and has it brought there. When that fails, they are given back, and with
   * them what was `compiled` for them.
   */
  async #inPages<T>(
    job: LoadJob,
    runs: readonly number[],
    compiled: NativeCompiledAdapter | null,
    bring: (pages: Int32Array) => Promise<T>,
  ): Promise<T> {
    const { backend, memory, pages } = this.#options;
    if (pages === null) throw new Error('there are no pages to bring an adapter to');
    let reserved = false;
    try {
      requireWanted(job);
      const where = await memory.reserve(job.key, pages.bytesOf(runs), job.ticket, runs);
      reserved = true;
      requireWanted(job);
      return await bring(Int32Array.from(where));
    } catch (thrown) {
      if (reserved) this.#giveBack(job.key, compiled);
      else if (compiled !== null) backend.releaseAdapter(compiled.handle);
      throw thrown;
    }
  }

  /** Runs the probe; an adapter that fails it gives its memory back. */
  async #prove(job: LoadJob, handle: number, file: string): Promise<AdapterProof | null> {
    try {
      requireWanted(job);
      return (await this.#options.prover?.prove(handle, file)) ?? null;
    } catch (thrown) {
      this.#giveBack(job.key, { handle });
      throw thrown;
    }
  }

  /** What was fetched is no longer what is on the disk. */
  async #damaged(source: AdapterSource, copy: LocalCopy): Promise<LoramuxError> {
    await this.#options.sources?.discard(copy.digest);
    return new LoramuxError(
      'ERR_ADAPTER_SOURCE',
      `${describeSource(source)}: the copy on the disk was damaged (expected digest ${copy.digest}) and is deleted: load the adapter again`,
    );
  }

  #giveBack(key: number, compiled: { handle: number } | null): void {
    if (compiled !== null) this.#options.backend.releaseAdapter(compiled.handle);
    this.#options.pages?.free(key);
    this.#options.residency.release(key);
    this.#options.memory.pump();
  }

  async #takeTurn({ key, ticket }: LoadJob): Promise<void> {
    if (this.#running < MAX_CONCURRENT_LOADS) {
      this.#running += 1;
      return;
    }
    const turn = deferred<void>();
    const after = this.#queue.findIndex((other) => other.ticket > ticket);
    this.#queue.splice(after < 0 ? this.#queue.length : after, 0, { key, ticket, turn });
    await turn.promise;
  }

  /** Hands the turn on; the count of running loads stays while somebody takes it over. */
  #endTurn(): void {
    const next = this.#queue.shift();
    if (next === undefined) this.#running -= 1;
    else next.turn.resolve();
  }
}

function aborted(): LoramuxError {
  return new LoramuxError('ERR_ABORTED', 'the load was given up: no request waits for this adapter any more');
}

/** ERR_ADAPTER_FORBIDDEN: this registry knows directories only. */
export function unreachable(source: AdapterSource): LoramuxError {
  return new LoramuxError(
    'ERR_ADAPTER_FORBIDDEN',
    `${describeSource(source)} cannot be fetched here: expected a directory inside the adapter folders`,
  );
}

function requireWanted(job: LoadJob): void {
  if (!job.isWanted()) throw aborted();
}
