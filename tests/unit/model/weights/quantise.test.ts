import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import type { QuantisedFormat } from '../../../../src/core/model-manifest.js';
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

/** (q − 128) · scale at 8 bits, q · scale + min in w4, (q − 8) · scale in w4-rows. */
function dequantise({ quants, scales, mins }: QuantisedRows, format: QuantisedFormat): number[] {
  const half = halfTable();
  return Array.from(quants, (q, i) => {
    const block = Math.floor(i / 32);
    const scale = half[scales[block] as number] as number;
    if (format === 'w4') return q * scale + (half[mins[block] as number] as number);
    return (q - (format === 'w4-rows' ? 8 : 128)) * scale;
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
    ['Q8_0', 'w8'],
    ['Q8_0', 'w8-rows'],
    ['Q4_0', 'w8'],
    ['Q4_0', 'w8-rows'],
    ['Q4_0', 'w4'],
    ['Q4_0', 'w4-rows'],
    ['Q4_1', 'w4'],
  ] as const;
  for (const [encoding, format] of exact) {
    test(`${encoding} in ${format}`, async () => {
      await fc.assert(
        fc.asyncProperty(blocks(encoding), async (bytes) => {
          const expected = new Float32Array(COLS);
          ENCODINGS[encoding].decode(bytes, expected);
          const found = dequantise(await quantiseRows(rowsOf(encoding, bytes), format, 0, 1), format);
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
  for (const [format, bits, off] of [
    ['w8', 8, 0.5001],
    ['w8-rows', 8, 0.5001],
    ['w4', 4, 0.5001],
    // On the side of zero that has a quant less, the farthest weights are cut.
    ['w4-rows', 4, 1.0001],
  ] as const) {
    test(`${format} is within ${off < 1 ? 'half a step' : 'a step'} of every weight`, async () => {
      const values = noise(4 * COLS, 7);
      const quantised = await quantiseRows(rowsOf('F32', float32Bytes(values)), format, 1, 3);
      assert.ok(quantised.quants.length === 3 * COLS && quantised.quants.every((q) => q < 2 ** bits));
      dequantise(quantised, format).forEach((value, i) => {
        const step = Math.abs(halfTable()[quantised.scales[Math.floor(i / 32)] as number] as number);
        const wanted = values[COLS + i] as number;
        assert.ok(Math.abs(value - wanted) <= step * off, `element ${i}`);
      });
      assert.equal(
        quantised.mins.some((minimum) => minimum !== 0),
        format === 'w4',
      );
    });

    test(`${format} keeps constant blocks, zero included`, async () => {
      const values = new Float32Array(COLS).fill(bits === 8 ? 127 / 512 : 0.25, 32);
      const found = dequantise(await quantiseRows(rowsOf('F32', float32Bytes(values)), format, 0, 1), format);
      found.forEach((value, i) => {
        assert.ok(Math.abs(value - (values[i] as number)) < 1e-7);
      });
    });
  }
});

test('4 bits around zero lose little more than 4 bits between minimum and maximum', async () => {
  // Sums of uniform numbers: near a normal distribution, as trained weights are.
  const values = Float32Array.from({ length: 256 * COLS }, (_, i) =>
    noise(8, i).reduce((sum: number, value) => sum + value, 0),
  );
  const squares = async (format: QuantisedFormat): Promise<number> => {
    const found = dequantise(await quantiseRows(rowsOf('F32', float32Bytes(values)), format, 0, 256), format);
    return found.reduce((sum, value, i) => sum + (value - (values[i] as number)) ** 2, 0);
  };
  const ratio = Math.sqrt((await squares('w4-rows')) / (await squares('w4')));
  assert.ok(ratio > 1 && ratio < 1.2, `${ratio}`);
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
