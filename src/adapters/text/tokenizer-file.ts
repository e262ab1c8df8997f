import { isDeepStrictEqual } from 'node:util';

type Json = Readonly<Record<string, unknown>>;

/** A token as a `tokenizer.json` lists it. */
interface Token {
  readonly text: string;
  readonly special: boolean;
}

function isJson(value: unknown): value is Json {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Truncation and padding are what the last training run left set; neither is part of the tokenizer. */
const NOT_COMPARED = new Set(['version', 'truncation', 'padding', 'added_tokens', 'model']);

/**
 * A parsed `tokenizer.json`: which token each id is, and whether two of them are the same. What it may hold beyond that
 * is for the library that runs it to judge.
 */
export class TokenizerFile {
  /** By id; the added tokens of the file go before its model's. */
  readonly tokens: ReadonlyMap<number, Token>;
  readonly #ids = new Map<string, number>();
  readonly #json: Json;
  #usable: Buffer<ArrayBuffer> | null = null;

  /** `source` is JSON. Throws an Error that says what is wrong. */
  constructor(source: string) {
    const json: unknown = JSON.parse(source);
    if (!isJson(json)) throw new Error('not a JSON object');
    if (!isJson(json.model)) throw new Error('"model" is not an object');
    this.#json = json;
    const tokens = new Map<number, Token>();
    for (const [text, id] of modelTokens(json.model)) tokens.set(id, { text, special: false });
    for (const { id, content, special } of addedTokens(json)) tokens.set(id, { text: content, special });
    for (const [id, { text }] of tokens) this.#ids.set(text, id);
    this.tokens = tokens;
  }

  /** One above the highest id. */
  get size(): number {
    let size = 0;
    for (const id of this.tokens.keys()) if (id >= size) size = id + 1;
    return size;
  }

  idOf(text: string): number | undefined {
    return this.#ids.get(text);
  }

  /** Whether both encode and decode alike, as far as their files show. */
  equals(other: TokenizerFile): boolean {
    return isDeepStrictEqual(canonical(this.#json), canonical(other.#json));
  }

  /** Whether both turn each id below `count` into the same bytes, and hide the same ones as special. */
  sharesIds(other: TokenizerFile, count: number): boolean {
    for (let id = 0; id < count; id += 1) {
      const [a, b] = [this.tokens.get(id), other.tokens.get(id)];
      if (a?.text !== b?.text || a?.special !== b?.special) return false;
    }
    return isDeepStrictEqual(stage('decoder', this.#json.decoder), stage('decoder', other.#json.decoder));
  }

  /** The file in UTF-8 without what a training run left set, to be used for single texts. */
  get usable(): Uint8Array<ArrayBuffer> {
    this.#usable ??= Buffer.from(JSON.stringify({ ...this.#json, truncation: null, padding: null }));
    return this.#usable;
  }
}

function* modelTokens({ vocab }: Json): Generator<readonly [string, number]> {
  if (Array.isArray(vocab)) {
    for (const [id, entry] of vocab.entries()) {
      const text: unknown = Array.isArray(entry) ? entry[0] : null;
      if (typeof text !== 'string') throw new Error(`"model.vocab" has no text at ${id}`);
      yield [text, id];
    }
    return;
  }
  if (!isJson(vocab)) throw new Error('"model.vocab" is neither an object nor a list');
  for (const [text, id] of Object.entries(vocab)) yield [text, idOf(id, `"model.vocab" at ${JSON.stringify(text)}`)];
}

function* addedTokens({ added_tokens: added }: Json): Generator<{ id: number; content: string; special: boolean }> {
  if (added === undefined || added === null) return;
  if (!Array.isArray(added)) throw new Error('"added_tokens" is not a list');
  for (const entry of added as readonly unknown[]) {
    if (!isJson(entry) || typeof entry.content !== 'string')
      throw new Error('"added_tokens" has an entry without text');
    yield { id: idOf(entry.id, '"added_tokens"'), content: entry.content, special: entry.special === true };
  }
}

function idOf(value: unknown, where: string): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < 2 ** 32) return value;
  throw new Error(`${where} has no token id`);
}

/** Equal for files that differ only in how they are written down. */
function canonical(json: Json): unknown {
  const pipeline = Object.entries(json)
    .filter(([key]) => !NOT_COMPARED.has(key))
    .map(([key, value]) => [key, stage(key, value)] as const)
    .filter(([, value]) => value !== undefined);
  const added = Array.isArray(json.added_tokens) ? (json.added_tokens as readonly Json[]) : [];
  return {
    ...Object.fromEntries(pipeline),
    model: canonicalModel(json.model as Json),
    added_tokens: [...added].sort((a, b) => Number(a.id) - Number(b.id)).map(set),
  };
}

/** Merges are pairs in newer files and texts in older ones. */
function canonicalModel({ merges, vocab, ...rest }: Json): unknown {
  const spelled = (pair: unknown): unknown =>
    Array.isArray(pair) ? pair.join('\0') : typeof pair === 'string' ? pair.replace(/(?<=.) /su, '\0') : pair;
  const pairs = Array.isArray(merges) ? merges.map(spelled) : null;
  return { ...set(rest), vocab, merges: pairs };
}

/** Without what is off or absent, which are the same in a model's settings and in an added token's. */
function set(fields: Json): Json {
  const isOff = (value: unknown): boolean => value === null || value === false || value === '';
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => !isOff(value)));
}

/**
 * A stage of the pipeline, undefined for one that changes nothing. Byte-level stages decode in one way only, and after
 * the model they move offsets only; Transformers saves a template of the text alone where there was none.
 */
function stage(key: string, value: unknown): unknown {
  if (!isJson(value)) return plain(value);
  const { type } = value;
  if (key === 'decoder' && type === 'ByteLevel') return { type };
  if (key === 'post_processor' && (type === 'ByteLevel' || addsNothing(value))) return undefined;
  return plain(value);
}

function addsNothing({ type, single }: Json): boolean {
  if (type !== 'TemplateProcessing' || !Array.isArray(single) || single.length !== 1) return false;
  const piece: unknown = single[0];
  return isJson(piece) && isJson(piece.Sequence);
}

/** A part of the pipeline without what cannot change ids or text; undefined for one that is not there. */
function plain(value: unknown): unknown {
  if (value === null || value === undefined) return undefined;
  if (Array.isArray(value)) return value.map(plain);
  if (!isJson(value)) return value;
  const { trim_offsets: _offsets, ...fields } = value;
  const whole = value.type === 'ByteLevel' ? { use_regex: true, ...fields } : fields;
  const entries = Object.entries(whole).map(([key, each]) => [key, plain(each)] as const);
  return Object.fromEntries(entries.filter(([, each]) => each !== undefined));
}
