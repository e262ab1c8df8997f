import { randomUUID } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { Busboy, type BusboyFileStream, type BusboyInstance } from '@fastify/busboy';
import { ADAPTER_FILES, PICKLE_FILE } from '../../adapters/adapter-directory.js';
import { deferred } from '../../adapters/deferred.js';
import { invalidAdapter } from '../../adapters/offenders.js';
import { incomingRoot } from '../../adapters/sources/disk-tier.js';
import { IncomingDirectory } from '../../adapters/sources/incoming-directory.js';
import { TarSink } from '../../adapters/sources/tar-sink.js';
import type { FetchLimits } from '../../core/adapter-fetch.js';
import { LoramuxError, toLoramuxError } from '../../core/errors.js';

/** Where uploads go and how large they may be. */
export interface UploadOptions {
  /** Of the disk tier. */
  readonly directory: string;
  readonly limits: FetchLimits;
}

const TAR_TYPES = ['application/x-tar', 'application/tar', 'application/octet-stream'] as const;
const MULTIPART_TYPE = 'multipart/form-data';

/** Content types of uploads. */
export const UPLOAD_TYPES: readonly string[] = [...TAR_TYPES, MULTIPART_TYPE];

/**
 * Streams an upload to the disk: a tar archive, or a form with one part for each file, named by its file name or its
 * field. The directory then holds a whole adapter, hashed on the way; it is the caller's to delete. ERR_BAD_REQUEST,
 * ERR_ADAPTER_INVALID, ERR_ADAPTER_NOT_FOUND, ERR_ADAPTER_TOO_LARGE, ERR_ADAPTER_NO_SPACE.
 */
export class UploadBody {
  readonly incoming: IncomingDirectory;
  /** Of the parts so far; several may be on their way at once. */
  readonly #names = new Set<string>();
  #hasPickle = false;

  constructor(
    private readonly headers: IncomingHttpHeaders,
    { directory, limits }: UploadOptions,
  ) {
    this.incoming = new IncomingDirectory(join(incomingRoot(directory), randomUUID()), 'the upload', limits);
  }

  async receive(body: Readable): Promise<void> {
    await this.incoming.create();
    const steady = Readable.from(unstalled(body, this.incoming.limits.stallMs), { objectMode: false });
    if (this.headers['content-type']?.toLowerCase().startsWith(MULTIPART_TYPE) !== true) await this.#archive(steady);
    else await this.#form(steady);
  }

  async #archive(body: Readable): Promise<void> {
    const sink = new TarSink(this.incoming);
    try {
      for await (const chunk of body) await sink.write(chunk as Uint8Array);
      await sink.end(null);
    } catch (thrown) {
      await sink.discard();
      throw thrown;
    }
  }

  async #form(body: Readable): Promise<void> {
    const parser = this.#parser();
    let failure: LoramuxError | null = null;
    const parts: Promise<void>[] = [];
    const open = new Set<BusboyFileStream>();
    const fail = (thrown: unknown): void => {
      failure ??= toLoramuxError(thrown, 'ERR_BAD_REQUEST');
      parser.destroy(failure);
      // The parser leaves the streams of its parts open.
      for (const stream of open) stream.destroy(failure);
    };
    parser.on('file', (field, stream, filename) => {
      open.add(stream);
      // Its reader hears of errors; there may be none yet.
      stream.on('error', () => undefined);
      parts.push(this.#part(field, filename, stream).catch(fail));
    });
    parser.on('field', (field) => fail(badPart(field, 'a part with a file name', 'a plain field')));
    const over = (): void => fail(badPart('form', `at most ${this.incoming.limits.maxFiles} files`, 'more'));
    parser.on('filesLimit', over).on('partsLimit', over);
    try {
      await pipeline(body, parser);
    } catch (thrown) {
      fail(thrown);
    }
    await Promise.all(parts);
    if (failure !== null) throw failure;
    this.incoming.requireComplete(this.#hasPickle);
  }

  #parser(): BusboyInstance {
    const contentType = this.headers['content-type'] ?? '';
    const files = Math.min(this.incoming.limits.maxFiles, ADAPTER_FILES.length + 1);
    try {
      return new Busboy({
        headers: { ...this.headers, 'content-type': contentType },
        limits: { files, fields: 1, parts: files + 1, fieldSize: 1024, headerPairs: 32 },
      });
    } catch (cause) {
      const detail = cause instanceof Error ? cause.message : String(cause);
      throw new LoramuxError('ERR_BAD_REQUEST', `expected a multipart form with a boundary: ${detail}`);
    }
  }

  async #part(field: string, filename: string | undefined, stream: BusboyFileStream): Promise<void> {
    const name = [filename, field].find((each) => each !== undefined && isFile(each)) ?? filename ?? field;
    if (name === PICKLE_FILE) {
      this.#hasPickle = true;
      for await (const chunk of stream) this.incoming.count((chunk as Uint8Array).byteLength);
      return;
    }
    if (!isFile(name)) throw badPart(name, `one of ${ADAPTER_FILES.join(', ')}`, 'another file');
    if (this.#names.has(name)) throw badPart(name, 'each file once', 'the file again');
    this.#names.add(name);
    const sink = await this.incoming.file(name);
    try {
      for await (const chunk of stream) await sink.write(chunk as Uint8Array);
      await sink.end(null);
    } catch (thrown) {
      await sink.discard();
      throw thrown;
    }
  }
}

function isFile(name: string): boolean {
  return ADAPTER_FILES.includes(name) || name === PICKLE_FILE;
}

function badPart(name: string, expected: string, found: string): LoramuxError {
  return invalidAdapter('the upload', [{ key: JSON.stringify(name.slice(0, 200)), expected, found }]);
}

/**
 * The chunks of a request; ERR_BAD_REQUEST when none came for `stallMs`, ERR_ABORTED when the client left. The request
 * is not destroyed when its reader stops: its connection has to carry the answer.
 */
async function* unstalled(body: Readable, stallMs: number): AsyncGenerator<Uint8Array> {
  const message = `nothing of the upload came for ${stallMs / 1000} s: send it again`;
  const stalled = deferred<never>();
  stalled.promise.catch(() => undefined);
  const timer = setTimeout(() => stalled.reject(new LoramuxError('ERR_BAD_REQUEST', message)), stallMs);
  const chunks = body.iterator({ destroyOnReturn: false });
  try {
    for (;;) {
      const next = (await Promise.race([chunks.next(), stalled.promise])) as IteratorResult<Uint8Array, undefined>;
      if (next.done === true) return;
      timer.refresh();
      yield next.value;
    }
  } catch (thrown) {
    if (thrown instanceof LoramuxError) throw thrown;
    throw new LoramuxError('ERR_ABORTED', 'the upload broke off: send it again', undefined, { cause: thrown });
  } finally {
    clearTimeout(timer);
    // Not awaited: after a stall it ends with the request.
    void chunks.return?.();
  }
}
