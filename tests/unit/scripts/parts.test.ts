import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { type TestContext, test } from 'node:test';
import { ROOT } from '../../helpers/paths.js';
import { noise } from '../model/helpers/random-weights.js';
import { temporaryDirectory } from '../model/helpers/temporary.js';

interface Part {
  readonly file: string;
  readonly bytes: number;
  readonly sha256: string;
}

const { writeParts } = (await import(join(ROOT, 'scripts', 'parts.mjs'))) as {
  writeParts(stream: AsyncIterable<Uint8Array>, directory: string, limit: number): Promise<Part[]>;
};

const LIMIT = 10_000;

/** A folder with files that do not compress, packed into parts. */
async function packed(context: TestContext) {
  const root = await temporaryDirectory(context);
  const [from, parts] = [join(root, 'from'), join(root, 'parts')];
  await mkdir(join(from, 'deep'), { recursive: true });
  const random = Buffer.from(noise(9_000, 3).buffer as ArrayBuffer);
  await writeFile(join(from, 'deep', 'random'), random);
  await writeFile(join(from, 'run'), '#!/bin/sh\necho ran\n', { mode: 0o755 });
  const tar = spawnSync('tar', ['-cz', '-C', from, '.'], { maxBuffer: 2 ** 24 });
  assert.equal(tar.status, 0);
  // Chunks that end anywhere, some of several parts.
  const { stdout } = tar;
  const chunks = [stdout.subarray(0, 7), stdout.subarray(7, 25_001), stdout.subarray(25_001)];
  const written = await writeParts(Readable.from(chunks), parts, LIMIT);
  return { root, parts, random, archive: stdout, written };
}

function unpack(parts: string, to: string) {
  return spawnSync('sh', [join(parts, 'unpack.sh'), to], { encoding: 'utf8' });
}

test('parts are of the size asked for, hashed, and together the archive', async (t) => {
  const { parts, archive, written } = await packed(t);
  assert.equal(written.length, Math.ceil(archive.length / LIMIT));
  const contents = await Promise.all(written.map(({ file }) => readFile(join(parts, file))));
  assert.ok(Buffer.concat(contents).equals(archive));
  for (const [at, { bytes, sha256 }] of written.entries()) {
    const content = contents[at] as Buffer;
    assert.equal(bytes, content.length);
    assert.equal(bytes, at === written.length - 1 ? archive.length % LIMIT : LIMIT);
    assert.equal(sha256, createHash('sha256').update(content).digest('hex'));
  }
  assert.deepEqual(
    [...written.map(({ file }) => file)].sort(),
    written.map(({ file }) => file),
  );
});

test('unpack.sh makes the folder again, programs executable, from wherever it is called', async (t) => {
  const { root, parts, random } = await packed(t);
  const to = join(root, 'to', 'deeper');
  const done = unpack(parts, to);
  assert.equal(done.status, 0, done.stderr);
  assert.ok((await readFile(join(to, 'deep', 'random'))).equals(random));
  assert.equal(spawnSync(join(to, 'run'), { encoding: 'utf8' }).stdout, 'ran\n');
});

test('a part that is damaged or missing is named, and nothing is unpacked', async (t) => {
  const { root, parts, written } = await packed(t);
  const second = join(parts, written[1]?.file ?? '');
  const bytes = await readFile(second);
  bytes[17] = (bytes[17] ?? 0) ^ 1;
  await writeFile(second, bytes);
  const damaged = unpack(parts, join(root, 'to'));
  assert.equal(damaged.status, 1);
  assert.match(damaged.stderr + damaged.stdout, /part-0001/);
  await rm(second);
  assert.match(unpack(parts, join(root, 'to')).stderr, /part-0001/);
  assert.deepEqual(await readdir(join(root, 'to')), []);
});

test('parts of an earlier, larger pack do not stay behind', async (t) => {
  const { parts } = await packed(t);
  await writeParts(Readable.from([Buffer.from('x')]), parts, LIMIT);
  const names = await readdir(parts);
  assert.deepEqual(names.sort(), ['SHA256SUMS', 'part-0000', 'unpack.sh']);
  assert.ok(((await stat(join(parts, 'unpack.sh'))).mode & 0o111) !== 0);
});
