import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdir, symlink, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { entryDigest, fileDigest } from '../../../../src/model/cache/source-digest.js';
import { temporaryDirectory } from '../helpers/temporary.js';

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');

test('a file is hashed once, and again when size or time change', async (t) => {
  const root = await temporaryDirectory(t);
  const path = join(root, 'file');
  await writeFile(path, 'one');
  await utimes(path, 1000, 1000);
  assert.equal(await fileDigest(path, root), sha256('one'));
  // Same size and time: the record answers, which is what makes a warm start cheap.
  await writeFile(path, 'two');
  await utimes(path, 1000, 1000);
  assert.equal(await fileDigest(path, root), sha256('one'));
  await utimes(path, 1001, 1001);
  assert.equal(await fileDigest(path, root), sha256('two'));
});

test('links share the record of their target, and a damaged record is made anew', async (t) => {
  const root = await temporaryDirectory(t);
  await writeFile(join(root, 'file'), 'one');
  await symlink('file', join(root, 'link'));
  await fileDigest(join(root, 'file'), root);
  await fileDigest(join(root, 'link'), root);
  const [record, ...others] = await readdir(join(root, 'digests'));
  assert.equal(others.length, 0);
  await writeFile(join(root, 'digests', record ?? ''), 'not json');
  assert.equal(await fileDigest(join(root, 'file'), root), sha256('one'));
});

test('an entry is named by version, precision and file contents, in any order', () => {
  const files = [
    { name: 'a', sha256: '1' },
    { name: 'b', sha256: '2' },
  ];
  const digest = entryDigest(1, 'f32', files);
  assert.match(digest, /^[0-9a-f]{64}$/);
  assert.equal(entryDigest(1, 'f32', [...files].reverse()), digest);
  const others = [entryDigest(2, 'f32', files), entryDigest(1, 'w8', files), entryDigest(1, 'f32', files.slice(1))];
  assert.equal(new Set([digest, ...others]).size, 4);
});
