import { basename, resolve } from 'node:path';
import { LoramuxError } from '../core/errors.js';
import type { CachedModel, Precision, PreparedModel } from '../core/model-manifest.js';
import { type ChecksumFile, FORMAT_VERSION, ModelCache } from './cache/model-cache.js';
import { entryDigest, fileDigest } from './cache/source-digest.js';
import {
  choosePrecision,
  type DeviceKind,
  type Machine,
  type PrecisionChoice,
  requirePrecision,
} from './choose-precision.js';
import { convertModel, type Storage } from './convert.js';
import type { HubOptions } from './fetch/hub-repository.js';
import { locateModel, type ModelLocation } from './locate-model.js';
import type { ProgressReport } from './progress.js';

export interface PrepareModelOptions {
  /** `demo`, a Hugging Face directory, a .gguf file, or a hub id `org/name[@revision]`. */
  readonly model: string;
  /** What base weights are stored as; `auto`: as `choosePrecision` decides. */
  readonly precision: Precision | 'auto';
  /** Holds downloads, digests and converted models; created when absent. Processes may share it. */
  readonly cacheDir: string;
  readonly checksumFile: ChecksumFile;
  readonly onProgress: ProgressReport;
  readonly hub?: HubOptions;
  /** What will run it; `cpu` when not given. */
  readonly device?: DeviceKind;
  /** Memory this process may use, in bytes; for `auto`. */
  readonly memoryBytes: number;
  /** The addon's kernel set, for `auto`; vector kernels when not given. */
  readonly instructionSet?: string;
}

/**
 * Finds a model, converts it on first use, and returns its checked cache entry. A warm start reads no source weights:
 * it costs one checksum pass over the entry.
 *
 * ERR_MODEL_NOT_FOUND, ERR_MODEL_INVALID and ERR_MODEL_UNSUPPORTED name file and field; ERR_CACHE_CORRUPT names the
 * entry to delete; ERR_TOOL_MISSING what to install; ERR_CONFIG a disk that is full or may not be
 * written.
 */
export async function prepareModel(options: PrepareModelOptions): Promise<PreparedModel> {
  try {
    return await prepare(options);
  } catch (error) {
    if (error instanceof LoramuxError || !isSystemError(error)) throw error;
    throw new LoramuxError(
      'ERR_CONFIG',
      `preparing ${options.model} with --cache-dir ${options.cacheDir}: ${error.message}: check permissions and free space, or choose another --cache-dir`,
      undefined,
      { cause: error },
    );
  }
}

async function prepare(options: PrepareModelOptions): Promise<PreparedModel> {
  const { onProgress } = options;
  const cacheDir = resolve(options.cacheDir);
  const location = await locateModel(options.model, cacheDir, onProgress, options.hub ?? {});
  const { precision, reason } = await precisionOf(location, options.precision, options);
  const files = await Promise.all(
    location.files.map(async (path) => ({ name: basename(path), sha256: await fileDigest(path, cacheDir) })),
  );
  // A GGUF file may be renamed freely; the files of a directory are told apart by their names.
  const named = location.kind === 'gguf' ? files.map(({ sha256 }) => ({ name: 'gguf', sha256 })) : files;
  const storage: Storage = { precision, order: options.device === 'cuda' ? 'rows' : 'panels' };
  const digest = entryDigest(FORMAT_VERSION, `${precision} ${storage.order}`, named);

  const cache = new ModelCache(cacheDir, options.checksumFile);
  if (await cache.has(digest)) onProgress({ phase: 'verify', label: location.modelId, done: 0, total: 0 });
  const prepared = (await cache.open(digest)) ?? (await convert(cache, digest, location, storage, onProgress));
  // The entry may have been made from the same bytes under another name.
  return { ...prepared, manifest: { ...prepared.manifest, modelId: location.modelId }, precisionReason: reason };
}

async function convert(
  cache: ModelCache,
  digest: string,
  location: ModelLocation,
  storage: Storage,
  onProgress: ProgressReport,
): Promise<CachedModel> {
  const source = await location.open();
  try {
    return await cache.create(digest, (directory) =>
      convertModel(source, location.modelId, storage, directory, onProgress),
    );
  } finally {
    await source.close();
  }
}

async function precisionOf(
  location: ModelLocation,
  wanted: Precision | 'auto',
  machine: Machine,
): Promise<PrecisionChoice> {
  if (wanted !== 'auto') {
    requirePrecision(wanted, machine.device ?? 'cpu');
    return { precision: wanted, reason: 'as configured' };
  }
  const source = await location.open();
  try {
    return choosePrecision(source, machine);
  } finally {
    await source.close();
  }
}

/** Errors of the operating system carry the call that failed. */
function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && 'syscall' in error;
}
