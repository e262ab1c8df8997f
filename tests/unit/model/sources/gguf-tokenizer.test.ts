import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { parseGgufHeader } from '../../../../src/model/sources/gguf-file.js';
import { buildTokenizerJson } from '../../../../src/model/sources/gguf-tokenizer.js';
import { PRE_TOKENIZERS } from '../../../../src/model/sources/pre-tokenizers.js';
import { mergesFromScores } from '../../../../src/model/sources/sentencepiece-merges.js';
import { type GgufField, writeGguf } from '../helpers/gguf-writer.js';
import { loramuxError } from '../helpers/temporary.js';
import { TINY_TOKENS, tinyMetadata } from '../helpers/tiny-gguf.js';

function build(metadata: Record<string, GgufField>) {
  const bytes = writeGguf({ ...tinyMetadata(), ...metadata }, []);
  return JSON.parse(buildTokenizerJson(parseGgufHeader(bytes, bytes.length, 'x.gguf'), 'x.gguf'));
}

interface Splitting {
  readonly pretokenizers: readonly { readonly pattern?: { readonly Regex: string } }[];
}

const pre = (value: string): Record<string, GgufField> => ({ 'tokenizer.ggml.pre': { type: 'string', value } });

describe('byte-level BPE', () => {
  test('vocabulary, merges and added tokens', () => {
    const json = build({});
    assert.deepEqual(json.model.vocab, Object.fromEntries(TINY_TOKENS.map((token, id) => [token, id])));
    assert.deepEqual(json.model.merges, [['a', 'b']]);
    assert.equal(json.model.ignore_merges, false);
    assert.equal(json.post_processor, null);
    assert.equal(json.decoder.type, 'ByteLevel');
    const added = json.added_tokens.map(({ id, content, special, normalized }: Record<string, unknown>) => [
      id,
      content,
      special,
      normalized,
    ]);
    assert.deepEqual(added, [
      [0, '<s>', true, false],
      [1, '</s>', true, false],
      [7, '<tool>', false, false],
    ]);
  });

  test('smollm splits single digits before words', () => {
    assert.deepEqual(build({}).pre_tokenizer.pretokenizers[0], { type: 'Digits', individual_digits: true });
  });

  test('llama-bpe ignores merges for whole words and puts BOS first', () => {
    const json = build(pre('llama-bpe'));
    assert.equal(json.model.ignore_merges, true);
    assert.deepEqual(json.post_processor.special_tokens, { '<s>': { id: '<s>', ids: [0], tokens: ['<s>'] } });
    const off = build({ ...pre('llama-bpe'), 'tokenizer.ggml.add_bos_token': { type: 'bool', value: 0 } });
    assert.equal(off.post_processor, null);
  });

  test('qwen2 normalises to NFC', () => {
    assert.deepEqual(build(pre('qwen2')).normalizer, { type: 'NFC' });
  });

  test('every split pattern compiles and cuts digits as its family does', () => {
    const pieces = (name: string, text: string) => {
      const json = PRE_TOKENIZERS.get(name)?.json as Splitting | undefined;
      let parts = [text];
      for (const { pattern } of json?.pretokenizers ?? []) {
        if (pattern === undefined) continue;
        const cut = new RegExp(`(${pattern.Regex})`, 'u');
        parts = parts.flatMap((part) => part.split(cut).filter((piece) => piece));
      }
      return parts;
    };
    assert.deepEqual(pieces('llama-bpe', "It's 12345 ok"), ['It', "'s", ' ', '123', '45', ' ok']);
    assert.deepEqual(pieces('qwen2', '12 ab\n\n c'), ['1', '2', ' ab', '\n\n', ' c']);
    assert.deepEqual(pieces('tekken', 'HelloWorld 12'), ['Hello', 'World', ' ', '1', '2']);
    assert.deepEqual(pieces('default', 'a+b 1234'), ['a', '+', 'b', ' ', '123', '4']);
    for (const name of PRE_TOKENIZERS.keys()) if (name !== 'smollm') pieces(name, 'x 1');
  });

  test('a token named __proto__ stays a token', () => {
    const tokens = [...TINY_TOKENS.slice(0, 7), '__proto__'];
    const json = build({ 'tokenizer.ggml.tokens': { type: 'strings', value: tokens } });
    assert.equal(Object.getOwnPropertyDescriptor(json.model.vocab, '__proto__')?.value, 7);
  });

  test('unknown splittings, models and merges are refused by name', () => {
    assert.throws(
      () => build(pre('martian')),
      loramuxError('ERR_MODEL_UNSUPPORTED', 'tokenizer.ggml.pre', 'martian', 'smollm'),
    );
    assert.throws(
      () => build({ 'tokenizer.ggml.model': { type: 'string', value: 't5' } }),
      loramuxError('ERR_MODEL_UNSUPPORTED', 't5'),
    );
    assert.throws(
      () => build({ 'tokenizer.ggml.merges': { type: 'strings', value: ['a b', 'a z'] } }),
      loramuxError('ERR_MODEL_INVALID', 'tokenizer.ggml.merges', 'entry 1', 'a z'),
    );
    assert.throws(
      () => build({ 'tokenizer.ggml.token_type': { type: 'i32s', value: [1] } }),
      loramuxError('ERR_MODEL_INVALID', 'token_type', '8'),
    );
  });

  test('unused tokens after the last real one are padding, not tokens', () => {
    const types = [3, 3, 1, 1, 5, 1, 1, 5];
    const json = build({ 'tokenizer.ggml.token_type': { type: 'i32s', value: types } });
    assert.equal(Object.keys(json.model.vocab).length, 7);
    assert.equal(json.model.vocab.c, 4, 'one in between keeps its place');
    assert.throws(
      () => build({ 'tokenizer.ggml.token_type': { type: 'i32s', value: types.map(() => 5) } }),
      loramuxError('ERR_MODEL_INVALID', 'token_type', 'unused'),
    );
  });

  test('a whole tokenizer.json in the file is preferred', () => {
    const stored = { 'tokenizer.huggingface.json': { type: 'string', value: '{"model":1}' } } as const;
    assert.deepEqual(build(stored), { model: 1 });
    assert.throws(
      () => build({ 'tokenizer.huggingface.json': { type: 'string', value: '{' } }),
      loramuxError('ERR_MODEL_INVALID'),
    );
  });
});

describe('SentencePiece BPE', () => {
  const metadata: Record<string, GgufField> = {
    'tokenizer.ggml.model': { type: 'string', value: 'llama' },
    'tokenizer.ggml.tokens': { type: 'strings', value: ['<unk>', '<s>', '</s>', '<0x0A>', '▁', 'a', '▁a', 's>'] },
    'tokenizer.ggml.token_type': { type: 'i32s', value: [2, 3, 3, 6, 1, 1, 1, 1] },
    'tokenizer.ggml.scores': { type: 'f32s', value: [0, 0, 0, 0, -3, -2, -1, -4] },
  };

  test('byte fallback, prefix space and BOS by default', () => {
    const json = build({ ...metadata, 'tokenizer.ggml.bos_token_id': { type: 'u32', value: 1 } });
    assert.equal(json.model.byte_fallback, true);
    assert.equal(json.model.unk_token, '<unk>');
    assert.deepEqual(json.model.merges, [['▁', 'a']]);
    assert.equal(json.pre_tokenizer.prepend_scheme, 'first');
    assert.deepEqual(json.decoder.decoders.at(-1), { type: 'Strip', content: ' ', start: 1, stop: 0 });
    assert.deepEqual(json.post_processor.single[0], { SpecialToken: { id: '<s>', type_id: 0 } });
  });

  test('merges go by score, then by the longer left piece', () => {
    const tokens = ['a', 'b', 'ab', 'ba', 'aba'];
    const merges = mergesFromScores(tokens, Float64Array.of(0, 0, -2, -1, -3), () => true);
    assert.deepEqual(merges, [
      ['b', 'a'],
      ['a', 'b'],
      ['ab', 'a'],
      ['a', 'ba'],
    ]);
    assert.deepEqual(
      mergesFromScores(tokens, new Float64Array(5), (id) => id < 2),
      [],
    );
  });

  test('scores must match the tokens', () => {
    assert.throws(
      () => build({ ...metadata, 'tokenizer.ggml.scores': { type: 'f32s', value: [1] } }),
      loramuxError('ERR_MODEL_INVALID', 'scores', '8', '1'),
    );
  });
});
