import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { LoramuxError } from '../../../../src/core/errors.js';
import { openSafetensors, parseSafetensorsHeader } from '../../../../src/model/sources/safetensors-file.js';
import { readFloat32, tensorRows } from '../../../../src/model/sources/tensor.js';
import { loramuxError, temporaryDirectory, temporaryFile } from '../helpers/temporary.js';
import { storedF32, tinyWeights, writeSafetensors } from '../helpers/tiny-directory.js';

function parse(header: object, dataBytes: number) {
  return parseSafetensorsHeader(Buffer.from(JSON.stringify(header)), 100, 100 + dataBytes, 'x.safetensors');
}

describe('the safetensors header', () => {
  const entry = (dtype: string, shape: unknown, begin: number, end: number) => ({
    dtype,
    shape,
    data_offsets: [begin, end],
  });

  test('offsets become absolute', () => {
    const entries = parse({ __metadata__: {}, b: entry('F16', [3], 8, 14), a: entry('F32', [2, 1], 0, 8) }, 14);
    assert.deepEqual(entries.get('b'), { dtype: 'F16', shape: [3], begin: 108, end: 114 });
  });

  const broken: [string, object, number, string[]][] = [
    ['a gap', { a: entry('U8', [2], 1, 3) }, 3, ['tensor a', '100', '101']],
    ['an overlap', { a: entry('U8', [2], 0, 2), b: entry('U8', [2], 1, 3) }, 3, ['tensor b']],
    ['bytes after the last tensor', { a: entry('U8', [2], 0, 2) }, 5, ['102', '105']],
    ['a range past the end', { a: entry('U8', [9], 0, 9) }, 5, ['tensor a', 'cut short']],
    ['a range that does not fit the shape', { a: entry('F32', [2], 0, 4) }, 4, ['tensor a', '8 bytes', '4']],
    ['a dtype of no format', { a: entry('F7', [2], 0, 2) }, 2, ['tensor a', 'F7']],
    ['a negative size', { a: entry('U8', [-2], 0, 2) }, 2, ['tensor a', 'shape']],
    ['an entry without a shape', { a: { dtype: 'U8' } }, 0, ['tensor a']],
    ['an entry that is no object', { a: 3 }, 0, ['tensor a']],
    ['a list', [], 1, ['100']],
  ];
  for (const [what, header, bytes, parts] of broken) {
    test(`${what} is refused by name`, () => {
      assert.throws(
        () => parse(header, bytes),
        loramuxError('ERR_MODEL_INVALID', 'x.safetensors', ...(Array.isArray(header) ? [] : parts)),
      );
    });
  }
});

describe('an open safetensors file', () => {
  test('reads rows, and refuses dtypes it cannot read when asked for them', async (t) => {
    const stored = { w: storedF32([4, 3], 1), ids: { dtype: 'I64', shape: [1], bytes: new Uint8Array(8) } };
    const file = await openSafetensors(await temporaryFile(t, 'x.safetensors', writeSafetensors(stored)));
    t.after(() => file.close());
    const location = file.locate('w');
    assert.ok(location !== undefined);
    const rows = await readFloat32(tensorRows(location, [4, 3]), 2, 2);
    assert.deepEqual(new Uint8Array(rows.buffer), new Uint8Array(stored.w.bytes.slice(24)));
    assert.throws(() => tensorRows(location, [3, 4]), loramuxError('ERR_MODEL_INVALID', 'tensor w', '[3,4]', '[4,3]'));
    assert.throws(() => file.locate('ids'), loramuxError('ERR_MODEL_UNSUPPORTED', 'ids', 'I64', 'BF16'));
  });

  test('a header length beyond the file or the limit is refused before reading', async (t) => {
    const huge = Buffer.alloc(16, 0xff);
    await assert.rejects(
      openSafetensors(await temporaryFile(t, 'a', huge)),
      loramuxError('ERR_MODEL_INVALID', 'header length'),
    );
    const beyond = Buffer.alloc(16);
    beyond.writeUInt32LE(5000);
    await assert.rejects(
      openSafetensors(await temporaryFile(t, 'b', beyond)),
      loramuxError('ERR_MODEL_INVALID', 'cut short'),
    );
  });

  test('damaged files never end in anything but a LoramuxError', async (t) => {
    const path = join(await temporaryDirectory(t), 'x.safetensors');
    const bytes = writeSafetensors(tinyWeights());
    const headerBytes = 8 + Number(bytes.readBigUInt64LE(0));
    const edits = fc.array(fc.tuple(fc.nat(headerBytes - 1), fc.nat(255)), { maxLength: 3 });
    await fc.assert(
      fc.asyncProperty(edits, fc.option(fc.nat(bytes.length)), async (changes, length) => {
        const damaged = Buffer.from(bytes);
        for (const [at, value] of changes) damaged[at] = value;
        await writeFile(path, damaged.subarray(0, length ?? bytes.length));
        try {
          await (await openSafetensors(path)).close();
        } catch (error) {
          if (!(error instanceof LoramuxError)) throw error;
        }
      }),
      { numRuns: 400 },
    );
  });
});
