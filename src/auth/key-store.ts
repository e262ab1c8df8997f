import { type BigIntStats, readFileSync, statSync } from 'node:fs';
import { LoramuxError } from '../core/errors.js';
import { type KeyRecord, MAX_KEY_FILE_BYTES, parseKeyFile } from './key-file.js';
import { KeyRing } from './key-ring.js';

/** How long a changed file may go unnoticed. */
const POLL_MS = 2_000;

export interface KeyStoreOptions {
  readonly file: string;
  readonly log: (level: 'info' | 'error', event: string, text: string) => void;
  readonly pollMs?: number;
}

/**
 * Keeps a ring in step with its file, whose state is asked for every two seconds: notifications are not delivered for
 * every file system, nor for the links that Kubernetes moves. A file that cannot be read or parsed changes nothing.
 */
export class KeyStore {
  readonly ring: KeyRing;
  readonly #options: KeyStoreOptions;
  #timer: NodeJS.Timeout | undefined;
  #seen: string;

  /** Reads the file. ERR_CONFIG when it cannot be read, is malformed or holds no key. */
  constructor(options: KeyStoreOptions) {
    this.#options = options;
    this.#seen = this.#fingerprint();
    this.ring = new KeyRing(this.#read());
  }

  /** From now on changes of the file are noticed, until `close`. */
  watch(): void {
    this.#timer ??= setInterval(() => this.#poll(), this.#options.pollMs ?? POLL_MS).unref();
  }

  /** Takes the file's keys at once; keeps the old ones, and logs why, when that fails. */
  reload(): void {
    this.#seen = this.#fingerprint();
    try {
      this.ring.replace(this.#read());
      this.#options.log('info', 'keys.reload', `${this.ring.size} API keys are valid now`);
    } catch (thrown) {
      const reason = thrown instanceof Error ? thrown.message : String(thrown);
      this.#options.log('error', 'keys.reload', `the API keys stay as they were: ${reason}`);
    }
  }

  close(): void {
    clearInterval(this.#timer);
  }

  #poll(): void {
    if (this.#fingerprint() !== this.#seen) this.reload();
  }

  /** Changes whenever the file does; the same text as long as it is missing. */
  #fingerprint(): string {
    let stats: BigIntStats | undefined;
    try {
      stats = statSync(this.#options.file, { bigint: true, throwIfNoEntry: false });
    } catch {
      // Not reachable: reading it says why.
    }
    return stats === undefined ? 'missing' : [stats.dev, stats.ino, stats.size, stats.mtimeNs].join(' ');
  }

  #read(): readonly KeyRecord[] {
    const { file } = this.#options;
    return parseKeyFile(readKeyFile(file), file);
  }
}

/** The text of a file of keys. ERR_CONFIG when it cannot be read or is too large. */
export function readKeyFile(file: string): string {
  try {
    const bytes = statSync(file).size;
    if (bytes <= MAX_KEY_FILE_BYTES) return readFileSync(file, 'utf8');
  } catch (thrown) {
    const reason = thrown instanceof Error ? thrown.message : String(thrown);
    throw new LoramuxError(
      'ERR_CONFIG',
      `expected a readable file of API keys: ${reason}`,
      { file },
      { cause: thrown },
    );
  }
  throw new LoramuxError('ERR_CONFIG', `expected a file of API keys of at most ${MAX_KEY_FILE_BYTES} bytes: ${file}`, {
    file,
  });
}
