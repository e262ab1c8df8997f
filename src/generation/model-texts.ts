import { type AdapterText, textBytes } from '../core/adapter-text.js';
import { toLoramuxError } from '../core/errors.js';
import { BASE_NAME } from '../core/names.js';
import { ModelText, type TextCodec } from './model-text.js';

/** Bytes of tokenizer files behind the texts that are kept; in memory a tokenizer takes about six times its file. */
const MAX_BYTES = 32 * 2 ** 20;
/** Texts that are kept, and names whose last text is remembered. */
const MAX_TEXTS = 256;
const MAX_NAMES = 4096;

export interface ModelTextsOptions {
  readonly base: ModelText;
  /** A tokenizer from the text of a `tokenizer.json`. */
  readonly openTokenizer: (json: Uint8Array) => Promise<TextCodec>;
  readonly maxBytes?: number;
}

interface Kept {
  readonly text: Promise<ModelText>;
  readonly bytes: number;
}

/** The texts of adapters that were used last, made once each, within a bound on their files. */
export class ModelTexts {
  readonly base: ModelText;
  readonly #options: ModelTextsOptions;
  /** By digest, the least recently used first. */
  readonly #kept = new Map<string, Kept>();
  /** What each name used last: a guess, for names may move. */
  readonly #last = new Map<string, string>();
  #bytes = 0;

  constructor(options: ModelTextsOptions) {
    this.base = options.base;
    this.#options = options;
  }

  /** What `adapter` most likely uses. */
  async guess(adapter: string): Promise<ModelText> {
    const digest = adapter === BASE_NAME ? undefined : this.#last.get(adapter);
    const kept = digest === undefined ? undefined : this.#use(digest);
    return kept === undefined ? this.base : kept.text;
  }

  /** What `adapter` was found to use; null = the base's. ERR_TOKENIZER. */
  async of(adapter: string, text: AdapterText | null): Promise<ModelText> {
    this.#last.delete(adapter);
    if (text === null) return this.base;
    const made = (this.#use(text.digest) ?? this.#keep(text)).text;
    this.#last.set(adapter, text.digest);
    dropOldest(this.#last, MAX_NAMES);
    return made;
  }

  #use(digest: string): Kept | undefined {
    const kept = this.#kept.get(digest);
    if (kept === undefined) return undefined;
    this.#kept.delete(digest);
    this.#kept.set(digest, kept);
    return kept;
  }

  #keep(text: AdapterText): Kept {
    const kept = { text: this.#make(text), bytes: textBytes(text) };
    this.#kept.set(text.digest, kept);
    this.#bytes += kept.bytes;
    kept.text.catch(() => this.#forget(text.digest, kept));
    for (const [digest, oldest] of this.#kept) {
      if (this.#kept.size === 1) break;
      if (this.#bytes <= (this.#options.maxBytes ?? MAX_BYTES) && this.#kept.size <= MAX_TEXTS) break;
      this.#forget(digest, oldest);
    }
    return kept;
  }

  #forget(digest: string, kept: Kept): void {
    if (this.#kept.get(digest) !== kept) return;
    this.#kept.delete(digest);
    this.#bytes -= kept.bytes;
  }

  async #make({ tokenizer, ...rest }: AdapterText): Promise<ModelText> {
    if (tokenizer === null) return new ModelText(this.base.tokenizer, rest);
    try {
      return new ModelText(await this.#options.openTokenizer(new Uint8Array(tokenizer)), rest);
    } catch (thrown) {
      throw toLoramuxError(thrown, 'ERR_TOKENIZER');
    }
  }
}

function dropOldest(map: Map<string, string>, most: number): void {
  const [oldest] = map.keys();
  if (map.size > most && oldest !== undefined) map.delete(oldest);
}
