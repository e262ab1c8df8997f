import type { NativeTokenizer } from '../engine/binding.js';

const REPLACEMENT = '\uFFFD';
/** Prompt tokens that give the first generated token its context: enough for any character in single bytes. */
const MIN_CONTEXT = 5;
const MAX_CONTEXT = 16;
/** Tokens that may wait for the rest of a character; no character takes as many. */
const MAX_PENDING = 16;
/** Of these, the last so many may be the start of a character in single bytes. */
const OPEN_TAIL = 3;

/** The part of the tokenizer that turns ids into text. */
export type TextDecoder = Pick<NativeTokenizer, 'decode'>;

/**
 * Shortest tail of `promptIds` that decodes to whole characters, for use as decoding context. Tokenizers that
 * swallow a leading space then keep it in the first generated token. Empty when no tail of 16 ids will do.
 */
export function decodingContext(tokenizer: TextDecoder, promptIds: readonly number[]): readonly number[] {
  for (let length = MIN_CONTEXT; length <= MAX_CONTEXT; length += 1) {
    const tail = promptIds.slice(-length);
    if (!tokenizer.decode(Uint32Array.from(tail), false).includes(REPLACEMENT)) return tail;
    if (length >= promptIds.length) break;
  }
  return [];
}

/**
 * Decodes one sequence token by token. All deltas and the flush, joined, are the text that decoding the whole
 * sequence adds to its context; no delta ends inside a character. Only a window of the last few tokens is decoded
 * each time: the tokens of the previous delta, which give the new ones their context, and those not yet certain. Bytes
 * that never become characters do not make it longer: of many, all but the last few are given out as U+FFFD.
 */
export class IncrementalDecoder {
  readonly #tokenizer: TextDecoder;
  /** Texts of single tokens. */
  readonly #singles: Map<number, string>;
  #window: number[];
  /** Tokens at the start of the window whose text is out, and that text. */
  #settled: number;
  #settledText: string;

  constructor(tokenizer: TextDecoder, context: readonly number[] = []) {
    this.#tokenizer = tokenizer;
    this.#singles = singlesOf(tokenizer);
    this.#window = [...context];
    this.#settled = context.length;
    this.#settledText = this.#decode(this.#window);
  }

  /** Another one of the same sequence so far; each goes its own way from here. */
  fork(): IncrementalDecoder {
    const other = new IncrementalDecoder(this.#tokenizer);
    other.#window = [...this.#window];
    other.#settled = this.#settled;
    other.#settledText = this.#settledText;
    return other;
  }

  /** Adds a token and returns the text that became certain: `''` while a character is incomplete. */
  push(token: number): string {
    this.#window.push(token);
    const text = this.#decode(this.#window);
    // A replacement character at the end may yet become a real one when its other bytes come.
    if (text.length > this.#settledText.length && !text.endsWith(REPLACEMENT)) return this.#settle(text);
    return this.#window.length - this.#settled > MAX_PENDING ? this.#settleBroken(text) : '';
  }

  /** Text still held back when the sequence ends, incomplete characters as U+FFFD. */
  flush(): string {
    if (this.#window.length === this.#settled) return '';
    return this.#settle(this.#decode(this.#window));
  }

  /** Gives out the part of `text` that no further byte can change. */
  #settleBroken(text: string): string {
    if (text === this.#settledText) {
      // Tokens without any text: neither a delta nor context.
      this.#window.length = this.#settled;
      return '';
    }
    for (let length = this.#window.length - OPEN_TAIL; length > this.#settled; length -= 1) {
      const head = this.#decode(this.#window.slice(0, length));
      // A cut inside a character would show another text before it.
      if (head.length <= this.#settledText.length || !text.startsWith(head)) continue;
      const open = this.#window.slice(length);
      this.#window.length = length;
      const delta = this.#settle(head);
      this.#window.push(...open);
      return delta;
    }
    return this.#settle(text);
  }

  #settle(text: string): string {
    const delta = text.slice(this.#settledText.length);
    this.#window = this.#window.slice(this.#settled);
    this.#settled = this.#window.length;
    this.#settledText = this.#decode(this.#window);
    return delta;
  }

  #decode(ids: readonly number[]): string {
    if (ids.length === 0) return '';
    const [id] = ids;
    if (ids.length > 1 || id === undefined) return this.#tokenizer.decode(Uint32Array.from(ids), false);
    let text = this.#singles.get(id);
    if (text === undefined) {
      text = this.#tokenizer.decode(Uint32Array.of(id), false);
      this.#singles.set(id, text);
    }
    return text;
  }
}

const singles = new WeakMap<TextDecoder, Map<number, string>>();

/** What single tokens of a tokenizer decode to, as far as it was asked for: no more than it has tokens. */
function singlesOf(tokenizer: TextDecoder): Map<number, string> {
  const known = singles.get(tokenizer) ?? new Map<number, string>();
  singles.set(tokenizer, known);
  return known;
}
