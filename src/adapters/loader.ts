import type { AdapterState } from '../core/adapter.js';
import { LoramuxError, toLoramuxError } from '../core/errors.js';
import type { NativeBinding, NativeEngine } from '../engine/binding.js';
import {
  type AdapterRoots,
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
import type { Residency } from './residency.js';

/** What loading needs of the native side. */
export type AdapterBackend = Pick<NativeBinding, 'openAdapterFile' | 'firstMatches'> &
  Pick<NativeEngine, 'compileAdapter' | 'releaseAdapter'>;

export interface LoaderOptions {
  readonly backend: AdapterBackend;
  readonly base: BaseModel;
  readonly roots: AdapterRoots;
  readonly residency: Residency;
  readonly memory: MemoryQueue;
  /** Longest safetensors file that is opened. */
  readonly maxFileBytes: number;
}

/** One load as the loader sees it. */
export interface LoadJob {
  /** Of the version being made: names its reservation. */
  readonly key: number;
  /** Order among loads. */
  readonly ticket: number;
  readonly directory: string;
  readonly onState: (state: AdapterState) => void;
  /** Asked before each costly stage; false ends the load with ERR_ABORTED. */
  readonly isWanted: () => boolean;
  /** Told the digest before memory is taken; `unchanged` ends the load well, throwing refuses it. */
  readonly accept: (digest: string) => 'load' | 'unchanged';
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
      readonly warnings: readonly string[];
    };

/** Loads at a time: each holds a whole adapter file in memory beside the budget. */
const MAX_CONCURRENT_LOADS = 2;

/** Reads, checks, plans and compiles adapters, a few at a time in order of arrival; nothing of it blocks the thread. */
export class AdapterLoader {
  readonly #options: LoaderOptions;
  readonly #queue: { readonly key: number; readonly turn: Deferred<void> }[] = [];
  #running = 0;

  constructor(options: LoaderOptions) {
    this.#options = options;
  }

  /**
   * Carries one load to a compiled adapter. Errors: those of the directory, configuration and plan; ERR_ADAPTER_NO_SPACE;
   * ERR_ABORTED when nobody wants it any more; whatever the native side reports. A failed load leaves no bytes behind.
   */
  async load(job: LoadJob): Promise<LoadOutcome> {
    job.onState('queued');
    await this.#takeTurn(job.key);
    try {
      return await this.#load(job);
    } finally {
      this.#endTurn();
    }
  }

  /** Takes a load that waits for its turn or for memory out with ERR_ABORTED; false when it is doing anything else. */
  cancel(key: number): boolean {
    const at = this.#queue.findIndex((waiting) => waiting.key === key);
    if (at < 0) return this.#options.memory.cancel(key, aborted());
    const [waiting] = this.#queue.splice(at, 1);
    waiting?.turn.reject(aborted());
    return true;
  }

  async #load(job: LoadJob): Promise<LoadOutcome> {
    const { backend, base, roots, maxFileBytes } = this.#options;
    requireWanted(job);
    job.onState('fetching');
    const files = await openAdapterDirectory(job.directory, roots);
    const { bytes, digested } = await readConfigFile(files);
    const config = parseAdapterConfig(bytes, files.configPath);
    const weights = await naming(files.weightsPath, backend.openAdapterFile(files.weightsPath, maxFileBytes));
    const textFiles = await hashTextFiles(files);
    const digest = adapterDigest([
      digested,
      { path: WEIGHTS_FILE, bytes: weights.bytes, sha256: weights.sha256 },
      ...textFiles,
    ]);
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
      naming(files.weightsPath, backend.compileAdapter(weights, [...plan.modules])),
    );
    return { kind: 'compiled', digest, ...compiled, plan, baseModel: config.baseModel, warnings };
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
