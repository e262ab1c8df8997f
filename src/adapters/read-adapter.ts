import type { AdapterText } from '../core/adapter-text.js';
import { LoramuxError, toLoramuxError } from '../core/errors.js';
import type { NativeAdapterFile } from '../engine/binding.js';
import {
  type AdapterDirectory,
  type AdapterRoots,
  openAdapterDirectory,
  readConfigFile,
  readTextFiles,
  WEIGHTS_FILE,
} from './adapter-directory.js';
import { type AdapterConfig, parseAdapterConfig } from './config.js';
import { adapterDigest, type DigestedFile } from './digest.js';
import type { AdapterBackend } from './loader.js';
import { type AdapterPlan, type BaseModel, planAdapter } from './plan.js';
import type { TextReader } from './text/text-cache.js';

/** An adapter that is ready to be compiled: its weights in memory, and all that was decided about them. */
export interface CheckedAdapter {
  readonly digest: string;
  /** Where the weights come from, for messages. */
  readonly file: string;
  readonly weights: NativeAdapterFile;
  readonly config: AdapterConfig;
  readonly plan: AdapterPlan;
  /** Null = text is handled as the base handles it. */
  readonly text: AdapterText | null;
  readonly baseModel: string | null;
  readonly warnings: readonly string[];
}

export interface ReadOptions {
  readonly backend: AdapterBackend;
  readonly base: BaseModel;
  /** Null = text is handled as the base handles it, whatever an adapter ships. */
  readonly texts: TextReader | null;
  /** Longest safetensors file that is opened. */
  readonly maxFileBytes: number;
}

/**
 * Reads the adapter in `directory` and decides how it is applied. `onRead` is told the digest before anything is
 * planned and may refuse it. The caller closes the weights. Errors: those of the directory, configuration and plan; what `onRead` throws.
 */
export async function readAdapter(
  directory: string,
  roots: AdapterRoots,
  { backend, base, texts, maxFileBytes }: ReadOptions,
  onRead: (digest: string) => Promise<void>,
): Promise<CheckedAdapter> {
  const files = await openAdapterDirectory(directory, roots);
  const { bytes, digested } = await readConfigFile(files);
  const config = parseAdapterConfig(bytes, files.configPath);
  const weights = await naming(files.weightsPath, backend.openAdapterFile(files.weightsPath, maxFileBytes));
  try {
    return await checkAdapter(files, digested, config, weights, { backend, base, texts }, onRead);
  } catch (thrown) {
    weights.close();
    throw thrown;
  }
}

async function checkAdapter(
  files: AdapterDirectory,
  digested: DigestedFile,
  config: AdapterConfig,
  weights: NativeAdapterFile,
  { backend, base, texts }: Pick<ReadOptions, 'backend' | 'base' | 'texts'>,
  onRead: (digest: string) => Promise<void>,
): Promise<CheckedAdapter> {
  const textFiles = await readTextFiles(files);
  const digest = adapterDigest([
    digested,
    { path: WEIGHTS_FILE, bytes: weights.bytes, sha256: weights.sha256 },
    ...textFiles,
  ]);
  await onRead(digest);
  const plan = await planAdapter({
    file: files.weightsPath,
    configFile: files.configPath,
    tensors: weights.tensors,
    config,
    base,
    firstMatches: (patterns, names) => backend.firstMatches(patterns, names),
  });
  const read = textFiles.length === 0 ? null : ((await texts?.read(files.directory, textFiles)) ?? null);
  const warnings = [...plan.warnings, ...(read?.warnings ?? [])];
  const { weightsPath: file } = files;
  return { digest, file, weights, config, plan, text: read?.text ?? null, baseModel: config.baseModel, warnings };
}

/** Gives a native refusal of a file the details that refusals made here have. */
export async function naming<T>(file: string, work: Promise<T>): Promise<T> {
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
