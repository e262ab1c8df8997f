import type { AdapterText, ReadText, TextFile } from '../../core/adapter-text.js';
import { adapterDigest } from '../digest.js';

/** Whatever reads the text files of adapters. */
export interface TextReader {
  /** As `readText`; may take the files' memory over. */
  read(place: string, files: readonly TextFile[]): Promise<ReadText>;
  /** Fails what it is reading. */
  close(): Promise<void>;
}

interface Known {
  /** Null = the base's. */
  readonly text: WeakRef<AdapterText> | null;
  readonly warnings: readonly string[];
}

/** Sets of files that are remembered. */
const MAX_KNOWN = 1024;

/** Reads each set of files once, and lets adapters with equal files share what they come to while one has it. */
export class TextCache implements TextReader {
  readonly #reader: TextReader;
  readonly #known = new Map<string, Known>();
  readonly #running = new Map<string, Promise<ReadText>>();

  constructor(reader: TextReader) {
    this.#reader = reader;
  }

  async read(place: string, files: readonly TextFile[]): Promise<ReadText> {
    const key = adapterDigest(files);
    const known = this.#known.get(key);
    const text = known?.text?.deref() ?? null;
    if (known !== undefined && (known.text === null || text !== null)) return { text, warnings: known.warnings };
    const running = this.#running.get(key);
    if (running !== undefined) return running;
    const work = this.#reader.read(place, files);
    this.#running.set(key, work);
    try {
      const read = await work;
      this.#remember(key, read);
      return read;
    } finally {
      this.#running.delete(key);
    }
  }

  close(): Promise<void> {
    return this.#reader.close();
  }

  #remember(key: string, { text, warnings }: ReadText): void {
    this.#known.delete(key);
    this.#known.set(key, { text: text === null ? null : new WeakRef(text), warnings });
    const [oldest] = this.#known.keys();
    if (this.#known.size > MAX_KNOWN && oldest !== undefined) this.#known.delete(oldest);
  }
}
