import assert from 'node:assert/strict';
import { mkdir, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { DiskTier } from '../../../../src/adapters/sources/disk-tier.js';
import { coded, temporaryDirectory } from '../support.js';

const A = 'a'.repeat(64);
const B = 'b'.repeat(64);
const C = 'c'.repeat(64);

interface Rig {
  readonly root: string;
  readonly tier: DiskTier;
  readonly add: (digest: string, bytes: number) => Promise<void>;
  readonly digests: () => Promise<string[]>;
  readonly evicted: string[];
}

async function rig(t: TestContext, capacity: number): Promise<Rig> {
  const root = await temporaryDirectory(t);
  const evicted: string[] = [];
  const tier = await DiskTier.open(root, capacity, (reason, bytes) => evicted.push(`${reason} ${bytes}`));
  return {
    evicted,
    root,
    tier,
    add: async (digest, bytes) => (await adopt(tier, digest, bytes)).release(),
    digests: async () => (await readdir(join(root, 'content'))).map((digest) => digest.slice(0, 1)).sort(),
  };
}

async function adopt(tier: DiskTier, digest: string, bytes: number) {
  const incoming = tier.newIncoming();
  await mkdir(incoming);
  await writeFile(join(incoming, 'adapter_config.json'), Buffer.alloc(bytes));
  const copy = await tier.adopt(incoming, digest, bytes);
  await rm(incoming, { recursive: true, force: true });
  return copy;
}

test('what was not used for longest goes first, what is held stays', async (t) => {
  const { tier, add, digests, evicted } = await rig(t, 100);
  await add(A, 40);
  await add(B, 40);
  (await tier.hold(A))?.release();
  await add(C, 40);
  assert.deepEqual(await digests(), ['a', 'c']);
  const held = await tier.hold(A);
  assert.deepEqual(tier.tier(), { tier: 'disk', bytes: 80, capacity: 100, pinned: 40 });
  await add(B, 60);
  assert.deepEqual(await digests(), ['a', 'b']);
  await assert.rejects(add(C, 61), coded('ERR_ADAPTER_NO_SPACE', /--adapter-disk/));
  assert.deepEqual(await digests(), ['a', 'b'], 'nothing is deleted for what would not fit');
  held?.release();
  held?.release();
  assert.equal(tier.tier().pinned, 0);
  await add(C, 100);
  assert.deepEqual(await digests(), ['c']);
  assert.deepEqual(evicted, ['capacity 40', 'capacity 40', 'capacity 40', 'capacity 60']);
  await tier.discard(C);
  assert.equal(evicted.at(-1), 'failed 100');
});

test('uploads that a name stands for stay', async (t) => {
  const { tier, add, digests } = await rig(t, 100);
  const named = new Set([A]);
  tier.keepUploads((digest) => named.has(digest));
  await add(A, 60);
  await assert.rejects(add(B, 60), coded('ERR_ADAPTER_NO_SPACE'));
  named.clear();
  await add(B, 60);
  assert.deepEqual(await digests(), ['b']);
});

test('the same files twice are one copy', async (t) => {
  const { tier } = await rig(t, 100);
  const copies = await Promise.all([adopt(tier, A, 60), adopt(tier, A, 60), adopt(tier, A, 60)]);
  assert.equal(tier.tier().bytes, 60);
  for (const copy of copies) copy.release();
  assert.equal(tier.tier().pinned, 0);
});

test('a restart finds the copies, their order and their sources; leftovers go after a day', async (t) => {
  const { root, tier, add } = await rig(t, 100);
  await add(A, 40);
  await add(B, 40);
  await tier.remember('key', A, [{ path: 'adapter_config.json', bytes: 40, sha256: 'x', validator: '"1"' }]);
  await utimes(join(root, 'content', A), new Date(), new Date(Date.now() + 5_000));
  for (const [name, ageMs] of [
    ['old', 25 * 3_600_000],
    ['young', 1_000],
  ] as const) {
    await mkdir(join(root, 'incoming', name));
    await utimes(join(root, 'incoming', name), new Date(), new Date(Date.now() - ageMs));
  }
  const again = await DiskTier.open(root, 50);
  assert.deepEqual(await readdir(join(root, 'content')), [A], 'the least recent one went: the budget is smaller now');
  assert.deepEqual(await readdir(join(root, 'incoming')), ['young']);
  const known = await again.find('key');
  assert.equal(known?.digest, A);
  assert.equal(known?.files[0]?.validator, '"1"');
  assert.equal(await again.find('other'), null);
});

test('a copy that went behind its back, or was discarded, is no copy', async (t) => {
  const { root, tier, add } = await rig(t, 100);
  await add(A, 40);
  await add(B, 40);
  await tier.remember('key', A, []);
  await rm(join(root, 'content', A), { recursive: true });
  assert.equal(await tier.find('key'), null);
  assert.equal(await tier.hold(A), null);
  await tier.discard(B);
  assert.equal(await tier.hold(B), null);
  assert.equal(tier.tier().bytes, 0);
  await writeFile(join(root, 'sources', 'key.json'), '{ damaged');
  assert.equal(await tier.find('key'), null);
});
