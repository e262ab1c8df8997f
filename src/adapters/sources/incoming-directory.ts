import { createHash } from 'node:crypto';
import { type FileHandle, link, mkdir, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { FetchedFile, FetchLimits, PreviousFetch } from '../../core/adapter-fetch.js';
import { LoramuxError } from '../../core/errors.js';
import { ADAPTER_FILES, CONFIG_FILE, PICKLE_FILE, pickleRefusal, WEIGHTS_FILE } from '../adapter-directory.js';
import { noAdapterAt, tooLarge } from './fetch-errors.js';
import { maxFileBytes } from './fetch-limits.js';

/** Headers and padding of an archive, which no file's length counts. */
export const ARCHIVE_OVERHEAD = 16 * 2 ** 20;

/** Takes the bytes of one file or archive in order. */
export interface ByteSink {
  write(chunk: Uint8Array): Promise<void>;
  /** All bytes came. */
  end(validator: string | null): Promise<void>;
  /** Forgets everything that was written. */
  discard(): Promise<void>;
}

function diskError(label: string, cause: unknown): LoramuxError {
  const { code, message } = cause as NodeJS.ErrnoException;
  return code === 'ENOSPC' || code === 'EDQUOT'
    ? new LoramuxError('ERR_ADAPTER_NO_SPACE', `${label}: the disk of --cache-dir is full: free some of it`)
    : new LoramuxError('ERR_ADAPTER_SOURCE', `${label} could not be stored: ${message}`, undefined, { cause });
}

/** A directory that fills with the files of one adapter, each counted and hashed on its way to the disk. */
export class IncomingDirectory {
  readonly #files = new Map<string, FetchedFile>();
  #bytes = 0;

  /** `label` names the source in errors. */
  constructor(
    readonly path: string,
    readonly label: string,
    readonly limits: FetchLimits,
    readonly previous: PreviousFetch | null = null,
  ) {}

  async create(): Promise<void> {
    await mkdir(this.path, { recursive: true, mode: 0o700 });
  }

  get files(): readonly FetchedFile[] {
    return [...this.#files.values()];
  }

  has(name: string): boolean {
    return this.#files.has(name);
  }

  /** Bytes of all files so far, unfinished ones included. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Notes `bytes` that passed by, whether they are kept or not. ERR_ADAPTER_TOO_LARGE over the cap. */
  count(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes > this.limits.maxBytes) throw tooLarge(this.label, this.limits.maxBytes);
  }

  /** Takes back what `count` noted, for bytes that will come again. */
  uncount(bytes: number): void {
    this.#bytes -= bytes;
  }

  /** ERR_ADAPTER_TOO_LARGE when a file whose length is announced can never be taken. */
  announce(name: string, bytes: number): void {
    const max = maxFileBytes(name, this.limits);
    if (ADAPTER_FILES.includes(name) && bytes > max) throw tooLarge(`${this.label}/${name}`, max);
    if (this.#bytes + bytes > this.limits.maxBytes + ARCHIVE_OVERHEAD) throw tooLarge(this.label, this.limits.maxBytes);
  }

  /** A sink for the file called `name`, one of ADAPTER_FILES and not there yet. */
  async file(name: string): Promise<ByteSink> {
    const path = join(this.path, name);
    try {
      const handle = await open(path, 'wx', 0o600);
      return new FileSink(this, name, path, handle);
    } catch (thrown) {
      throw diskError(this.label, thrown);
    }
  }

  /** Takes over a file of the previous fetch if `validator` still names it; false when it must be fetched. */
  async reuse(name: string, validator: string | null): Promise<boolean> {
    const known = this.previous?.files.find((file) => file.path === name);
    if (this.previous === null || known === undefined || validator === null || known.validator !== validator)
      return false;
    try {
      await link(join(this.previous.directory, name), join(this.path, name));
    } catch {
      return false;
    }
    this.add(known);
    this.count(known.bytes);
    return true;
  }

  add(file: FetchedFile): void {
    this.#files.set(file.path, file);
  }

  remove(name: string): void {
    this.#files.delete(name);
  }

  /** Marks all files as those of an archive that `validator` names. */
  setValidator(validator: string | null): void {
    for (const file of this.files) this.add({ ...file, validator });
  }

  /** Checks that an adapter has come. ERR_ADAPTER_INVALID for a pickle, else ERR_ADAPTER_NOT_FOUND. */
  requireComplete(hasPickle: boolean): void {
    if (!this.has(WEIGHTS_FILE)) {
      throw hasPickle ? pickleRefusal(`${this.label}/${PICKLE_FILE}`) : noAdapterAt(this.label, WEIGHTS_FILE);
    }
    if (!this.has(CONFIG_FILE)) throw noAdapterAt(this.label, CONFIG_FILE);
  }

  /** Takes over all files of the previous fetch, an archive that `validator` still names; false when it must come. */
  async reuseAll(validator: string | null): Promise<boolean> {
    for (const { path } of this.previous?.files ?? []) {
      if (await this.reuse(path, validator)) continue;
      await this.clear();
      return false;
    }
    return this.#files.size > 0;
  }

  /** Forgets all files and deletes what is on the disk. */
  async clear(): Promise<void> {
    this.#files.clear();
    this.#bytes = 0;
    await Promise.all(ADAPTER_FILES.map((name) => rm(join(this.path, name), { force: true })));
  }
}

class FileSink implements ByteSink {
  readonly #hash = createHash('sha256');
  #bytes = 0;

  constructor(
    private readonly incoming: IncomingDirectory,
    private readonly name: string,
    private readonly path: string,
    private readonly handle: FileHandle,
  ) {}

  async write(chunk: Uint8Array): Promise<void> {
    const { incoming, name } = this;
    incoming.count(chunk.byteLength);
    this.#bytes += chunk.byteLength;
    const max = maxFileBytes(name, incoming.limits);
    if (this.#bytes > max) throw tooLarge(`${incoming.label}/${name}`, max);
    this.#hash.update(chunk);
    try {
      await this.handle.appendFile(chunk);
    } catch (thrown) {
      throw diskError(incoming.label, thrown);
    }
  }

  async end(validator: string | null): Promise<void> {
    await this.handle.close();
    this.incoming.add({ path: this.name, bytes: this.#bytes, sha256: this.#hash.digest('hex'), validator });
  }

  async discard(): Promise<void> {
    this.incoming.remove(this.name);
    this.incoming.uncount(this.#bytes);
    await this.handle.close();
    await rm(this.path, { force: true });
  }
}
