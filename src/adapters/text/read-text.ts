import { createHash } from 'node:crypto';
import { ChatTemplate } from '../../chat/chat-template.js';
import type { AdapterText, ReadText, TextFile } from '../../core/adapter-text.js';
import { type LoramuxError, type Offender, toLoramuxError } from '../../core/errors.js';
import {
  configuredTemplate,
  SPECIAL_TOKEN_NAMES,
  type SpecialTokens,
  specialTokensOf,
} from '../../core/tokenizer-config.js';
import type { NativeTokenizer } from '../../engine/binding.js';
import { invalidAdapter } from '../offenders.js';
import { TokenizerFile } from './tokenizer-file.js';

/** How the base handles text, and how much room its vocabulary has. */
export interface BaseText {
  readonly tokenizer: TokenizerFile;
  readonly template: string | null;
  readonly specialTokens: SpecialTokens;
  readonly eosTokenIds: readonly number[];
  /** Rows of the embedding. */
  readonly vocabSize: number;
  /** Ids at or above this are never generated. */
  readonly tokenCount: number;
}

type Fields = Readonly<Record<string, unknown>>;
type OpenTokenizer = (json: Uint8Array) => Promise<Pick<NativeTokenizer, 'encode' | 'vocabSize'>>;

/** Files of tokenizers in forms that are not read here. */
const OTHER_FORMS = ['tokenizer.model', 'vocab.json', 'merges.txt'];
/** A tokenizer for the same embedding may take twice the base's bytes and these: reading it holds the event loop up. */
const SPARE_BYTES = 2 ** 20;
/** Encoded by every new tokenizer before it is used: its own additions to a text must fit the base too. */
const PROBE = 'Probe 1';

/**
 * Decides whether an adapter's files handle text otherwise than the base, and how. `place` names the adapter's
 * directory in messages. Errors: ERR_ADAPTER_INVALID with every file that cannot be used.
 */
export async function readText(
  place: string,
  files: readonly TextFile[],
  base: BaseText,
  openTokenizer: OpenTokenizer,
): Promise<ReadText> {
  const offenders: Offender[] = [];
  const warnings: string[] = [];
  const content = new Map(files.map(({ path, content }) => [path, content]));
  const fieldsOf = (path: string): Fields => fieldsIn(path, content.get(path), offenders);
  const config = fieldsOf('tokenizer_config.json');
  const special = fieldsOf('special_tokens_map.json');
  const own = ownTokenizer(content.get('tokenizer.json'), base, offenders);
  const tokenizer = own ?? base.tokenizer;
  const template = templateOf(content, config, fieldsOf, offenders) ?? base.template;
  // Without its tokenizer nothing can be said about the tokens that the other files name.
  const readable = own !== null || !offenders.some(({ key }) => key === 'tokenizer.json');
  if (readable) checkAdded(fieldsOf('added_tokens.json'), config, tokenizer, own !== null, offenders);
  const named = { ...special, ...config };
  const specialTokens = specialTokensFor(template, named, content.has('tokenizer.json') ? {} : base.specialTokens);
  const eosTokenIds = readable ? endsOf(named, tokenizer, base, offenders) : base.eosTokenIds;
  if (own !== null) checkRoom(own, eosTokenIds, base, offenders, warnings);
  if (template !== null && template !== base.template) checkTemplate(template, specialTokens, offenders);
  if (own !== null && offenders.length === 0) await checkNative(own, base, openTokenizer, offenders);
  if (offenders.length > 0) throw refusal(place, offenders);
  const unread = OTHER_FORMS.filter((name) => content.has(name));
  if (unread.length > 0 && !content.has('tokenizer.json')) {
    warnings.push(`ships ${unread.join(', ')}, which are not read: save its tokenizer.json too, or the base's is used`);
  }
  const parts = {
    template,
    ownTemplate: template !== base.template,
    specialTokens,
    eosTokenIds,
    sharesVocabulary: own === null || own.sharesIds(base.tokenizer, base.tokenCount),
  };
  const isBase =
    own === null &&
    !parts.ownTemplate &&
    sameTokens(specialTokens, specialTokensFor(template, {}, base.specialTokens)) &&
    String(eosTokenIds) === String([...base.eosTokenIds].sort(ascending));
  return { text: isBase ? null : withDigest(parts, own), warnings };
}

function refusal(place: string, offenders: readonly Offender[]): LoramuxError {
  const hint =
    'Save the tokenizer that the adapter was trained with into its directory, or remove the files: text is then handled as the base handles it';
  return invalidAdapter(place, offenders, hint);
}

function reasonOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

function textOf(content: Uint8Array): string {
  return new TextDecoder('utf-8', { fatal: true }).decode(content);
}

/** Of a file that may be absent. */
function fieldsIn(path: string, content: Uint8Array | undefined, offenders: Offender[]): Fields {
  if (content === undefined) return {};
  try {
    const value: unknown = JSON.parse(textOf(content));
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Fields;
    offenders.push({ key: path, expected: 'a JSON object', found: 'another value' });
  } catch (thrown) {
    offenders.push({ key: path, expected: 'JSON in UTF-8', found: reasonOf(thrown) });
  }
  return {};
}

/** The adapter's tokenizer; null when it ships none or the base's. */
function ownTokenizer(content: Uint8Array | undefined, base: BaseText, offenders: Offender[]): TokenizerFile | null {
  if (content === undefined) return null;
  try {
    const file = new TokenizerFile(textOf(content));
    return file.equals(base.tokenizer) ? null : file;
  } catch (thrown) {
    const expected = 'a tokenizer.json of the Hugging Face format';
    offenders.push({ key: 'tokenizer.json', expected, found: reasonOf(thrown) });
    return null;
  }
}

/** The adapter's template, in the order in which Transformers looks for it; null when it ships none. */
function templateOf(
  content: ReadonlyMap<string, Uint8Array>,
  config: Fields,
  fieldsOf: (path: string) => Fields,
  offenders: Offender[],
): string | null {
  const file = content.get('chat_template.jinja');
  if (file !== undefined) {
    try {
      return textOf(file);
    } catch (thrown) {
      offenders.push({ key: 'chat_template.jinja', expected: 'a template in UTF-8', found: reasonOf(thrown) });
      return null;
    }
  }
  for (const [path, fields] of [
    ['tokenizer_config.json', config],
    ['chat_template.json', fieldsOf('chat_template.json')],
  ] as const) {
    const template = configuredTemplate(fields);
    if (typeof template === 'string') return template;
    if (template === undefined) {
      const expected = 'text, or a list with an entry named default';
      offenders.push({ key: `${path}: chat_template`, expected, found: 'neither' });
    }
  }
  return null;
}

/** Tokens that other files add must be in the tokenizer, for Transformers would add them to it. */
function checkAdded(
  legacy: Fields,
  config: Fields,
  tokenizer: TokenizerFile,
  isOwn: boolean,
  offenders: Offender[],
): void {
  const decoder = config.added_tokens_decoder;
  const listed = typeof decoder === 'object' && decoder !== null ? Object.entries(decoder) : [];
  const added = [
    ...Object.entries(legacy).map(([text, id]) => ['added_tokens.json', text, id] as const),
    ...listed.map(
      ([id, token]) => ['tokenizer_config.json', (token as { content?: unknown } | null)?.content, Number(id)] as const,
    ),
  ];
  for (const [path, text, id] of added) {
    if (typeof text === 'string' && tokenizer.idOf(text) === id) continue;
    const expected = `${JSON.stringify(text)} to be token ${id} of ${isOwn ? 'its tokenizer.json' : "the base's tokenizer"}`;
    const found = typeof text === 'string' ? (tokenizer.idOf(text) ?? 'no such token') : 'no text';
    offenders.push({ key: path, expected, found: String(found) });
  }
}

/** Special tokens that a template can show; files that say none leave those of `others`. */
function specialTokensFor(template: string | null, named: Fields, others: SpecialTokens): SpecialTokens {
  const own = specialTokensOf(named);
  const shown: Partial<Record<string, string>> = {};
  for (const name of SPECIAL_TOKEN_NAMES) {
    const text = name in named ? own[name] : others[name];
    if (text !== undefined && template?.includes(name) === true) shown[name] = text;
  }
  return shown;
}

function sameTokens(a: SpecialTokens, b: SpecialTokens): boolean {
  return SPECIAL_TOKEN_NAMES.every((name) => a[name] === b[name]);
}

/** The adapter's own end token, and those of the base's that are the same tokens here. */
function endsOf(named: Fields, tokenizer: TokenizerFile, base: BaseText, offenders: Offender[]): readonly number[] {
  const ends = base.eosTokenIds.filter((id) => tokenizer.tokens.get(id)?.text === base.tokenizer.tokens.get(id)?.text);
  const { eos_token: text } = specialTokensOf(named);
  const id = text === undefined ? undefined : tokenizer.idOf(text);
  if (text !== undefined && id === undefined) {
    const expected = 'a token of the tokenizer';
    offenders.push({ key: 'tokenizer_config.json: eos_token', expected, found: JSON.stringify(text) });
  }
  const all = [...new Set(id === undefined ? ends : [...ends, id])].sort(ascending);
  if (all.length === 0 && text === undefined) {
    const expected = 'an end token: the base has none of its own in this tokenizer';
    offenders.push({ key: 'tokenizer_config.json: eos_token', expected, found: 'none' });
  }
  return all;
}

function ascending(a: number, b: number): number {
  return a - b;
}

/** The ids must be rows of the embedding; those that end a generation must be ones that can be generated. */
function checkRoom(
  own: TokenizerFile,
  eosTokenIds: readonly number[],
  base: BaseText,
  offenders: Offender[],
  warnings: string[],
): void {
  const { vocabSize, tokenCount } = base;
  if (own.size > vocabSize) {
    const expected = `token ids below ${vocabSize}, the rows of the base's embedding (resized ones are not served: put new tokens in the place of unused ones)`;
    offenders.push({ key: 'tokenizer.json', expected, found: `ids up to ${own.size - 1}` });
    return;
  }
  const most = 2 * base.tokenizer.usable.byteLength + SPARE_BYTES;
  if (own.usable.byteLength > most) {
    const expected = `at most ${most} bytes, for the base's takes ${base.tokenizer.usable.byteLength}`;
    offenders.push({ key: 'tokenizer.json', expected, found: `${own.usable.byteLength}` });
  }
  const never = eosTokenIds.filter((id) => id >= tokenCount);
  if (never.length > 0) {
    const expected = `an end token below ${tokenCount}: the base has no tokens from there on, and they are never generated`;
    offenders.push({ key: 'tokenizer_config.json: eos_token', expected, found: `token ${never.join(', ')}` });
  } else if (own.size > tokenCount) {
    warnings.push(
      `its tokens ${tokenCount} to ${own.size - 1} are padding of the base's embedding: they are read in prompts, never generated`,
    );
  }
}

function checkTemplate(template: string, specialTokens: SpecialTokens, offenders: Offender[]): void {
  try {
    new ChatTemplate(template, specialTokens);
  } catch (thrown) {
    offenders.push({ key: 'chat_template', expected: 'a Jinja template', found: toLoramuxError(thrown).message });
  }
}

/** Whether the library takes the file, and adds no ids of its own that the base lacks. */
async function checkNative(
  own: TokenizerFile,
  { vocabSize }: BaseText,
  openTokenizer: OpenTokenizer,
  offenders: Offender[],
): Promise<void> {
  const key = 'tokenizer.json';
  try {
    const native = await openTokenizer(own.usable);
    const outside = (await native.encode(PROBE, true)).find((id) => id >= vocabSize);
    if (outside === undefined) return;
    offenders.push({ key, expected: `token ids below ${vocabSize}`, found: `${outside} in a text` });
  } catch (thrown) {
    const expected = 'a tokenizer.json of the Hugging Face format';
    offenders.push({ key, expected, found: reasonOf(thrown) });
  }
}

function withDigest(parts: Omit<AdapterText, 'digest' | 'tokenizer'>, own: TokenizerFile | null): AdapterText {
  const json = own?.usable ?? null;
  const { template, specialTokens, eosTokenIds } = parts;
  const digest = createHash('sha256')
    .update(JSON.stringify([template, Object.entries(specialTokens).sort(), eosTokenIds]))
    .update(json ?? '')
    .digest('hex');
  return { ...parts, digest, tokenizer: json === null ? null : shared(json) };
}

function shared(bytes: Uint8Array): SharedArrayBuffer {
  const buffer = new SharedArrayBuffer(bytes.byteLength);
  new Uint8Array(buffer).set(bytes);
  return buffer;
}
