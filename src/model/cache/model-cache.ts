import { randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { LoramuxError } from '../../core/errors.js';
import type { CachedModel, CacheFile, ModelManifest } from '../../core/model-manifest.js';

/** Changes whenever the same source would convert to different files. */
export const FORMAT_VERSION = 7;

export const GRAPH_FILE = 'model.onnx';
export const WEIGHTS_FILE = 'weights.bin';
export const TOKENIZER_FILE = 'tokenizer.json';
const MANIFEST_FILE = 'manifest.json';
const MANIFEST_CHECKSUM_FILE = 'manifest.json.crc32';
const STALE_AFTER_MS = 24 * 3600 * 1000;

/** CRC-32 of a whole file as 8 lower-case hex digits. */
export type ChecksumFile = (path: string) => Promise<string>;

/** The manifest without what the cache itself finds out. */
export type ManifestDraft = Omit<ModelManifest, 'formatVersion' | 'digest' | 'graph' | 'weights' | 'tokenizer'>;

/** Prepared models on disk: one directory `<cacheDir>/models/<digest>` each, complete or absent. */
export class ModelCache {
  readonly #directory: string;
  readonly #checksum: ChecksumFile;

  constructor(cacheDir: string, checksum: ChecksumFile) {
    this.#directory = join(cacheDir, 'models');
    this.#checksum = checksum;
  }

  /** Whether there is an entry, sound or not. */
  async has(digest: string): Promise<boolean> {
    return exists(join(this.#directory, digest));
  }

  /**
   * The entry, with the size and checksum of every file compared against its manifest; undefined when there is none.
   * ERR_CACHE_CORRUPT names the file, what was expected and what to delete: a damaged entry is never used or replaced
   * silently, since the disk may be failing.
   */
  async open(digest: string): Promise<CachedModel | undefined> {
    const directory = join(this.#directory, digest);
    if (!(await exists(directory))) return undefined;
    const manifest = await this.#readManifest(directory, digest);
    await Promise.all(
      [manifest.graph, manifest.weights, manifest.tokenizer].map((file) => this.#verify(directory, file)),
    );
    return { directory, manifest };
  }

  /**
   * Writes a new entry: `fill` puts graph, weights and tokenizer into a temporary sibling directory, which then takes
   * its name in one rename. When another process was faster, its entry is used and this one dropped.
   */
  async create(digest: string, fill: (directory: string) => Promise<ManifestDraft>): Promise<CachedModel> {
    await mkdir(this.#directory, { recursive: true });
    await this.#removeStale();
    const temporary = join(this.#directory, `.${digest}.${randomUUID()}.tmp`);
    await mkdir(temporary);
    try {
      const draft = await fill(temporary);
      const [graph, weights, tokenizer] = await Promise.all([
        this.#describe(temporary, GRAPH_FILE),
        this.#describe(temporary, WEIGHTS_FILE),
        this.#describe(temporary, TOKENIZER_FILE),
      ]);
      const manifest: ModelManifest = { formatVersion: FORMAT_VERSION, digest, ...draft, graph, weights, tokenizer };
      await writeFile(join(temporary, MANIFEST_FILE), `${JSON.stringify(manifest, null, 1)}\n`);
      await writeFile(join(temporary, MANIFEST_CHECKSUM_FILE), await this.#checksum(join(temporary, MANIFEST_FILE)));
      const directory = join(this.#directory, digest);
      if (await renameUnlessTaken(temporary, directory)) return { directory, manifest };
    } finally {
      await rm(temporary, { recursive: true, force: true });
    }
    const winner = await this.open(digest);
    if (winner === undefined)
      throw corrupt(join(this.#directory, digest), 'an entry written by another process', 'nothing');
    return winner;
  }

  async #readManifest(directory: string, digest: string): Promise<ModelManifest> {
    const path = join(directory, MANIFEST_FILE);
    let text: string;
    let expected: string;
    try {
      text = await readFile(path, 'utf8');
      expected = (await readFile(join(directory, MANIFEST_CHECKSUM_FILE), 'utf8')).trim();
    } catch (error) {
      throw corrupt(directory, `${MANIFEST_FILE} and its checksum`, (error as Error).message);
    }
    const found = await this.#checksum(path);
    if (found !== expected) throw corrupt(directory, `${MANIFEST_FILE} with CRC-32 ${expected}`, found);
    const manifest = JSON.parse(text) as ModelManifest;
    if (manifest.digest !== digest) throw corrupt(directory, `the manifest of ${digest}`, `that of ${manifest.digest}`);
    return manifest;
  }

  async #verify(directory: string, expected: CacheFile): Promise<void> {
    const path = join(directory, expected.file);
    const bytes = (await exists(path)) ? (await stat(path)).size : undefined;
    if (bytes !== expected.bytes)
      throw corrupt(
        directory,
        `${expected.file} of ${expected.bytes} bytes`,
        bytes === undefined ? 'no such file' : `${bytes} bytes`,
      );
    const crc32 = await this.#checksum(path);
    if (crc32 !== expected.crc32) throw corrupt(directory, `${expected.file} with CRC-32 ${expected.crc32}`, crc32);
  }

  async #describe(directory: string, file: string): Promise<CacheFile> {
    const path = join(directory, file);
    return { file, bytes: (await stat(path)).size, crc32: await this.#checksum(path) };
  }

  /** Drops what a killed conversion left a day or more ago. */
  async #removeStale(): Promise<void> {
    for (const name of await readdir(this.#directory)) {
      if (!name.endsWith('.tmp')) continue;
      const path = join(this.#directory, name);
      const stats = await stat(path).catch(() => undefined);
      if (stats !== undefined && Date.now() - stats.mtimeMs > STALE_AFTER_MS)
        await rm(path, { recursive: true, force: true });
    }
  }
}

function corrupt(directory: string, expected: string, found: string): LoramuxError {
  return new LoramuxError(
    'ERR_CACHE_CORRUPT',
    `model cache ${directory}: expected ${expected}, found ${found}; delete that directory and start again to convert the model anew`,
    { file: directory },
  );
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

async function renameUnlessTaken(from: string, to: string): Promise<boolean> {
  try {
    await rename(from, to);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // POSIX says either of the first two for a directory that is not empty; Windows says the third.
    if (code === 'ENOTEMPTY' || code === 'EEXIST' || (code === 'EPERM' && (await exists(to)))) return false;
    throw error;
  }
}
