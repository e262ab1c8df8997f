import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { ENCODINGS, type EncodingName } from '../../../../src/model/sources/encodings.js';
import { halfTable } from '../../../../src/model/sources/float16.js';

/** Value of element i of a block, straight from the layout tables of the format. */
const ELEMENT: Partial<Record<EncodingName, (block: DataView, i: number) => number>> = {
  Q8_0: (block, i) => half(block, 0) * block.getInt8(2 + i),
  Q4_0: (block, i) => half(block, 0) * (nibble(block, 2, i) - 8),
  Q4_1: (block, i) => half(block, 0) * nibble(block, 4, i) + half(block, 2),
};

function half(block: DataView, at: number): number {
  return halfTable()[block.getUint16(at, true)] as number;
}

/** Elements 0–15 are the low nibbles, 16–31 the high ones. */
function nibble(block: DataView, start: number, i: number): number {
  const pair = block.getUint8(start + (i % 16));
  return i < 16 ? pair & 15 : pair >> 4;
}

describe('block decoding', () => {
  for (const [name, element] of Object.entries(ELEMENT)) {
    const { blockBytes, blockElements, decode } = ENCODINGS[name as EncodingName];
    test(`${name} equals its scalar formula`, () => {
      fc.assert(
        fc.property(fc.uint8Array({ minLength: 3 * blockBytes, maxLength: 3 * blockBytes }), (bytes) => {
          const out = new Float32Array(3 * blockElements);
          decode(bytes, out);
          const expected = Float32Array.from(out, (_, i) => {
            const at = bytes.byteOffset + Math.floor(i / blockElements) * blockBytes;
            return element(new DataView(bytes.buffer, at, blockBytes), i % blockElements);
          });
          assert.deepEqual(out, expected);
        }),
      );
    });
  }
});
