import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { decodingContext, IncrementalDecoder } from '../../../src/tokenizer/incremental-decoder.js';
import { ByteTokenizer } from '../../helpers/byte-tokenizer.js';

const EXTRA = ['é', '€ ', 'hello', '\n\n', '😀'].map((text) => new TextEncoder().encode(text));
const tokenizer = new ByteTokenizer([...EXTRA, Uint8Array.of(0xe2, 0x82), Uint8Array.of(0x80, 0x41)]);

/** Any bytes at all, and tokens of several bytes. */
const anyIds = fc.array(fc.oneof(fc.integer({ min: 0, max: 255 }), fc.integer({ min: 300, max: 306 })));
/** Bytes of real text, cut anywhere. */
const textIds = fc.string({ unit: 'grapheme' }).map((text) => [...new TextEncoder().encode(text)]);

function decodeAll(ids: readonly number[], context: readonly number[] = []): { deltas: string[]; flush: string } {
  const decoder = new IncrementalDecoder(tokenizer, context);
  const deltas = ids.map((id) => decoder.push(id));
  return { deltas, flush: decoder.flush() };
}

test('deltas and flush are the whole decode, for every prefix of any bytes', () => {
  fc.assert(
    fc.property(anyIds, (ids) => {
      for (let length = 0; length <= ids.length; length += 1) {
        const prefix = ids.slice(0, length);
        const { deltas, flush } = decodeAll(prefix);
        assert.equal(deltas.join('') + flush, tokenizer.decode(Uint32Array.from(prefix), false));
      }
    }),
  );
});

test('after a context, they are what the tokens add to it', () => {
  fc.assert(
    fc.property(textIds, textIds, (prompt, ids) => {
      const context = decodingContext(tokenizer, prompt);
      const { deltas, flush } = decodeAll(ids, context);
      assert.equal(deltas.join('') + flush, tokenizer.decode(Uint32Array.from(ids), false));
    }),
  );
});

test('no delta holds a cut character', () => {
  fc.assert(
    fc.property(textIds, (ids) => {
      const { deltas, flush } = decodeAll(ids);
      assert.ok(deltas.every((delta) => !delta.includes('\uFFFD')));
      assert.equal(flush, '');
    }),
  );
});

test('a context keeps the space that a lone first word would lose', () => {
  const words = ['', ' hello', ' world'];
  const stripping = {
    decode: (ids: Uint32Array): string =>
      [...ids]
        .map((id) => words[id] ?? '')
        .join('')
        .replace(/^ /, ''),
  };
  assert.equal(new IncrementalDecoder(stripping).push(2), 'world');
  assert.equal(new IncrementalDecoder(stripping, decodingContext(stripping, [1])).push(2), ' world');
});

test('a context of nothing but broken characters is none', () => {
  assert.deepEqual(decodingContext(tokenizer, Array(40).fill(0x80)), []);
  assert.deepEqual(decodingContext(tokenizer, []), []);
  assert.deepEqual(decodingContext(tokenizer, [...new TextEncoder().encode('abcdefgh')]).length, 5);
});

test('only a few tokens are decoded at a time, however long the text is', () => {
  let longest = 0;
  const counting = {
    decode: (ids: Uint32Array, skip: boolean): string => {
      longest = Math.max(longest, ids.length);
      return tokenizer.decode(ids, skip);
    },
  };
  const decoder = new IncrementalDecoder(counting);
  for (const id of new TextEncoder().encode('aé€😀'.repeat(200))) decoder.push(id);
  assert.ok(longest <= 8, `decoded ${longest} tokens at once`);
});
