import type { AdapterProof, AdapterState } from '../core/adapter.js';
import { type AdapterSource, describeSource, type FetchProgress } from '../core/adapter-source.js';
import { LoramuxError, toLoramuxError } from '../core/errors.js';
import type { NativeBinding, NativeEngine } from '../engine/binding.js';
import {
  AdapterRoots,
  hashTextFiles,
  openAdapterDirectory,
  readConfigFile,
  WEIGHTS_FILE,
} from './adapter-directory.js';
import { parseAdapterConfig } from './config.js';
import { type Deferred, deferred } from './deferred.js';
import { adapterDigest } from './digest.js';
import type { MemoryQueue } from './memory-queue.js';
import { type AdapterPlan, type BaseModel, planAdapter } from './plan.js';
import type { AdapterProver } from './proof.js';
import type { Residency } from './residency.js';
import type { LocalCopy, RemoteSources } from './sources/remote-sources.js';

/** What loading needs of the native side. */
export type AdapterBackend = Pick<NativeBinding, 'openAdapterFile' | 'firstMatches'> &
  Pick<NativeEngine, 'compileAdapter' | 'releaseAdapter'>;

export interface LoaderOptions {
  readonly backend: AdapterBackend;
  readonly base: BaseModel;
  readonly roots: AdapterRoots;
  /** Null where adapters come from directories only. */
  readonly sources: RemoteSources | null;
  readonly residency: Residency;
  readonly memory: MemoryQueue;
  /** Null where nothing can run a probe. */
  readonly prover: AdapterProver | null;
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
    const copy = job.source.type === 'dir' ? null : await this.#fetch(job);
    try {
      await this.#takeTurn(job.key);
      try {
        return await this.#load(job, copy);
      } finally {
        this.#endTurn();
      }
    } finally {
      copy?.release();
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

  async #fetch(job: LoadJob): Promise<LocalCopy> {
    const { sources } = this.#options;
    if (job.source.type === 'dir' || sources === null) throw unreachable(job.source);
    requireWanted(job);
    const controller = new AbortController();
    this.#fetches.set(job.key, controller);
    job.onState('fetching');
    try {
      const { refresh, onProgress } = job;
      return await sources.open(job.source, { refresh, onProgress, signal: controller.signal });
    } finally {
      this.#fetches.delete(job.key);
    }
  }

  async #load(job: LoadJob, copy: LocalCopy | null): Promise<LoadOutcome> {
    const { backend, base, maxFileBytes } = this.#options;
    requireWanted(job);
    job.onState('fetching');
    const roots = copy === null ? this.#options.roots : new AdapterRoots([], [copy.root]);
    const files = await openAdapterDirectory(copy?.directory ?? job.source.location, roots);
    const { bytes, digested } = await readConfigFile(files);
    const config = parseAdapterConfig(bytes, files.configPath);
    const weights = await naming(files.weightsPath, backend.openAdapterFile(files.weightsPath, maxFileBytes));
    const textFiles = await hashTextFiles(files);
    const digest = adapterDigest([
      digested,
      { path: WEIGHTS_FILE, bytes: weights.bytes, sha256: weights.sha256 },
      ...textFiles,
    ]);
    if (copy !== null && copy.digest !== digest) throw await this.#damaged(job.source, copy);
    job.onState('validating');
    const plan = await planAdapter({
      file: files.weightsPath,
      configFile: files.configPath,
      tensors: weights.tensors,
      config,
      base,
      firstMatches: (patterns, names) => backend.firstMatches(patterns, names),
    });
    requireWanted(job);
    if (job.accept(digest) === 'unchanged') return { kind: 'unchanged', digest };
    const warnings = [...plan.warnings];
    if (textFiles.length > 0) {
      const names = textFiles.map((file) => file.path).join(', ');
      warnings.push(
        `ships ${names}: they are part of its digest, but text is handled with the files of the base model`,
      );
    }
    const compiled = await this.#compile(job, plan, () =>
      naming(files.weightsPath, backend.compileAdapter(weights, [...plan.modules], plan.extras)),
    );
    const proof = job.proofOf(digest) ?? (await this.#prove(job, compiled.handle, files.weightsPath));
    if (proof?.maxLogitDelta === 0) {
      warnings.push(
        `moves no logit of the probe prompt, though all ${plan.moduleCounts.applied} modules are applied: its weights add nothing there`,
      );
    }
    return { kind: 'compiled', digest, ...compiled, plan, baseModel: config.baseModel, proof, warnings };
  }

  /**
   * Compiles within a reservation. The estimate may fall short of what the native side takes; then the adapter gives
   * everything back and waits again for the true size, because waiting with memory in hand could block for ever.
   */
  async #compile(
    job: LoadJob,
    plan: AdapterPlan,
    compile: () => Promise<{ handle: number; bytes: number }>,
  ): Promise<{ handle: number; bytes: number }> {
    const { memory } = this.#options;
    for (let needed = plan.bytes; ; ) {
      await memory.reserve(job.key, needed, job.ticket);
      let compiled: { handle: number; bytes: number } | null = null;
      try {
        requireWanted(job);
        compiled = await compile();
        if (memory.resize(job.key, Math.max(1, compiled.bytes))) return compiled;
        needed = compiled.bytes;
      } catch (thrown) {
        this.#giveBack(job.key, compiled);
        throw thrown;
      }
      this.#giveBack(job.key, compiled);
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

/** Gives a native refusal of a file the details that refusals made here have. */
async function naming<T>(file: string, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (thrown) {
    const error = toLoramuxError(thrown);
    if (error.code !== 'ERR_ADAPTER_INVALID' || error.details !== undefined) throw error;
    const message = error.message.includes(file) ? error.message : `${file}: ${error.message}`;
    const tensor = /\btensor (\S+): /.exec(error.message)?.[1];
    const expected = 'a well-formed safetensors file with finite values';
    const offenders = [{ ...(tensor === undefined ? {} : { tensor }), expected, found: error.message }];
    throw new LoramuxError(error.code, message, { file, offenders }, { cause: thrown });
  }
}
