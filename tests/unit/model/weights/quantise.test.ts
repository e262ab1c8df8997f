import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { ENCODINGS, type EncodingName } from '../../../../src/model/sources/encodings.js';
import { halfTable } from '../../../../src/model/sources/float16.js';
import type { TensorRows } from '../../../../src/model/sources/tensor.js';
import { type QuantisedRows, quantiseRows } from '../../../../src/model/weights/quantise.js';
import { float32Bytes, noise } from '../helpers/random-weights.js';
import { loramuxError } from '../helpers/temporary.js';

const COLS = 64;

function rowsOf(encoding: EncodingName, bytes: Uint8Array): TensorRows {
  const rowBytes = (COLS / ENCODINGS[encoding].blockElements) * ENCODINGS[encoding].blockBytes;
  return {
    name: 'w',
    file: 'x',
    encoding: ENCODINGS[encoding],
    rows: bytes.length / rowBytes,
    cols: COLS,
    readRows: async (first, count) => bytes.slice(first * rowBytes, (first + count) * rowBytes),
  };
}

/** (q − 128) · scale at 8 bits, q · scale + min at 4. */
function dequantise({ quants, scales, mins }: QuantisedRows, bits: 4 | 8): number[] {
  const half = halfTable();
  return Array.from(quants, (q, i) => {
    const block = Math.floor(i / 32);
    const scale = half[scales[block] as number] as number;
    return bits === 8 ? (q - 128) * scale : q * scale + (half[mins[block] as number] as number);
  });
}

/** Random blocks whose half-precision fields are finite and of moderate size. */
function blocks(encoding: 'Q8_0' | 'Q4_0' | 'Q4_1') {
  const { blockBytes } = ENCODINGS[encoding];
  return fc.uint8Array({ minLength: 2 * blockBytes, maxLength: 2 * blockBytes }).map((bytes) => {
    for (let at = 0; at < bytes.length; at += blockBytes) {
      for (const field of encoding === 'Q4_1' ? [1, 3] : [1]) bytes[at + field] = (bytes[at + field] ?? 0) & 0xbf;
    }
    return bytes;
  });
}

describe('sources whose quants fit are kept exactly', () => {
  const exact = [
    ['Q8_0', 'w8', 8],
    ['Q4_0', 'w8', 8],
    ['Q4_0', 'w4', 4],
    ['Q4_1', 'w4', 4],
  ] as const;
  for (const [encoding, format, bits] of exact) {
    test(`${encoding} in ${format}`, async () => {
      await fc.assert(
        fc.asyncProperty(blocks(encoding), async (bytes) => {
          const expected = new Float32Array(COLS);
          ENCODINGS[encoding].decode(bytes, expected);
          const found = dequantise(await quantiseRows(rowsOf(encoding, bytes), format, 0, 1), bits);
          // ggml rounds the sum to float32; −0 is 0.
          assert.deepEqual(
            found.map((value) => Math.fround(value) + 0),
            Array.from(expected, (value) => value + 0),
          );
        }),
      );
    });
  }
});

describe('fitted quants', () => {
  for (const [format, bits] of [
    ['w8', 8],
    ['w4', 4],
  ] as const) {
    test(`${format} is within half a step of every weight`, async () => {
      const values = noise(4 * COLS, 7);
      const quantised = await quantiseRows(rowsOf('F32', float32Bytes(values)), format, 1, 3);
      assert.ok(quantised.quants.length === 3 * COLS && quantised.quants.every((q) => q < 2 ** bits));
      dequantise(quantised, bits).forEach((value, i) => {
        const step = halfTable()[quantised.scales[Math.floor(i / 32)] as number] as number;
        const wanted = values[COLS + i] as number;
        assert.ok(Math.abs(value - wanted) <= step * 0.5001, `element ${i}`);
      });
      assert.equal(
        quantised.mins.some((minimum) => minimum !== 0),
        format === 'w4',
      );
    });

    test(`${format} keeps constant blocks, zero included`, async () => {
      const values = new Float32Array(COLS).fill(format === 'w8' ? 127 / 512 : 0.25, 32);
      const found = dequantise(await quantiseRows(rowsOf('F32', float32Bytes(values)), format, 0, 1), bits);
      found.forEach((value, i) => {
        assert.ok(Math.abs(value - (values[i] as number)) < 1e-7);
      });
    });
  }
});

test('weights and scales that are not finite name the tensor', async () => {
  const nan = new Float32Array(COLS).fill(Number.NaN);
  await assert.rejects(
    quantiseRows(rowsOf('F32', float32Bytes(nan)), 'w4', 0, 1),
    loramuxError('ERR_MODEL_INVALID', 'tensor w', 'NaN'),
  );
  const infinite = new Uint8Array(2 * 34);
  infinite.set([0x00, 0x7c], 34);
  await assert.rejects(
    quantiseRows(rowsOf('Q8_0', infinite), 'w8', 0, 1),
    loramuxError('ERR_MODEL_INVALID', 'tensor w', 'block 1'),
  );
});
