const ARGUMENT_KEYS: readonly string[] = ['arguments', 'parameters'];

/**
 * Reads one JSON object `{"name": …, "arguments": {…}}` (or `parameters`) that arrives in pieces, and gives the arguments
 * out as the model writes them, as soon as the name is known. Only brackets and strings are followed: a model that
 * writes broken JSON within the arguments is the client's to notice, as with OpenAI.
 */
export class CallReader {
  #text = '';
  #depth = 0;
  #inString = false;
  #escaped = false;
  /** Where the string being read began. */
  #stringAt = 0;
  #key: string | null = null;
  /** Behind a key's colon at the outer level. */
  #inValue = false;
  #valueAt: number | null = null;
  #name: string | null = null;
  #arguments: { readonly from: number; to: number | null } | null = null;
  /** Characters of the arguments that are out. */
  #given = 0;
  #closed = false;

  /** All that was read. */
  get text(): string {
    return this.#text;
  }

  /** The object is complete. */
  get closed(): boolean {
    return this.#closed;
  }

  /** null until it is complete. */
  get name(): string | null {
    return this.#name;
  }

  /** Reads up to the end of the object; returns how many characters that took. The first must be `{`. */
  push(piece: string): number {
    for (let at = 0; at < piece.length; at += 1) {
      if (this.#closed) return at;
      this.#text += piece[at];
      this.#read(this.#text.length - 1);
    }
    return piece.length;
  }

  /** The arguments' JSON that was not given out yet. */
  take(): string {
    if (this.#name === null) return '';
    const whole = this.#argumentsText();
    const more = whole.slice(this.#given);
    this.#given = Math.max(this.#given, whole.length);
    return more;
  }

  #argumentsText(): string {
    if (this.#arguments === null) return this.#closed ? '{}' : '';
    const { from, to } = this.#arguments;
    if (this.#text[from] === '{') return this.#text.slice(from, to ?? this.#text.length);
    // Arguments that are no object: null for none, or JSON once more as text.
    if (to === null) return '';
    const value = parsed(this.#text.slice(from, to));
    return typeof value === 'string' ? value : '{}';
  }

  #read(at: number): void {
    const character = this.#text[at] ?? '';
    if (this.#inString) {
      this.#readString(character, at);
      return;
    }
    if (/\s/.test(character)) return;
    if (this.#inValue && this.#valueAt === null) this.#beginValue(at);
    switch (character) {
      case '"':
        this.#inString = true;
        this.#stringAt = at;
        break;
      case '{':
      case '[':
        this.#depth += 1;
        break;
      case '}':
      case ']':
        if (this.#depth === 1) this.#endValue(at);
        this.#depth -= 1;
        if (this.#depth === 1) this.#endValue(at + 1);
        this.#closed = this.#depth <= 0;
        break;
      case ':':
        if (this.#depth === 1 && !this.#inValue) this.#inValue = true;
        break;
      case ',':
        if (this.#depth === 1) this.#endValue(at);
        break;
    }
  }

  #readString(character: string, at: number): void {
    if (this.#escaped) this.#escaped = false;
    else if (character === '\\') this.#escaped = true;
    else if (character === '"') {
      this.#inString = false;
      if (this.#depth !== 1) return;
      if (this.#inValue) this.#endValue(at + 1);
      else this.#key = String(parsed(this.#text.slice(this.#stringAt, at + 1)));
    }
  }

  #beginValue(at: number): void {
    this.#valueAt = at;
    if (this.#arguments === null && ARGUMENT_KEYS.includes(this.#key ?? '')) this.#arguments = { from: at, to: null };
  }

  /** `end`: just past the value. */
  #endValue(end: number): void {
    const from = this.#valueAt;
    if (from !== null) {
      if (this.#key === 'name' && this.#name === null) {
        const name = parsed(this.#text.slice(from, end));
        if (typeof name === 'string') this.#name = name;
      }
      if (this.#arguments?.from === from) this.#arguments.to = end;
    }
    this.#inValue = false;
    this.#valueAt = null;
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
