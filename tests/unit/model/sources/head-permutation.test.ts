import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ENCODINGS } from '../../../../src/model/sources/encodings.js';
import { undoHeadPermutation } from '../../../../src/model/sources/head-permutation.js';
import type { TensorRows } from '../../../../src/model/sources/tensor.js';

/** llama.cpp's order: within a head, the two halves are interleaved. Rows here are one byte naming the original row. */
function permuted(heads: number, headDim: number): Uint8Array<ArrayBuffer> {
  const rows = new Uint8Array(heads * headDim);
  for (let head = 0; head < heads; head++) {
    for (let pair = 0; pair < headDim / 2; pair++) {
      rows[head * headDim + 2 * pair] = head * headDim + pair;
      rows[head * headDim + 2 * pair + 1] = head * headDim + headDim / 2 + pair;
    }
  }
  return rows;
}

function rowsOf(bytes: Uint8Array<ArrayBuffer>): TensorRows {
  return {
    name: 'q',
    file: 'x.gguf',
    encoding: ENCODINGS.F32,
    rows: bytes.length,
    cols: 1,
    readRows: async (first, count) => bytes.slice(first, first + count),
  };
}

test('any range of rows comes back in the Hugging Face order', async () => {
  const sizes = fc.record({ heads: fc.integer({ min: 1, max: 5 }), half: fc.integer({ min: 1, max: 8 }) });
  await fc.assert(
    fc.asyncProperty(sizes, fc.nat(), fc.nat(), async ({ heads, half }, a, b) => {
      const total = heads * 2 * half;
      const first = a % total;
      const count = 1 + (b % (total - first));
      const tensor = undoHeadPermutation(rowsOf(permuted(heads, 2 * half)), 2 * half);
      const found = await tensor.readRows(first, count);
      assert.deepEqual(
        [...found],
        Array.from({ length: count }, (_, i) => first + i),
      );
    }),
  );
});
