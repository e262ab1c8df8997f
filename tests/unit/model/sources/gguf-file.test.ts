import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { LoramuxError } from '../../../../src/core/errors.js';
import { openGguf, parseGgufHeader } from '../../../../src/model/sources/gguf-file.js';
import { readFloat32, tensorRows } from '../../../../src/model/sources/tensor.js';
import { writeGguf } from '../helpers/gguf-writer.js';
import { float32Bytes } from '../helpers/random-weights.js';
import { loramuxError, temporaryFile } from '../helpers/temporary.js';
import { f32Tensor, tinyGguf, tinyTensors } from '../helpers/tiny-gguf.js';

function parse(bytes: Uint8Array) {
  return parseGgufHeader(bytes, bytes.length, 'x.gguf');
}

describe('the GGUF header', () => {
  test('versions 2 and 3 give metadata and tensors', () => {
    for (const version of [2, 3]) {
      const header = parse(
        writeGguf(
          {
            count: { type: 'u64', value: 7 },
            flag: { type: 'bool', value: 1 },
            names: { type: 'strings', value: ['a', 'é'] },
            scores: { type: 'f32s', value: [0.5, -2] },
          },
          [f32Tensor('w', [2, 3], 1)],
          version,
        ),
      );
      assert.deepEqual([...header.metadata.values()], [7, true, ['a', 'é'], Float64Array.of(0.5, -2)]);
      assert.deepEqual(header.tensors.get('w')?.shape, [2, 3]);
    }
  });

  test('refused versions, magics and types are named', () => {
    const bytes = tinyGguf();
    const version1 = Buffer.from(bytes);
    version1.writeUInt32LE(1, 4);
    assert.throws(() => parse(version1), loramuxError('ERR_MODEL_UNSUPPORTED', 'version', '1'));
    assert.throws(() => parse(Buffer.from('PK\x03\x04 not a model')), loramuxError('ERR_MODEL_INVALID', 'GGUF'));
    const nested = Buffer.from(writeGguf({ list: { type: 'i32s', value: [1] } }, []));
    nested.writeUInt32LE(9, nested.indexOf('list') + 8);
    assert.throws(() => parse(nested), loramuxError('ERR_MODEL_INVALID', 'list'));
  });

  test('a count beyond the file is refused before anything is allocated', () => {
    const huge = Buffer.from(writeGguf({ list: { type: 'strings', value: ['a'] } }, []));
    huge.writeBigUInt64LE(2n ** 23n, huge.indexOf('list') + 12);
    assert.throws(() => parse(huge), loramuxError('ERR_MODEL_INVALID', 'list', 'cut short'));
  });

  test('duplicates, odd offsets and ranges past the end name the tensor', () => {
    const twice = [f32Tensor('w', [4], 1), f32Tensor('w', [4], 2)];
    assert.throws(() => parse(writeGguf({}, twice)), loramuxError('ERR_MODEL_INVALID', 'w appears twice'));
    const bytes = writeGguf({}, [f32Tensor('w', [4], 1)]);
    const offsetAt = bytes.indexOf('w', 24) + 1 + 4 + 8 + 4;
    const odd = Buffer.from(bytes);
    odd.writeBigUInt64LE(3n, offsetAt);
    assert.throws(() => parse(odd), loramuxError('ERR_MODEL_INVALID', 'tensor w', 'multiple of 32'));
    const far = Buffer.from(bytes);
    far.writeBigUInt64LE(320n, offsetAt);
    assert.throws(() => parse(far), loramuxError('ERR_MODEL_INVALID', 'tensor w', 'cut short'));
  });

  test('any truncation or damage ends in a LoramuxError or a header', () => {
    const bytes = tinyGguf();
    const edits = fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { maxLength: 4 });
    fc.assert(
      fc.property(fc.nat(bytes.length), edits, (length, changes) => {
        const damaged = Buffer.from(bytes);
        for (const [at, value] of changes) damaged[at] = value;
        for (const candidate of [damaged, damaged.subarray(0, length)]) {
          try {
            parse(candidate);
          } catch (error) {
            if (!(error instanceof LoramuxError)) throw error;
          }
        }
      }),
      { numRuns: 1000 },
    );
  });
});

describe('an open GGUF file', () => {
  test('reads a tensor longer than the first header window', async (t) => {
    const long = 'x'.repeat(5 * 2 ** 20);
    const path = await temporaryFile(
      t,
      'x.gguf',
      writeGguf({ long: { type: 'string', value: long } }, [f32Tensor('w', [4, 2], 3)]),
    );
    const file = await openGguf(path);
    t.after(() => file.close());
    const location = file.locate('w');
    assert.ok(location !== undefined);
    const rows = await readFloat32(tensorRows(location, [4, 2]), 1, 2);
    const stored = f32Tensor('w', [4, 2], 3).bytes.subarray(8, 24);
    assert.deepEqual(float32Bytes(rows), new Uint8Array(stored));
  });

  test('a type that is not read is refused when the tensor is asked for', async (t) => {
    const tensors = tinyTensors().map((tensor) =>
      tensor.name.includes('attn_q') ? { ...tensor, ggmlType: 14 } : tensor,
    );
    const file = await openGguf(await temporaryFile(t, 'x.gguf', tinyGguf({}, tensors)));
    t.after(() => file.close());
    assert.throws(
      () => file.locate('blk.0.attn_q.weight'),
      loramuxError('ERR_MODEL_UNSUPPORTED', 'attn_q', 'Q6_K', 'Q4_1'),
    );
    assert.equal(file.locate('nothing'), undefined);
  });

  test('a NaN weight names tensor, row and column', async (t) => {
    const values = Float32Array.of(1, 2, 3, Number.NaN);
    const bytes = writeGguf({}, [{ name: 'w', shape: [2, 2], ggmlType: 0, bytes: float32Bytes(values) }]);
    const file = await openGguf(await temporaryFile(t, 'x.gguf', bytes));
    t.after(() => file.close());
    const location = file.locate('w');
    assert.ok(location !== undefined);
    const rows = tensorRows(location, [2, 2]);
    await assert.rejects(
      readFloat32(rows, 0, 2),
      loramuxError('ERR_MODEL_INVALID', 'tensor w', 'NaN', 'row 1, column 1'),
    );
  });
});
