import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type BaseText, readText } from '../../../../src/adapters/text/read-text.js';
import { TokenizerFile } from '../../../../src/adapters/text/tokenizer-file.js';
import type { ReadText, TextFile } from '../../../../src/core/adapter-text.js';
import { LoramuxError } from '../../../../src/core/errors.js';
import { FIXTURES } from '../../../helpers/paths.js';

const MODEL = join(FIXTURES, 'synthetic', 'models', 'llama-gqa-tied');
const OWN = join(FIXTURES, 'own-text');
const SOURCE = readFileSync(join(MODEL, 'tokenizer.json'), 'utf8');

const BASE: BaseText = {
  tokenizer: new TokenizerFile(SOURCE),
  template: readFileSync(join(MODEL, 'chat_template.jinja'), 'utf8'),
  specialTokens: { bos_token: '<|im_start|>', eos_token: '<|im_end|>', pad_token: '<|pad|>' },
  eosTokenIds: [2],
  vocabSize: 280,
  tokenCount: 280,
};

interface Json {
  [key: string]: unknown;
  model: { vocab: Record<string, number>; merges: unknown[] };
  added_tokens: { id: number; content: string; special: boolean }[];
}

/** The base's tokenizer.json with changes. */
function changed(change: (json: Json) => void): string {
  const json = JSON.parse(SOURCE) as Json;
  change(json);
  return JSON.stringify(json);
}

function fileOf(path: string, content: string): TextFile {
  const bytes = new TextEncoder().encode(content);
  return { path, bytes: bytes.byteLength, sha256: path, content: bytes };
}

async function read(files: Readonly<Record<string, string>>, base: BaseText = BASE): Promise<ReadText> {
  const list = Object.entries(files).map(([path, content]) => fileOf(path, content));
  return readText('/adapters/x', list, base, async () => ({
    encode: async () => Uint32Array.of(1),
    vocabSize: () => 280,
  }));
}

async function shipped(name: string): Promise<ReadText> {
  const files = ['chat_template.jinja', 'tokenizer.json', 'tokenizer_config.json'];
  return read(Object.fromEntries(files.map((file) => [file, readFileSync(join(OWN, name, file), 'utf8')])));
}

/** Offenders of a refusal by key. */
async function refused(files: Readonly<Record<string, string>>, base: BaseText = BASE): Promise<string> {
  try {
    await read(files, base);
  } catch (thrown) {
    assert.ok(thrown instanceof LoramuxError);
    assert.equal(thrown.code, 'ERR_ADAPTER_INVALID');
    assert.match(thrown.message, /^\/adapters\/x: /);
    return (thrown.details?.offenders ?? [])
      .map(({ key, expected, found }) => `${key}: ${expected}: ${found}`)
      .join('\n');
  }
  assert.fail('nothing was refused');
}

test('files that say what the base says make no text of their own', async () => {
  const same = changed((json) => {
    json.truncation = { max_length: 6 };
    json.padding = { pad_id: 3 };
    json.version = '2.0';
    json.post_processor = { type: 'TemplateProcessing', single: [{ Sequence: { id: 'A' } }], pair: [] };
    json.model.merges = json.model.merges.map((pair) => (Array.isArray(pair) ? pair.join(' ') : pair));
    json.added_tokens.reverse();
    (json.model as Record<string, unknown>).ignore_merges = false;
  });
  const config = JSON.stringify({ bos_token: '<|im_start|>', eos_token: '<|im_end|>', pad_token: '<|im_end|>' });
  const files = { 'tokenizer.json': same, 'tokenizer_config.json': config, 'added_tokens.json': '{"<|pad|>": 3}' };
  assert.deepEqual(await read(files), { text: null, warnings: [] });
  assert.equal((await read({ 'chat_template.jinja': BASE.template ?? '' })).text, null);
  assert.equal((await read({ 'special_tokens_map.json': '{}' })).text, null);
});

test('a template of its own leaves the tokenizer to the base', async () => {
  const { text } = await shipped('template');
  assert.ok(text?.ownTemplate);
  assert.equal(text.tokenizer, null);
  assert.deepEqual(text.specialTokens, { eos_token: '<|im_end|>' });
  assert.deepEqual(text.eosTokenIds, [2]);
  assert.ok(text.sharesVocabulary);
});

test('another vocabulary brings its own end token and leaves those of the base that mean something else', async () => {
  const { text, warnings } = await shipped('vocabulary');
  assert.deepEqual(text?.eosTokenIds, [1]);
  assert.equal(text?.sharesVocabulary, false);
  assert.deepEqual(text?.specialTokens, { bos_token: '<|start|>', eos_token: '<|end|>' });
  assert.deepEqual(warnings, []);
  const kept = JSON.parse(
    new TextDecoder().decode(new Uint8Array(text?.tokenizer ?? new SharedArrayBuffer(0)).slice()),
  ) as Json;
  assert.deepEqual([kept.truncation, kept.padding], [null, null]);
});

test("a token in the place of one of the base's keeps the base's end", async () => {
  const { text } = await shipped('added-token');
  assert.deepEqual(text?.eosTokenIds, [2, 279]);
  assert.equal(text?.sharesVocabulary, false);
});

test('another way to cut texts into the same tokens shares the vocabulary', async () => {
  const lower = changed((json) => {
    json.normalizer = { type: 'Lowercase' };
  });
  const { text } = await read({ 'tokenizer.json': lower, 'tokenizer_config.json': '{"eos_token":"<|im_end|>"}' });
  assert.ok(text?.tokenizer);
  assert.ok(text.sharesVocabulary);
  const hidden = changed((json) => {
    json.added_tokens.push({ id: 200, content: '', special: true });
    const [word = ''] = Object.entries(json.model.vocab).find(([, id]) => id === 200) ?? [];
    Object.assign(json.added_tokens.at(-1) ?? {}, { content: word });
  });
  assert.equal((await read({ 'tokenizer.json': hidden })).text?.sharesVocabulary, false);
});

test('equal files have one digest, different ones have others', async () => {
  const [a, b, c] = [await shipped('template'), await shipped('template'), await shipped('vocabulary')];
  assert.equal(a.text?.digest, b.text?.digest);
  assert.notEqual(a.text?.digest, c.text?.digest);
  const ends = await read({ 'tokenizer_config.json': '{"eos_token": "<|pad|>"}' });
  assert.deepEqual(ends.text?.eosTokenIds, [2, 3]);
  assert.notEqual(ends.text?.digest, a.text?.digest);
});

test('the file of the template goes before the configuration, and that before the older file', async () => {
  const config = JSON.stringify({
    chat_template: [
      { name: 'rag', template: 'r' },
      { name: 'default', template: 'c' },
    ],
  });
  const older = '{"chat_template": "j"}';
  const templateOf = async (files: Readonly<Record<string, string>>) => (await read(files)).text?.template;
  assert.equal(await templateOf({ 'chat_template.json': older }), 'j');
  assert.equal(await templateOf({ 'chat_template.json': older, 'tokenizer_config.json': config }), 'c');
  const all = { 'chat_template.json': older, 'tokenizer_config.json': config, 'chat_template.jinja': 'f' };
  assert.equal(await templateOf(all), 'f');
});

test('tokens beyond the embedding are refused, tokens in its padding are not generated', async () => {
  const added = changed((json) => {
    json.added_tokens.push({ id: 280, content: '<|new|>', special: true });
  });
  assert.match(await refused({ 'tokenizer.json': added }), /^tokenizer\.json: token ids below 280.*: ids up to 280$/);
  const padded = { ...BASE, vocabSize: 288 };
  const { text, warnings } = await read(
    { 'tokenizer.json': added, 'tokenizer_config.json': '{"eos_token":"<|im_end|>"}' },
    padded,
  );
  assert.ok(text?.sharesVocabulary);
  assert.match(warnings[0] ?? '', /tokens 280 to 280 are padding .* never generated/);
  const end = { 'tokenizer.json': added, 'tokenizer_config.json': '{"eos_token":"<|new|>"}' };
  assert.match(await refused(end, padded), /eos_token: an end token below 280.*: token 280$/);
});

test('a tokenizer far larger than the base needs is refused', async () => {
  const large = changed((json) =>
    Object.assign(json, { normalizer: { type: 'Lowercase', note: 'x'.repeat(2 ** 21) } }),
  );
  assert.match(await refused({ 'tokenizer.json': large }), /^tokenizer\.json: at most \d+ bytes, .*: 2\d{6}$/);
});

test('every file that cannot be used is named', async () => {
  const files = {
    'tokenizer.json': '{"model": {"vocab": 3}}',
    'tokenizer_config.json': '[]',
    'special_tokens_map.json': '{',
    'chat_template.jinja': '{% if %}',
  };
  const offenders = await refused(files);
  assert.match(offenders, /^tokenizer_config\.json: a JSON object: another value$/m);
  assert.match(offenders, /^special_tokens_map\.json: JSON in UTF-8: /m);
  assert.match(offenders, /^tokenizer\.json: a tokenizer\.json of the Hugging Face format: "model\.vocab"/m);
  assert.match(offenders, /^chat_template: a Jinja template: /m);
});

test('an end token or an added token that the tokenizer lacks is refused', async () => {
  assert.match(
    await refused({ 'tokenizer_config.json': '{"eos_token":"<|turn|>"}' }),
    /eos_token: a token of the tokenizer: "<\|turn\|>"/,
  );
  assert.match(
    await refused({ 'added_tokens.json': '{"<|turn|>": 279}' }),
    /added_tokens\.json: .*the base's tokenizer: no such token/,
  );
  const decoder = JSON.stringify({ added_tokens_decoder: { 279: { content: '<|pad|>' } } });
  assert.match(await refused({ 'tokenizer_config.json': decoder }), /"<\|pad\|>" to be token 279.*: 3$/);
  assert.match(await refused({ 'tokenizer_config.json': '{"chat_template": []}' }), /chat_template: text, or a list/);
});

test('a file that the library refuses is refused, and so are ids that it adds to a text', async () => {
  const lower = fileOf(
    'tokenizer.json',
    changed((json) => Object.assign(json, { normalizer: { type: 'Lowercase' } })),
  );
  const failing = readText('/x', [lower], BASE, async () => Promise.reject(new Error('no such normalizer')));
  await assert.rejects(failing, /tokenizer\.json: expected .*, found no such normalizer/);
  const adding = readText('/x', [lower], BASE, async () => ({
    encode: async () => Uint32Array.of(5, 900),
    vocabSize: () => 280,
  }));
  await assert.rejects(adding, /expected token ids below 280, found 900 in a text/);
});

test('vocabularies in other forms are said to be unread', async () => {
  assert.match(
    (await read({ 'tokenizer.model': 'x' })).warnings[0] ?? '',
    /ships tokenizer\.model, which are not read/,
  );
});
