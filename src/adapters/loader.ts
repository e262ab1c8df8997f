import type { AdapterProof, AdapterState } from '../core/adapter.js';
import {
  type AdapterSource,
  describeSource,
  type FetchProgress,
  type FileSource,
  type MergeSource,
  type RemoteSource,
} from '../core/adapter-source.js';
import { type AdapterText, textBytes } from '../core/adapter-text.js';
import { LoramuxError } from '../core/errors.js';
import type { NativeAdapterPlan, NativeBinding, NativeCompiledAdapter, NativeEngine } from '../engine/binding.js';
import { AdapterRoots } from './adapter-directory.js';
import type { AdapterPages } from './adapter-pages.js';
import { mergeAdapters } from './composition/merge-adapters.js';
import { type Deferred, deferred } from './deferred.js';
import type { MemoryQueue } from './memory-queue.js';
import type { AdapterPlan, BaseModel } from './plan.js';
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
  /** Null where nothing can run a probe. */
  readonly prover: AdapterProver | null;
  /** Null = text is handled as the base handles it, whatever an adapter ships. */
  readonly texts: TextReader | null;
  /** Longest safetensors file that is opened. */
  readonly maxFileBytes: number;
}

/** One load as the loader sees it. */
export interface LoadJob {
  /** Of the version being made: names its reservation. */
  readonly key: number;
  /** Order among loads. */
  readonly ticket: number;
  readonly source: AdapterSource;
  /** Ask a remote source whether it has moved on, also when there is a copy. */
  readonly refresh: boolean;
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
      readonly digest: string;
      readonly handle: number;
      readonly bytes: number;
      readonly plan: AdapterPlan;
      readonly text: AdapterText | null;
      readonly baseModel: string | null;
      readonly proof: AdapterProof | null;
      readonly warnings: readonly string[];
    };

/** Loads at a time: each holds a whole adapter file in memory beside the budget. */
const MAX_CONCURRENT_LOADS = 2;

/** Reads, checks, plans and compiles adapters, a few at a time in order of arrival; nothing of it blocks the thread. */
export class AdapterLoader {
  readonly #options: LoaderOptions;
  readonly #queue: { readonly key: number; readonly turn: Deferred<void> }[] = [];
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
      for (const source of sourcesOf(job.source))
        copies.push(source.type === 'dir' ? null : await this.#fetch(job, source));
      await this.#takeTurn(job.key);
      try {
        return await this.#load(job, copies);
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
    let compiled: { handle: number; bytes: number };
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
    const warnings = [...adapter.warnings];
    const proof = job.proofOf(digest) ?? (await this.#prove(job, compiled.handle, file));
    if (proof?.maxLogitDelta === 0) {
      warnings.push(
        `moves no logit of the probe prompt, though all ${plan.moduleCounts.applied} modules are applied: its weights add nothing there`,
      );
    }
    return { kind: 'compiled', digest, ...compiled, plan, text, baseModel, proof, warnings };
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
    compile: () => Promise<{ handle: number; bytes: number }>,
  ): Promise<{ handle: number; bytes: number }> {
    const { memory } = this.#options;
    for (let needed = estimate + beside; ; ) {
      await memory.reserve(job.key, needed, job.ticket);
      let compiled: { handle: number; bytes: number } | null = null;
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
  ): Promise<{ handle: number; bytes: number }> {
    const { backend, memory } = this.#options;
    const { handle, runs } = await compile();
    const bytes = pages.bytesOf(runs);
    let where: readonly number[] | null = null;
    try {
      requireWanted(job);
      where = await memory.reserve(job.key, bytes, job.ticket, runs);
      requireWanted(job);
      await backend.placeAdapter(handle, Int32Array.from(where));
    } catch (thrown) {
      if (where === null) backend.releaseAdapter(handle);
      else this.#giveBack(job.key, { handle });
      throw thrown;
    }
    return { handle, bytes };
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

  async #takeTurn(key: number): Promise<void> {
    if (this.#running < MAX_CONCURRENT_LOADS) {
      this.#running += 1;
      return;
    }
    const turn = deferred<void>();
    this.#queue.push({ key, turn });
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

/** The sources whose files a source is made of. */
function sourcesOf(source: AdapterSource): readonly FileSource[] {
  return source.type === 'merge' ? source.members.map((member) => member.source) : [source];
}
