import assert from 'node:assert/strict';
import { mkdir, rm, symlink, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  AdapterRoots,
  openAdapterDirectory,
  readConfigFile,
  readTextFiles,
  stampOf,
} from '../../../src/adapters/adapter-directory.js';
import { coded, temporaryDirectory, writeAdapter } from './support.js';

test('finds the files of an adapter and hashes its text files', async (t) => {
  const root = await temporaryDirectory(t);
  await writeAdapter(join(root, 'a'));
  await writeFile(join(root, 'a', 'tokenizer.json'), 'abc');
  const files = await openAdapterDirectory(join(root, 'a'), new AdapterRoots([root]));
  const sha256 = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad';
  const content = Buffer.from('abc');
  assert.deepEqual(await readTextFiles(files), [{ path: 'tokenizer.json', bytes: 3, sha256, content }]);
  assert.equal((await readConfigFile(files)).digested.path, 'adapter_config.json');
});

test('scans sub-folders that hold a configuration', async (t) => {
  const root = await temporaryDirectory(t);
  const other = await temporaryDirectory(t);
  await writeAdapter(join(root, 'b'));
  await writeAdapter(join(root, 'a'));
  await writeAdapter(join(root, '.hidden'));
  await mkdir(join(root, 'empty'));
  await writeAdapter(join(other, 'a'));
  await writeAdapter(join(other, 'c'));
  const found = await new AdapterRoots([root, other, join(root, 'missing')]).scan();
  assert.deepEqual([...found.keys()], ['a', 'b', 'c']);
  assert.ok(found.get('a')?.startsWith(root));
});

test('refuses what leads outside of the roots, missing or not', async (t) => {
  const root = await temporaryDirectory(t);
  const outside = await temporaryDirectory(t);
  await writeAdapter(join(outside, 'secret'));
  await symlink(join(outside, 'secret'), join(root, 'link'));
  const roots = new AdapterRoots([root]);
  for (const path of [
    outside,
    join(outside, 'secret'),
    join(outside, 'nothing'),
    join(root, 'link'),
    join(root, '..'),
    `${root}-sibling`,
  ]) {
    await assert.rejects(
      openAdapterDirectory(path, roots),
      coded('ERR_ADAPTER_FORBIDDEN', /outside of the adapter folders/),
      path,
    );
  }
  await assert.rejects(roots.find('link'), coded('ERR_ADAPTER_FORBIDDEN'));
  assert.deepEqual([...(await roots.scan()).keys()], []);
});

test('refuses a file of an adapter that links outside', async (t) => {
  const root = await temporaryDirectory(t);
  const outside = await temporaryDirectory(t);
  for (const name of ['adapter_config.json', 'adapter_model.safetensors', 'tokenizer.json']) {
    const directory = join(root, name.replaceAll('.', '-'));
    await writeAdapter(directory);
    await writeFile(join(outside, name), 'x');
    await rm(join(directory, name), { force: true });
    await symlink(join(outside, name), join(directory, name));
    await assert.rejects(
      openAdapterDirectory(directory, new AdapterRoots([root])),
      coded('ERR_ADAPTER_FORBIDDEN'),
      name,
    );
  }
});

test('follows links within the roots, as caches of snapshots have them', async (t) => {
  const root = await temporaryDirectory(t);
  await writeAdapter(join(root, 'blobs'));
  await mkdir(join(root, 'snapshot'));
  for (const name of ['adapter_config.json', 'adapter_model.safetensors'])
    await symlink(join('..', 'blobs', name), join(root, 'snapshot', name));
  const files = await openAdapterDirectory(join(root, 'snapshot'), new AdapterRoots([], [root]));
  assert.match(files.weightsPath, /blobs/);
});

test('says what is missing and how to convert a pickle', async (t) => {
  const root = await temporaryDirectory(t);
  const roots = new AdapterRoots([root]);
  await assert.rejects(openAdapterDirectory(join(root, 'a'), roots), coded('ERR_ADAPTER_NOT_FOUND', /check the path/));
  await mkdir(join(root, 'a'));
  await assert.rejects(
    openAdapterDirectory(join(root, 'a'), roots),
    coded('ERR_ADAPTER_INVALID', /adapter_config\.json: expected/),
  );
  await writeFile(join(root, 'a', 'adapter_config.json'), '{}');
  await assert.rejects(
    openAdapterDirectory(join(root, 'a'), roots),
    coded('ERR_ADAPTER_INVALID', /adapter_model\.safetensors: expected/),
  );
  await writeFile(join(root, 'a', 'adapter_model.bin'), 'x');
  await assert.rejects(
    openAdapterDirectory(join(root, 'a'), roots),
    coded('ERR_ADAPTER_INVALID', /python -c ".*save_file/),
  );
});

test('reads no configuration above its limit', async (t) => {
  const root = await temporaryDirectory(t);
  await writeAdapter(root);
  await truncate(join(root, 'adapter_config.json'), 2 ** 40).catch(() =>
    truncate(join(root, 'adapter_config.json'), 2 ** 30),
  );
  const files = await openAdapterDirectory(root, new AdapterRoots([root]));
  await assert.rejects(readConfigFile(files), coded('ERR_ADAPTER_INVALID', /at most 1048576 bytes/));
});

test('stamps change with size and time', async (t) => {
  const root = await temporaryDirectory(t);
  const stamps = [await stampOf(root)];
  await writeAdapter(root);
  stamps.push(await stampOf(root));
  await utimes(join(root, 'adapter_model.safetensors'), 1, 1);
  stamps.push(await stampOf(root));
  await writeAdapter(root, { rank: 2 });
  stamps.push(await stampOf(root));
  assert.equal(new Set(stamps).size, 4);
});
