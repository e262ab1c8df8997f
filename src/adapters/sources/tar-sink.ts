import { once } from 'node:events';
import { type ExtractEvents, extract } from 'tar-stream';
import type { LoramuxError } from '../../core/errors.js';
import { ADAPTER_FILES, PICKLE_FILE } from '../adapter-directory.js';
import { deferred } from '../deferred.js';
import { invalidAdapter } from '../offenders.js';
import { tooLarge } from './fetch-errors.js';
import { ARCHIVE_OVERHEAD, type ByteSink, type IncomingDirectory } from './incoming-directory.js';

type Header = ExtractEvents['entry'][0];
type Content = ExtractEvents['entry'][1];

const KEPT_TYPES: readonly unknown[] = ['file', 'contiguous-file', 'directory'];

/** Segments of a member's path; null for one that could leave the folder it is unpacked in. */
function segmentsOf(path: string): string[] | null {
  if (path.startsWith('/') || /[\p{Cc}\\]/u.test(path)) return null;
  const segments = path.split('/').filter((segment) => segment !== '' && segment !== '.');
  return segments.includes('..') ? null : segments;
}

/**
 * Unpacks the adapter's files of a tar archive (ustar, pax or GNU headers) into an incoming directory while it streams.
 * They lie at the top or in one folder. Other files are read over; links, devices, paths that lead outside, doubles
 * and a second adapter are refused (ERR_ADAPTER_INVALID). Nothing is written under a name from the archive.
 */
export class TarSink implements ByteSink {
  readonly #extract = extract({});
  /** Settles when the archive was read to its end, or refused. */
  readonly #done = deferred<void>();
  /** The member that is being read. */
  #member: Promise<void> = Promise.resolve();
  #failure: unknown = null;
  #bytes = 0;
  #members = 0;
  /** Folder of the adapter, once a file of it was seen. */
  #folder: string | null = null;
  #hasPickle = false;

  constructor(private readonly incoming: IncomingDirectory) {
    this.#done.promise.catch((thrown: unknown) => {
      this.#failure = thrown;
    });
    this.#extract.on('entry', (header, content, next) => {
      // What breaks a member breaks the archive, which tells of it.
      content.on('error', () => undefined);
      // After a refusal nothing further is looked at: `next` is not called.
      this.#member = this.#read(header, content).then(() => next(), this.#done.reject);
    });
    this.#extract.once('finish', this.#done.resolve).on('error', (error) => this.#done.reject(this.#unreadable(error)));
    this.#extract.once('close', () => this.#done.reject(this.#unreadable(new Error('it was closed'))));
  }

  async write(chunk: Uint8Array): Promise<void> {
    const { label, limits } = this.incoming;
    this.#bytes += chunk.byteLength;
    if (this.#bytes > limits.maxBytes + ARCHIVE_OVERHEAD) throw tooLarge(label, limits.maxBytes);
    if (this.#failure !== null) throw this.#failure;
    if (this.#extract.write(chunk)) return;
    await Promise.race([once(this.#extract, 'drain'), this.#done.promise]);
    if (this.#failure !== null) throw this.#failure;
  }

  async end(validator: string | null): Promise<void> {
    this.#extract.end(null);
    await this.#done.promise;
    await this.#member;
    if (this.#failure !== null) throw this.#failure;
    this.incoming.requireComplete(this.#hasPickle);
    this.incoming.setValidator(validator);
  }

  async discard(): Promise<void> {
    this.#done.reject(this.#unreadable(new Error('it was given up')));
    this.#extract.destroy();
    await this.#member;
    await this.incoming.clear();
  }

  #unreadable(error: Error): LoramuxError {
    const expected = 'a whole tar archive, not compressed';
    return invalidAdapter(this.incoming.label, [{ expected, found: error.message }]);
  }

  async #read(header: Header, content: Content): Promise<void> {
    const { limits } = this.incoming;
    const { name, type, size } = header;
    this.#members += 1;
    if (this.#members > limits.maxFiles) {
      throw this.#refusal(name, `at most ${limits.maxFiles} members`, 'more');
    }
    if (!KEPT_TYPES.includes(type)) throw this.#refusal(name, 'files and folders only', `a ${type ?? 'special file'}`);
    const segments = segmentsOf(name);
    if (segments === null) throw this.#refusal(name, 'a path inside the archive', 'one that leads outside');
    const file = segments.at(-1) ?? '';
    if (type === 'directory' || segments.length > 2 || !(ADAPTER_FILES.includes(file) || file === PICKLE_FILE)) {
      return this.#skip(content);
    }
    if (file === PICKLE_FILE) {
      this.#hasPickle = true;
      return this.#skip(content);
    }
    const folder = segments.slice(0, -1).join('/');
    this.#folder ??= folder;
    if (this.#folder !== folder) throw this.#refusal(name, `one adapter, in "${this.#folder}"`, 'files of another');
    if (this.incoming.has(file)) throw this.#refusal(name, 'each file once', 'the file again');
    this.incoming.announce(file, size);
    await this.#keep(content, file);
  }

  async #keep(content: Content, file: string): Promise<void> {
    const sink = await this.incoming.file(file);
    try {
      for await (const chunk of this.#chunks(content)) await sink.write(chunk);
      await sink.end(null);
    } catch (thrown) {
      await sink.discard();
      throw thrown;
    }
  }

  /** The bytes of a member; rejects once the archive is given up, since then the member's own stream stays silent. */
  async *#chunks(content: Content): AsyncGenerator<Uint8Array> {
    const chunks = content[Symbol.asyncIterator]();
    const refused = this.#done.promise.then(() => new Promise<never>(() => undefined));
    for (;;) {
      const next = (await Promise.race([chunks.next(), refused])) as IteratorResult<Uint8Array, undefined>;
      if (next.done === true) return;
      yield next.value;
    }
  }

  async #skip(content: Content): Promise<void> {
    for await (const chunk of this.#chunks(content)) this.incoming.count(chunk.byteLength);
  }

  #refusal(member: string, expected: string, found: string): LoramuxError {
    return invalidAdapter(this.incoming.label, [{ key: JSON.stringify(member.slice(0, 200)), expected, found }]);
  }
}
