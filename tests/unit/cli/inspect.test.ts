import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { findNonFinite } from '../../../src/cli/inspect/non-finite.js';
import { ranges } from '../../../src/cli/inspect/report.js';
import { temporaryDirectory } from '../adapters/support.js';

test('layers are shown as ranges', () => {
  assert.equal(ranges([]), '');
  assert.equal(ranges([4]), '4');
  assert.equal(ranges([0, 1, 2, 3, 7, 9, 10]), '0-3, 7, 9-10');
});

const WIDTHS = { F16: 2, BF16: 2, F32: 4, F64: 8 } as const;

/** The value's bits in a dtype, little-endian. */
function encoded(dtype: keyof typeof WIDTHS, value: number): Buffer {
  const bytes = Buffer.alloc(WIDTHS[dtype]);
  if (dtype === 'F64') bytes.writeDoubleLE(value);
  else if (dtype === 'F32') bytes.writeFloatLE(value);
  else if (dtype === 'BF16') {
    const wide = Buffer.alloc(4);
    wide.writeFloatLE(value);
    wide.copy(bytes, 0, 2);
  } else {
    const half = Number.isNaN(value) ? 0x7e00 : value > 65504 ? 0x7c00 : value < -65504 ? 0xfc00 : 0x7bff;
    bytes.writeUInt16LE(half);
  }
  return bytes;
}

for (const dtype of Object.keys(WIDTHS) as (keyof typeof WIDTHS)[]) {
  test(`NaN and infinity are found in ${dtype}, the largest finite value is not one`, async (t) => {
    const path = join(await temporaryDirectory(t), 'x.safetensors');
    // More than one piece is read, and the value lies in the last.
    const count = 2 ** 20 / WIDTHS[dtype] + 3;
    const size = count * WIDTHS[dtype];
    const largest = dtype === 'F64' ? Number.MAX_VALUE : dtype === 'F16' ? 65504 : 3.38e38;
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, largest, -1]) {
      const good = { dtype, shape: [2], data_offsets: [0, 2 * WIDTHS[dtype]] };
      const bad = { dtype, shape: [count], data_offsets: [2 * WIDTHS[dtype], 2 * WIDTHS[dtype] + size] };
      const header = Buffer.from(JSON.stringify({ __metadata__: { format: 'pt' }, good, bad }));
      const length = Buffer.alloc(8);
      length.writeBigUInt64LE(BigInt(header.length));
      const data = Buffer.alloc(2 * WIDTHS[dtype] + size);
      encoded(dtype, value).copy(data, data.length - 2 * WIDTHS[dtype]);
      await writeFile(path, Buffer.concat([length, header, data]));
      const found = await findNonFinite(path);
      const expected = 'finite values';
      assert.deepEqual(
        found,
        Number.isFinite(value) ? [] : [{ tensor: 'bad', expected, found: `NaN or infinity at element ${count - 2}` }],
        String(value),
      );
    }
  });
}
