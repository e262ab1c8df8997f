import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { ENCODINGS, type EncodingName } from '../../../../src/model/sources/encodings.js';
import type { TensorRows } from '../../../../src/model/sources/tensor.js';
import { readFloatRows } from '../../../../src/model/weights/float-rows.js';
import { float32Bytes } from '../helpers/random-weights.js';
import { loramuxError } from '../helpers/temporary.js';

const COLS = 8;

function rowsOf(encoding: EncodingName, bytes: Uint8Array): TensorRows {
  const rowBytes = COLS * ENCODINGS[encoding].blockBytes;
  return {
    name: 'w',
    file: 'x',
    encoding: ENCODINGS[encoding],
    rows: bytes.length / rowBytes,
    cols: COLS,
    readRows: async (first, count) => bytes.slice(first * rowBytes, (first + count) * rowBytes),
  };
}

/** A type of 16 bits: fraction bits, exponent bits' bias. */
const FORMATS = { float16: [10, 15], bfloat16: [7, 127] } as const;

/** The value of 16 bits, from the definition of IEEE formats. */
function numberOf(bits: number, type: keyof typeof FORMATS): number {
  const [fractionBits, bias] = FORMATS[type];
  const exponent = (bits & 0x7fff) >> fractionBits;
  const fraction = (bits & (2 ** fractionBits - 1)) / 2 ** fractionBits;
  const magnitude = exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias);
  return bits >= 0x8000 ? -magnitude : magnitude;
}

/** The nearest by trying: both neighbours found by bisection over all magnitudes, in float64, a tie to the even bits. */
function nearest(value: number, type: keyof typeof FORMATS): number {
  const sign = Object.is(Math.sign(value), -0) || value < 0 ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  let [low, high] = [0, 0x7fff];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (numberOf(middle, type) <= magnitude) low = middle;
    else high = middle;
  }
  const [below, above] = [magnitude - numberOf(low, type), numberOf(high, type) - magnitude];
  const isUp = above < below || (above === below && low % 2 === 1);
  return sign | (isUp ? high : low);
}

/** Float32 numbers of any magnitude that the type holds, many of them ties or one step beside one. */
function weights(type: keyof typeof FORMATS): fc.Arbitrary<Float32Array> {
  const most = type === 'float16' ? 65504 : 3e38;
  const random = fc.float({ min: -Math.fround(most), max: Math.fround(most), noNaN: true, noDefaultInfinity: true });
  const small = fc.integer({ min: -(2 ** 26), max: 2 ** 26 }).map((n) => Math.fround(n * 2 ** -36));
  const bits = fc.integer({ min: 0, max: type === 'float16' ? 0x7bfe : 0x7f7e });
  const tie = bits.map((at) => Math.fround((numberOf(at, type) + numberOf(at + 1, type)) / 2));
  return fc
    .array(fc.oneof(random, small, tie), { minLength: COLS, maxLength: COLS })
    .map((all) => Float32Array.from(all));
}

for (const type of ['float16', 'bfloat16'] as const) {
  const own = type === 'float16' ? 'F16' : 'BF16';
  describe(type, () => {
    test('float32 is rounded to the nearest, halves to even', async () => {
      await fc.assert(
        fc.asyncProperty(weights(type), async (values) => {
          const found = await readFloatRows(rowsOf('F32', float32Bytes(values)), type, 0, 1);
          assert.deepEqual(
            Array.from(found),
            Array.from(values, (value) => nearest(value, type)),
          );
        }),
        { numRuns: 2000 },
      );
    });

    test('bits of the same type pass unchanged, negative zero and subnormals too', async () => {
      const bits = Uint16Array.of(0x0000, 0x8000, 0x0001, 0x83ff, 0x3c01, 0xbc01, 0x7801, 0x0400);
      const found = await readFloatRows(rowsOf(own, new Uint8Array(bits.buffer)), type, 0, 1);
      assert.deepEqual(found, bits);
    });

    test('weights that are not finite, or too large, name tensor and place', async () => {
      const infinite = new Uint16Array(2 * COLS);
      infinite[11] = type === 'float16' ? 0xfc00 : 0xff80;
      const held = rowsOf(own, new Uint8Array(infinite.buffer));
      await assert.rejects(
        readFloatRows(held, type, 1, 1),
        loramuxError('ERR_MODEL_INVALID', 'tensor w', type, 'row 1, column 3'),
      );
      const large = new Float32Array(COLS).fill(type === 'float16' ? 65520 : 3.4e38);
      await assert.rejects(
        readFloatRows(rowsOf('F32', float32Bytes(large)), type, 0, 1),
        loramuxError('ERR_MODEL_INVALID', 'tensor w', 'row 0, column 0', '--precision'),
      );
    });
  });
}
