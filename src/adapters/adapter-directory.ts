import { createHash, webcrypto } from 'node:crypto';
import { open, readdir, realpath, stat } from 'node:fs/promises';
import { join, resolve, sep } from 'node:path';
import type { TextFile } from '../core/adapter-text.js';
import { LoramuxError } from '../core/errors.js';
import { isAdapterName } from '../core/names.js';
import { MAX_CONFIG_BYTES } from './config.js';
import type { DigestedFile } from './digest.js';
import { invalidAdapter } from './offenders.js';

export const CONFIG_FILE = 'adapter_config.json';
export const WEIGHTS_FILE = 'adapter_model.safetensors';
export const PICKLE_FILE = 'adapter_model.bin';
export const MAX_TEXT_FILE_BYTES = 64 * 1024 * 1024;

/** Files of the text side that an adapter may ship; they are part of its identity. */
const TEXT_FILES = [
  'added_tokens.json',
  'chat_template.jinja',
  'chat_template.json',
  'merges.txt',
  'special_tokens_map.json',
  'tokenizer.json',
  'tokenizer.model',
  'tokenizer_config.json',
  'vocab.json',
] as const;

/** Every file that is read and counts for the digest; all else in a directory is left alone. */
export const ADAPTER_FILES: readonly string[] = [CONFIG_FILE, WEIGHTS_FILE, ...TEXT_FILES];

/** A checked adapter directory: real paths, all inside the allowed roots. */
export interface AdapterDirectory {
  readonly directory: string;
  readonly configPath: string;
  readonly weightsPath: string;
  readonly textPaths: readonly (readonly [name: string, path: string])[];
}

function isErrno(thrown: unknown, ...codes: string[]): boolean {
  return thrown instanceof Error && codes.includes((thrown as NodeJS.ErrnoException).code ?? '');
}

function sourceError(path: string, cause: unknown): LoramuxError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new LoramuxError(
    'ERR_ADAPTER_SOURCE',
    `could not read ${path}: ${reason}; check the disk and the permissions`,
    { file: path },
    { cause },
  );
}

/** The real path, or null when nothing is there. */
async function realPathOrNull(path: string): Promise<string | null> {
  try {
    return await realpath(path);
  } catch (thrown) {
    if (isErrno(thrown, 'ENOENT', 'ENOTDIR')) return null;
    throw sourceError(path, thrown);
  }
}

function isWithin(path: string, root: string): boolean {
  return path === root || path.startsWith(root.endsWith(sep) ? root : root + sep);
}

/** The folders that adapters may come from. Symbolic links are followed first and judged by where they lead. */
export class AdapterRoots {
  /** `scanned` roots hold one adapter per sub-folder; `allowed` ones may be named in admin loads only. */
  constructor(
    private readonly scanned: readonly string[],
    private readonly allowed: readonly string[] = [],
  ) {}

  /**
   * The real path of `path` (a directory, or a file of one) if it lies inside a root; null when it is inside and
   * missing. ERR_ADAPTER_FORBIDDEN outside of every root, whether it exists or not.
   */
  async resolve(path: string): Promise<string | null> {
    const wanted = resolve(path);
    const roots = [...this.scanned, ...this.allowed].map((root) => resolve(root));
    const real = await realPathOrNull(wanted);
    for (const root of roots) {
      const realRoot = await realPathOrNull(root);
      const inside =
        real === null
          ? isWithin(wanted, root) || (realRoot !== null && isWithin(wanted, realRoot))
          : realRoot !== null && isWithin(real, realRoot);
      if (inside) return real;
    }
    throw new LoramuxError(
      'ERR_ADAPTER_FORBIDDEN',
      `${path} leads outside of the adapter folders (${roots.join(', ') || 'none configured'}): move the adapter into one of them`,
      { file: path },
    );
  }

  /** Real path of the sub-folder of a scanned root called `name` if it has a configuration, or null. First root wins. */
  async find(name: string): Promise<string | null> {
    if (!isAdapterName(name) || name.includes('/')) return null;
    for (const root of this.scanned) {
      const directory = join(resolve(root), name);
      if (!(await this.#hasConfig(directory))) continue;
      const real = await this.resolve(directory);
      if (real !== null) return real;
    }
    return null;
  }

  /** Every adapter of the scanned roots by name; folders that lead outside are left out. */
  async scan(): Promise<Map<string, string>> {
    const found = new Map<string, string>();
    for (const root of this.scanned) {
      for (const name of (await this.#entries(root)).sort()) {
        if (found.has(name)) continue;
        const directory = await this.find(name).catch(() => null);
        if (directory !== null) found.set(name, directory);
      }
    }
    return found;
  }

  async #entries(root: string): Promise<string[]> {
    try {
      return await readdir(root);
    } catch (thrown) {
      if (isErrno(thrown, 'ENOENT', 'ENOTDIR')) return [];
      throw sourceError(root, thrown);
    }
  }

  async #hasConfig(directory: string): Promise<boolean> {
    try {
      return (await stat(join(directory, CONFIG_FILE))).isFile();
    } catch {
      return false;
    }
  }
}

/**
 * Finds the files of an adapter. Errors: ERR_ADAPTER_NOT_FOUND without the directory, ERR_ADAPTER_FORBIDDEN when it
 * or a file of it leads outside of the roots, ERR_ADAPTER_INVALID when a file is missing or the weights are a pickle.
 */
export async function openAdapterDirectory(path: string, roots: AdapterRoots): Promise<AdapterDirectory> {
  const directory = await roots.resolve(path);
  if (directory === null) {
    throw new LoramuxError(
      'ERR_ADAPTER_NOT_FOUND',
      `expected an adapter directory at ${path}, found nothing: check the path`,
      { file: path },
    );
  }
  const fileAt = (name: string): Promise<string | null> => roots.resolve(join(directory, name));
  const configPath = await fileAt(CONFIG_FILE);
  if (configPath === null) {
    throw invalidAdapter(directory, [
      { key: CONFIG_FILE, expected: 'the configuration that PEFT saves beside the weights', found: 'no such file' },
    ]);
  }
  const weightsPath = await fileAt(WEIGHTS_FILE);
  if (weightsPath === null) throw await missingWeights(directory, fileAt);
  const present = new Set(await readdir(directory));
  const textPaths: [string, string][] = [];
  for (const name of TEXT_FILES) {
    const found = present.has(name) ? await fileAt(name) : null;
    if (found !== null) textPaths.push([name, found]);
  }
  return { directory, configPath, weightsPath, textPaths };
}

async function missingWeights(
  directory: string,
  fileAt: (name: string) => Promise<string | null>,
): Promise<LoramuxError> {
  if ((await fileAt(PICKLE_FILE)) === null) {
    return invalidAdapter(directory, [
      { key: WEIGHTS_FILE, expected: 'the weights in one safetensors file', found: 'no such file' },
    ]);
  }
  return pickleRefusal(directory);
}

/** ERR_ADAPTER_INVALID for a place whose only weights are a pickle, with the command that converts them. */
export function pickleRefusal(place: string): LoramuxError {
  const convert =
    `python -c "import torch; from safetensors.torch import save_file; ` +
    `save_file({k: v.contiguous() for k, v in torch.load('${PICKLE_FILE}', weights_only=True).items()}, '${WEIGHTS_FILE}')"`;
  return invalidAdapter(
    place,
    [
      {
        key: WEIGHTS_FILE,
        expected: 'safetensors weights',
        found: `${PICKLE_FILE}, a pickle, which is never opened here`,
      },
    ],
    `Convert it inside the directory with: ${convert}`,
  );
}

/** Reads a small file, refusing one of more than `maxBytes` before it is read. */
async function readBounded(path: string, maxBytes: number): Promise<Buffer<ArrayBuffer>> {
  try {
    const handle = await open(path, 'r');
    try {
      const { size } = await handle.stat();
      if (size > maxBytes) throw invalidAdapter(path, [{ expected: `at most ${maxBytes} bytes`, found: `${size}` }]);
      const buffer = Buffer.alloc(size);
      let filled = 0;
      while (filled < size) {
        const { bytesRead } = await handle.read(buffer, filled, size - filled, filled);
        if (bytesRead === 0) break;
        filled += bytesRead;
      }
      return buffer.subarray(0, filled);
    } finally {
      await handle.close();
    }
  } catch (thrown) {
    throw thrown instanceof LoramuxError ? thrown : sourceError(path, thrown);
  }
}

/** The bytes of the configuration with their place in the digest. */
export async function readConfigFile(files: AdapterDirectory): Promise<{ bytes: Buffer; digested: DigestedFile }> {
  const bytes = await readBounded(files.configPath, MAX_CONFIG_BYTES);
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  return { bytes, digested: { path: CONFIG_FILE, bytes: bytes.byteLength, sha256 } };
}

/** Reads and hashes the text files of an adapter on the thread pool: a tokenizer of some megabytes must not delay a step. */
export async function readTextFiles(files: AdapterDirectory): Promise<TextFile[]> {
  const read: TextFile[] = [];
  for (const [path, real] of files.textPaths) {
    const content = await readBounded(real, MAX_TEXT_FILE_BYTES);
    const sha256 = Buffer.from(await webcrypto.subtle.digest('SHA-256', content)).toString('hex');
    read.push({ path, bytes: content.byteLength, sha256, content });
  }
  return read;
}

/** Changes whenever a file that counts was written anew or replaced; missing files count too. */
export async function stampOf(directory: string): Promise<string> {
  return (await stamped(directory)).stamp;
}

/** `stampOf` the directory, and when the youngest of its files changed last, in milliseconds since the epoch. */
export async function stamped(directory: string): Promise<{ stamp: string; changedMs: number }> {
  let changedMs = 0;
  const stamps = [...ADAPTER_FILES, PICKLE_FILE].map(async (name) => {
    try {
      const { ino, mtimeMs, ctimeMs, size } = await stat(join(directory, name));
      changedMs = Math.max(changedMs, mtimeMs, ctimeMs);
      return `${ino}:${mtimeMs}:${ctimeMs}:${size}`;
    } catch {
      return '-';
    }
  });
  return { stamp: (await Promise.all(stamps)).join(' '), changedMs };
}
