import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { LoramuxError } from '../../../../src/core/errors.js';
import { readZip } from '../../../../src/model/fetch/zip-file.js';
import { RandomAccessFile } from '../../../../src/model/sources/random-access-file.js';
import { loramuxError, temporaryDirectory, temporaryFile } from '../helpers/temporary.js';
import { writeZip } from '../helpers/zip-writer.js';

const FILES = { 'a/one.txt': Buffer.from('one one one one'), 'two.bin': Buffer.alloc(0) };

for (const method of [0, 8] as const) {
  test(`reads entries of method ${method}`, async (t) => {
    const entries = await readZip(await temporaryFile(t, 'x.zip', writeZip(FILES, method, 'a comment')));
    assert.deepEqual(
      entries.map(({ name, bytes }) => [name, bytes]),
      [
        ['a/one.txt', 15],
        ['two.bin', 0],
      ],
    );
    for (const entry of entries) {
      assert.deepEqual(await buffer(await entry.open()), FILES[entry.name as keyof typeof FILES]);
    }
  });
}

test('a cut archive says so', async (t) => {
  const cut = writeZip(FILES).subarray(0, 40);
  await assert.rejects(
    readZip(await temporaryFile(t, 'x.zip', cut)),
    loramuxError('ERR_MODEL_INVALID', 'x.zip', 'cut short'),
  );
});

test('an entry that cannot be inflated fails its reader, however slow the file is to close', async (t) => {
  const bytes = writeZip(FILES);
  // The first entry's data lies behind its header of 30 bytes and its name.
  bytes.fill(0xff, 30 + 'a/one.txt'.length, 30 + 'a/one.txt'.length + 4);
  const [entry] = await readZip(await temporaryFile(t, 'x.zip', bytes));
  const { close } = RandomAccessFile.prototype;
  t.mock.method(RandomAccessFile.prototype, 'close', async function (this: RandomAccessFile) {
    await close.call(this);
    await sleep(50);
  });
  assert.ok(entry !== undefined);
  await assert.rejects(entry.open().then(buffer), { code: /^Z_/ });
});

test('damaged archives end in a LoramuxError or an inflate error of the entry', async (t) => {
  const path = join(await temporaryDirectory(t), 'x.zip');
  const bytes = writeZip(FILES);
  const edits = fc.array(fc.tuple(fc.nat(bytes.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 });
  await fc.assert(
    fc.asyncProperty(edits, async (changes) => {
      const damaged = Buffer.from(bytes);
      for (const [at, value] of changes) damaged[at] = value;
      await writeFile(path, damaged);
      try {
        for (const entry of await readZip(path)) await buffer(await entry.open());
      } catch (error) {
        const { code = '' } = error as NodeJS.ErrnoException;
        if (!(error instanceof LoramuxError) && !code.startsWith('Z_')) throw error;
      }
    }),
    { numRuns: 300 },
  );
});
