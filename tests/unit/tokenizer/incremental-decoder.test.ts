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
  // A replacement character that the text itself holds is no cut one.
  const whole = textIds.filter((ids) => !tokenizer.decode(Uint32Array.from(ids), false).includes('\uFFFD'));
  fc.assert(
    fc.property(whole, (ids) => {
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

/** Most tokens that are decoded at once while `ids` are pushed, and the text that comes out. */
function streamed(ids: Iterable<number>): { longest: number; text: string; deltas: string[] } {
  let longest = 0;
  const counting = {
    decode: (window: Uint32Array, skip: boolean): string => {
      longest = Math.max(longest, window.length);
      return tokenizer.decode(window, skip);
    },
  };
  const decoder = new IncrementalDecoder(counting);
  const deltas = [...ids].map((id) => decoder.push(id));
  return { longest, text: deltas.join('') + decoder.flush(), deltas };
}

test('only a few tokens are decoded at a time, however long the text is', () => {
  const { longest } = streamed(new TextEncoder().encode('aé€😀'.repeat(200)));
  assert.ok(longest <= 8, `decoded ${longest} tokens at once`);
});

/** Bytes that begin, continue or break characters, and rarely make one. */
const brokenBytes = fc.array(fc.constantFrom(0x80, 0xbf, 0xc3, 0xe2, 0x82, 0xac, 0xed, 0xa0, 0xf0, 0x9f, 0x98, 0xff), {
  minLength: 100,
  maxLength: 400,
});

test('bytes without end that are no text come out piece by piece, and equal the whole decode', () => {
  for (const ids of [Array(1_000).fill(0x80), Array(1_000).fill(0xf0), Array(500).fill([0xf0, 0x9f]).flat()]) {
    const { longest, text, deltas } = streamed(ids);
    assert.ok(longest <= 64, `decoded ${longest} tokens at once`);
    assert.equal(text, tokenizer.decode(Uint32Array.from(ids), false));
    assert.ok(deltas.join('').length >= text.length - 17, 'most of it is held back');
  }
  fc.assert(
    fc.property(brokenBytes, (ids) => {
      const { longest, text } = streamed(ids);
      assert.ok(longest <= 64, `decoded ${longest} tokens at once`);
      assert.equal(text, tokenizer.decode(Uint32Array.from(ids), false));
    }),
    { numRuns: 500 },
  );
});

test('a character that follows broken bytes is whole', () => {
  const ids = [...Array(16).fill(0x80), ...new TextEncoder().encode('😀'), ...Array(40).fill(0x80), 0xe2, 0x82, 0xac];
  assert.equal(streamed(ids).text, `${'\uFFFD'.repeat(16)}😀${'\uFFFD'.repeat(40)}€`);
});

test('tokens without any text do not pile up', () => {
  const silent = Array(1_000).fill(9_999);
  const { longest, text } = streamed([0x61, ...silent, 0x62]);
  assert.ok(longest <= 64, `decoded ${longest} tokens at once`);
  assert.equal(text, 'ab');
});
