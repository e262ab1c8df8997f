/** A JSON object with its keys in file order, which plain objects lose for integer-like keys. */
export type JsonObject = ReadonlyMap<string, JsonValue>;
export type JsonValue = null | boolean | number | string | readonly JsonValue[] | JsonObject;

const MAX_DEPTH = 64;
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const WHITESPACE = /[\t\n\r ]*/y;
const LITERALS: readonly (readonly [string, JsonValue])[] = [
  ['true', true],
  ['false', false],
  ['null', null],
];

class Parser {
  #at = 0;

  constructor(private readonly text: string) {}

  document(): JsonValue {
    const value = this.#value(0);
    this.#skip();
    if (this.#at < this.text.length) this.#fail('the end of the text');
    return value;
  }

  #value(depth: number): JsonValue {
    if (depth > MAX_DEPTH) throw new SyntaxError(`expected at most ${MAX_DEPTH} levels of nesting`);
    this.#skip();
    switch (this.text[this.#at]) {
      case '{':
        return this.#object(depth);
      case '[':
        return this.#array(depth);
      case '"':
        return this.#string();
      default:
        return this.#scalar();
    }
  }

  #object(depth: number): JsonObject {
    const object = new Map<string, JsonValue>();
    this.#at += 1;
    if (this.#takes('}')) return object;
    do {
      this.#skip();
      if (this.text[this.#at] !== '"') this.#fail('a key in double quotes');
      const key = this.#string();
      if (object.has(key)) throw new SyntaxError(`expected every key once, found ${JSON.stringify(key)} twice`);
      if (!this.#takes(':')) this.#fail('":"');
      object.set(key, this.#value(depth + 1));
    } while (this.#takes(','));
    if (!this.#takes('}')) this.#fail('"," or "}"');
    return object;
  }

  #array(depth: number): JsonValue[] {
    const array: JsonValue[] = [];
    this.#at += 1;
    if (this.#takes(']')) return array;
    do array.push(this.#value(depth + 1));
    while (this.#takes(','));
    if (!this.#takes(']')) this.#fail('"," or "]"');
    return array;
  }

  #string(): string {
    const start = this.#at;
    let end = start + 1;
    while (end < this.text.length && this.text[end] !== '"') end += this.text[end] === '\\' ? 2 : 1;
    if (end >= this.text.length) this.#fail('a string with a closing quote');
    this.#at = end + 1;
    try {
      return JSON.parse(this.text.slice(start, end + 1)) as string;
    } catch {
      this.#at = start;
      return this.#fail('a string without raw control characters or unknown escapes');
    }
  }

  #scalar(): JsonValue {
    for (const [word, value] of LITERALS) {
      if (this.text.startsWith(word, this.#at)) {
        this.#at += word.length;
        return value;
      }
    }
    NUMBER.lastIndex = this.#at;
    const match = NUMBER.exec(this.text);
    if (match === null) return this.#fail('a JSON value');
    this.#at = NUMBER.lastIndex;
    return Number(match[0]);
  }

  #takes(character: string): boolean {
    this.#skip();
    if (this.text[this.#at] !== character) return false;
    this.#at += 1;
    return true;
  }

  #skip(): void {
    WHITESPACE.lastIndex = this.#at;
    WHITESPACE.test(this.text);
    this.#at = WHITESPACE.lastIndex;
  }

  #fail(expected: string): never {
    const rest = this.text.slice(this.#at, this.#at + 12);
    const found = rest === '' ? 'the end of the text' : JSON.stringify(rest);
    throw new SyntaxError(`expected ${expected} at character ${this.#at}, found ${found}`);
  }
}

/**
 * Parses JSON exactly as RFC 8259 has it (no NaN, no comments, no byte order mark); objects become Maps in file
 * order and a key given twice is an error. Throws SyntaxError with the position and what was found there.
 */
export function parseStrictJson(text: string): JsonValue {
  return new Parser(text).document();
}

/** Plain JSON text of a parsed value, cut to `limit` characters, for messages. */
export function describeJson(value: JsonValue, limit = 80): string {
  const text = JSON.stringify(value, (_key, inner: unknown) =>
    inner instanceof Map ? Object.fromEntries(inner) : inner,
  );
  return text.length <= limit ? text : `${text.slice(0, limit)}…`;
}
