import { CallReader } from './call-reader.js';
import type { ToolFormat } from './tool-format.js';

/** What an answer turns out to hold, in order. */
export type AnswerPart =
  | { readonly kind: 'text'; readonly text: string }
  /** A call of a function begins; `index` counts from 0. */
  | { readonly kind: 'call'; readonly index: number; readonly name: string }
  /** The JSON text of the last call's arguments goes on. */
  | { readonly kind: 'arguments'; readonly index: number; readonly text: string };

/** Where calls stand in an answer. */
interface Layout {
  /** Begins calls; null = they begin at once, where the answer begins with a brace. */
  readonly opening: string | null;
  /** Ends what `opening` began, after any number of calls; null = what is no call does. */
  readonly closing: string | null;
  /** May stand around calls, beside white space. */
  readonly punctuation: string;
  /** Only the names of the request's tools are calls, since any other JSON begins the same. */
  readonly onlyKnown: boolean;
}

const LAYOUTS: Readonly<Record<ToolFormat | 'list', Layout>> = {
  hermes: { opening: '<tool_call>', closing: '</tool_call>', punctuation: '', onlyKnown: false },
  mistral: { opening: '[TOOL_CALLS]', closing: null, punctuation: '[],', onlyKnown: false },
  llama3: { opening: '<|python_tag|>', closing: null, punctuation: ';', onlyKnown: true },
  list: { opening: null, closing: null, punctuation: '[],', onlyKnown: false },
};

/**
 * Splits an answer that arrives in pieces into text and calls. What looks like a call and turns out to be none is text
 * again; white space around calls is dropped.
 */
export class ToolCallParser {
  readonly #layout: Layout;
  readonly #names: ReadonlySet<string>;
  readonly #maxCalls: number;
  #mode: 'start' | 'text' | 'calls';
  #buffer = '';
  /** White space that is text only if more text follows. */
  #space = '';
  #reader: CallReader | null = null;
  #calls = 0;
  #announced = false;

  /** `list`: the whole answer is a list of calls. `maxCalls`: further ones are left out. */
  constructor(format: ToolFormat | 'list', names: Iterable<string>, maxCalls = Number.POSITIVE_INFINITY) {
    this.#layout = LAYOUTS[format];
    this.#names = new Set(names);
    this.#maxCalls = maxCalls;
    this.#mode = format === 'list' ? 'calls' : format === 'llama3' ? 'start' : 'text';
  }

  /** Calls that began. */
  get calls(): number {
    return this.#calls;
  }

  push(piece: string): AnswerPart[] {
    this.#buffer += piece;
    const parts: AnswerPart[] = [];
    while (this.#buffer !== '' && this.#advance(parts));
    return merged(parts);
  }

  /** What is left when the answer ends: text that was held back, or a call that was cut off. */
  end(): AnswerPart[] {
    const parts: AnswerPart[] = [];
    const reader = this.#reader;
    if (reader !== null && !this.#announced) parts.push(...this.#text(reader.text));
    this.#reader = null;
    if (this.#mode !== 'calls') parts.push(...this.#text(this.#buffer));
    if (this.#space !== '' && this.#calls === 0) parts.push({ kind: 'text', text: this.#space });
    this.#buffer = '';
    this.#space = '';
    return merged(parts);
  }

  /** Reads on; false when it takes more of the answer to go on. */
  #advance(parts: AnswerPart[]): boolean {
    if (this.#reader !== null) return this.#readCall(this.#reader, parts);
    if (this.#mode === 'start') return this.#readStart();
    return this.#mode === 'text' ? this.#readText(parts) : this.#readBetween();
  }

  /** A bare brace begins a call only where the answer begins. */
  #readStart(): boolean {
    const rest = this.#buffer.trimStart();
    if (rest === '') return false;
    this.#mode = rest.startsWith('{') ? 'calls' : 'text';
    return true;
  }

  #readText(parts: AnswerPart[]): boolean {
    const { opening } = this.#layout;
    if (opening === null) {
      parts.push(...this.#text(this.#take(this.#buffer.length)));
      return false;
    }
    const at = this.#buffer.indexOf(opening);
    if (at < 0) {
      parts.push(...this.#text(this.#take(this.#buffer.length - heldBack(this.#buffer, opening))));
      return false;
    }
    parts.push(...this.#text(this.#take(at)));
    this.#take(opening.length);
    this.#mode = 'calls';
    return true;
  }

  /** Before, between and after the calls of one opening. */
  #readBetween(): boolean {
    const { punctuation, closing } = this.#layout;
    let skip = 0;
    while (/\s/.test(this.#buffer[skip] ?? '') || punctuation.includes(this.#buffer[skip] ?? '-')) skip += 1;
    this.#take(skip);
    if (this.#buffer.startsWith('{')) {
      this.#reader = new CallReader();
      this.#announced = false;
      return true;
    }
    if (this.#buffer === '' || (closing?.startsWith(this.#buffer) === true && this.#buffer !== closing)) return false;
    if (closing !== null && this.#buffer.startsWith(closing)) this.#take(closing.length);
    this.#mode = 'text';
    return true;
  }

  #readCall(reader: CallReader, parts: AnswerPart[]): boolean {
    this.#take(reader.push(this.#buffer));
    const wanted = this.#calls < this.#maxCalls || this.#announced;
    if (reader.name !== null && wanted && this.#isKnown(reader.name)) {
      if (!this.#announced) parts.push(this.#announce(reader.name));
      const text = reader.take();
      if (text !== '') parts.push({ kind: 'arguments', index: this.#calls - 1, text });
    }
    if (!reader.closed) return false;
    if (!this.#announced && wanted) {
      parts.push(...this.#text(reader.text));
      if (this.#layout.closing === null) this.#mode = 'text';
    }
    this.#reader = null;
    return true;
  }

  #announce(name: string): AnswerPart {
    this.#announced = true;
    this.#space = '';
    this.#calls += 1;
    return { kind: 'call', index: this.#calls - 1, name };
  }

  #isKnown(name: string): boolean {
    return !this.#layout.onlyKnown || this.#names.has(name);
  }

  /** Text without the white space at its end, which is kept for later. */
  #text(text: string): AnswerPart[] {
    const all = this.#space + text;
    const shown = all.trimEnd();
    this.#space = all.slice(shown.length);
    // Between calls there is no text, only lines.
    if (shown === '') return [];
    return [{ kind: 'text', text: shown }];
  }

  #take(length: number): string {
    const taken = this.#buffer.slice(0, length);
    this.#buffer = this.#buffer.slice(length);
    return taken;
  }
}

/** Length of the longest end of `text` that begins `marker`. */
function heldBack(text: string, marker: string): number {
  for (let length = Math.min(text.length, marker.length - 1); length > 0; length -= 1) {
    if (marker.startsWith(text.slice(-length))) return length;
  }
  return 0;
}

function merged(parts: readonly AnswerPart[]): AnswerPart[] {
  const all: AnswerPart[] = [];
  for (const part of parts) {
    const last = all.at(-1);
    if (part.kind === 'text' && last?.kind === 'text')
      all[all.length - 1] = { kind: 'text', text: last.text + part.text };
    else all.push(part);
  }
  return all;
}
