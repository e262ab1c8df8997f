import { once } from 'node:events';
import { extract } from 'tar-stream';
import { LoramuxError } from '../../core/errors.js';
import { ADAPTER_FILES, PICKLE_FILE } from '../adapter-directory.js';
import { invalidAdapter } from '../offenders.js';
import { tooLarge } from './fetch-errors.js';
import { ARCHIVE_OVERHEAD, type ByteSink, type IncomingDirectory } from './incoming-directory.js';

type Entry = ReturnType<typeof extract> extends AsyncIterable<infer Member> ? Member : never;

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
  readonly #done: Promise<void>;
  #failure: unknown = null;
  #bytes = 0;
  #members = 0;
  /** Folder of the adapter, once a file of it was seen. */
  #folder: string | null = null;
  #hasPickle = false;

  constructor(private readonly incoming: IncomingDirectory) {
    this.#done = this.#unpack();
    this.#done.catch((thrown: unknown) => {
      this.#failure = thrown;
    });
  }

  async write(chunk: Uint8Array): Promise<void> {
    const { label, limits } = this.incoming;
    this.#bytes += chunk.byteLength;
    if (this.#bytes > limits.maxBytes + ARCHIVE_OVERHEAD) throw tooLarge(label, limits.maxBytes);
    if (this.#failure !== null) throw this.#failure;
    if (this.#extract.write(chunk)) return;
    await Promise.race([once(this.#extract, 'drain'), this.#done]);
    if (this.#failure !== null) throw this.#failure;
  }

  async end(validator: string | null): Promise<void> {
    this.#extract.end(null);
    await this.#done;
    this.incoming.requireComplete(this.#hasPickle);
    this.incoming.setValidator(validator);
  }

  async discard(): Promise<void> {
    this.#extract.destroy();
    await this.#done.catch(() => undefined);
    await this.incoming.clear();
  }

  async #unpack(): Promise<void> {
    try {
      for await (const entry of this.#extract) await this.#member(entry);
    } catch (thrown) {
      if (thrown instanceof LoramuxError) throw thrown;
      const found = thrown instanceof Error ? thrown.message : String(thrown);
      throw invalidAdapter(this.incoming.label, [{ expected: 'a whole tar archive, not compressed', found }]);
    }
  }

  async #member(entry: Entry): Promise<void> {
    const { limits } = this.incoming;
    const { name, type } = entry.header;
    this.#members += 1;
    if (this.#members > limits.maxFiles) {
      throw this.#refusal(name, `at most ${limits.maxFiles} members`, 'more');
    }
    if (!KEPT_TYPES.includes(type)) throw this.#refusal(name, 'files and folders only', `a ${type ?? 'special file'}`);
    const segments = segmentsOf(name);
    if (segments === null) throw this.#refusal(name, 'a path inside the archive', 'one that leads outside');
    const file = segments.at(-1) ?? '';
    if (type === 'directory' || segments.length > 2 || !(ADAPTER_FILES.includes(file) || file === PICKLE_FILE)) {
      return this.#skip(entry);
    }
    if (file === PICKLE_FILE) {
      this.#hasPickle = true;
      return this.#skip(entry);
    }
    const folder = segments.slice(0, -1).join('/');
    this.#folder ??= folder;
    if (this.#folder !== folder) throw this.#refusal(name, `one adapter, in "${this.#folder}"`, 'files of another');
    if (this.incoming.has(file)) throw this.#refusal(name, 'each file once', 'the file again');
    this.incoming.announce(file, entry.header.size ?? 0);
    await this.#keep(entry, file);
  }

  async #keep(entry: Entry, file: string): Promise<void> {
    const sink = await this.incoming.file(file);
    try {
      for await (const chunk of entry) await sink.write(chunk as Uint8Array);
      await sink.end(null);
    } catch (thrown) {
      await sink.discard();
      throw thrown;
    }
  }

  async #skip(entry: Entry): Promise<void> {
    for await (const chunk of entry) this.incoming.count((chunk as Uint8Array).byteLength);
  }

  #refusal(member: string, expected: string, found: string): LoramuxError {
    return invalidAdapter(this.incoming.label, [{ key: JSON.stringify(member.slice(0, 200)), expected, found }]);
  }
}
