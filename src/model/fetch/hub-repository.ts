import { createHash, randomUUID } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ReadableStream } from 'node:stream/web';
import { LoramuxError } from '../../core/errors.js';
import { invalidModel } from '../model-errors.js';

type HubLibrary = typeof import('@huggingface/hub');

/** How to reach a hub, for models given by id. */
export interface HubOptions {
  /** Base URL; the library's default when absent. */
  readonly endpoint?: string;
  readonly token?: string;
  /** Use only what was downloaded before. */
  readonly offline?: boolean;
}

/** `org/name`, optionally `@revision` (branch, tag or commit). */
export interface HubId {
  readonly repo: string;
  readonly revision: string;
}

/** One file of a repository at a commit. */
export interface HubFile {
  readonly name: string;
  readonly bytes: number;
  /** Known for large files only. */
  readonly sha256: string | undefined;
}

/** A model repository at a resolved commit. */
export class HubRepository {
  private constructor(
    private readonly library: HubLibrary,
    private readonly id: HubId,
    private readonly options: HubOptions,
    readonly commit: string,
    private readonly files: ReadonlyMap<string, HubFile>,
  ) {}

  /** Resolves the revision and lists the top-level files. ERR_MODEL_NOT_FOUND says what the hub answered. */
  static async open(id: HubId, options: HubOptions): Promise<HubRepository> {
    // Loaded on demand: a model that is on disk already needs none of it.
    const library = await import('@huggingface/hub');
    try {
      const access = accessOf(options);
      const { sha } = await library.modelInfo({
        name: id.repo,
        revision: id.revision,
        additionalFields: ['sha'],
        ...access,
      });
      if (!/^[0-9a-f]{40}$/.test(sha)) throw new TypeError(`expected a commit of 40 hex digits, found ${sha}`);
      const files = new Map<string, HubFile>();
      for await (const entry of library.listFiles({ repo: id.repo, revision: sha, ...access })) {
        if (entry.type !== 'file') continue;
        files.set(entry.path, { name: entry.path, bytes: entry.size, sha256: entry.lfs?.oid });
      }
      return new HubRepository(library, id, options, sha, files);
    } catch (cause) {
      throw unreachable(id, cause);
    }
  }

  get label(): string {
    return `${this.id.repo}@${this.id.revision}`;
  }

  get names(): readonly string[] {
    return [...this.files.keys()];
  }

  has(name: string): boolean {
    return this.files.has(name);
  }

  /** ERR_MODEL_NOT_FOUND when the repository lacks it. */
  file(name: string): HubFile {
    const file = this.files.get(name);
    if (file === undefined)
      throw new LoramuxError('ERR_MODEL_NOT_FOUND', `${this.label}: expected a file ${name}, found none`, {
        file: name,
      });
    return file;
  }

  /** Streams a file into `directory`, checked by size and, where the hub states it, SHA-256; appears there complete. */
  async download(file: HubFile, directory: string, onBytes: (done: number) => void): Promise<void> {
    const temporary = join(directory, `.${randomUUID()}.tmp`);
    const hash = createHash('sha256');
    let done = 0;
    const check = new Transform({
      transform: (chunk: Buffer, _encoding, callback) => {
        done += chunk.length;
        hash.update(chunk);
        onBytes(done);
        const isTooLong = done > file.bytes;
        callback(
          isTooLong ? invalidModel(`${this.label}/${file.name}`, `expected ${file.bytes} bytes, found more`) : null,
          chunk,
        );
      },
    });
    try {
      await pipeline(await this.#stream(file), check, createWriteStream(temporary, { flags: 'wx' }));
      const sha256 = hash.digest('hex');
      if (done !== file.bytes || (file.sha256 !== undefined && sha256 !== file.sha256))
        throw invalidModel(
          `${this.label}/${file.name}`,
          `expected ${file.bytes} bytes with SHA-256 ${file.sha256 ?? 'unknown'}, found ${done} with ${sha256}: try again`,
        );
      await rename(temporary, join(directory, file.name));
    } catch (error) {
      throw error instanceof LoramuxError ? error : unreachable(this.id, error);
    } finally {
      await rm(temporary, { force: true });
    }
  }

  async #stream(file: HubFile): Promise<Readable> {
    const blob = await this.library.downloadFile({
      repo: this.id.repo,
      path: file.name,
      revision: this.commit,
      ...accessOf(this.options),
    });
    if (blob === null) throw new TypeError(`the hub lists ${file.name} but does not serve it`);
    return Readable.fromWeb(blob.stream() as ReadableStream);
  }
}

function accessOf({ endpoint, token }: HubOptions) {
  return {
    ...(endpoint === undefined ? {} : { hubUrl: endpoint.replace(/\/+$/, '') }),
    ...(token === undefined ? {} : { accessToken: token }),
  };
}

function unreachable(id: HubId, cause: unknown): LoramuxError {
  const { statusCode, message } = cause as { statusCode?: number; message?: string };
  const reason = (cause as { cause?: { message?: string } }).cause?.message ?? message ?? String(cause);
  const advice =
    statusCode === 401 || statusCode === 403 || statusCode === 404
      ? 'check the id and revision, and set a hub token if the repository is private or gated'
      : 'check the network and the hub endpoint, or pass --model a directory';
  return new LoramuxError(
    'ERR_MODEL_NOT_FOUND',
    `hub model ${id.repo}@${id.revision}: ${reason}; ${advice}`,
    undefined,
    { cause },
  );
}
