import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { acquireMerged, recipeDigest, tryAcquireMerged } from '../../../../src/adapters/composition/merge-source.js';
import { AdapterRegistry } from '../../../../src/adapters/registry.js';
import type { MergeComposition, MergeMethod } from '../../../../src/core/composition.js';
import { RANK_BYTES, ScriptedBackend, temporaryDirectory, tinyBase, writeAdapter } from '../support.js';

const LINEAR: MergeMethod = { formula: 'peft', strategy: 'linear', density: 0, majoritySign: 'total' };
const never = new AbortController().signal;

async function world(t: TestContext, capacity = 20) {
  const root = await temporaryDirectory(t);
  const backend = new ScriptedBackend();
  const capacityBytes = capacity * RANK_BYTES;
  const registry = new AdapterRegistry({
    backend,
    base: tinyBase(),
    roots: [root],
    capacityBytes,
    emit: () => undefined,
  });
  t.after(() => registry.close());
  for (const [name, rank, fill] of [
    ['a', 2, 0],
    ['b', 2, 1],
    ['wide', 4, 2],
  ] as const) {
    await writeAdapter(join(root, name), { rank, fill });
  }
  return { root, backend, registry };
}

function merge(names: readonly string[], method: Partial<MergeMethod> = {}, weight = 0.5): MergeComposition {
  return { kind: 'merge', members: names.map((name) => ({ name, weight })), method: { ...LINEAR, ...method } };
}

test('a merge is made once, shared by those who ask meanwhile, and cached by its recipe', async (t) => {
  const { backend, registry } = await world(t);
  assert.equal(tryAcquireMerged(registry, merge(['a', 'b'])), null);
  const leases = await Promise.all([1, 2, 3].map(() => acquireMerged(registry, merge(['a', 'b']), never)));
  assert.equal(backend.merges.length, 1);
  assert.equal(new Set(leases.map(({ handle }) => handle)).size, 1);
  const again = tryAcquireMerged(registry, merge(['a', 'b']));
  assert.equal(again?.handle, leases[0]?.handle);
  for (const lease of [...leases, again]) lease?.release();

  for (const other of [merge(['b', 'a']), merge(['a', 'b'], {}, 0.25), merge(['a', 'b'], { formula: 'lorax' })]) {
    (await acquireMerged(registry, other, never)).release();
  }
  assert.equal(backend.merges.length, 4);
  assert.deepEqual(registry.violations(), []);
});

test('an evicted merge is made again from members that need not be resident', async (t) => {
  const { backend, registry } = await world(t, 4);
  const lease = await acquireMerged(registry, merge(['a', 'b']), never);
  lease.release();
  (await registry.acquire('wide')).release();
  assert.equal(tryAcquireMerged(registry, merge(['a', 'b'])), null);
  const again = await acquireMerged(registry, merge(['a', 'b']), never);
  assert.equal(again.digest, lease.digest);
  assert.equal(backend.merges.length, 2);
  again.release();
  assert.deepEqual(registry.violations(), []);
});

test('a name that moves to other files makes another merge', async (t) => {
  const { root, registry } = await world(t);
  const before = await acquireMerged(registry, merge(['a', 'b']), never);
  before.release();
  await rm(join(root, 'a'), { recursive: true });
  await writeAdapter(join(root, 'a'), { rank: 2, fill: 7 });
  await assert.rejects(acquireMerged(registry, merge(['a', 'b'], { formula: 'lorax' }), never), {
    code: 'ERR_ADAPTER_INVALID',
    message: /expected the files of a to have the digest .* load a again with replace/,
  });
  const source = { type: 'dir', location: join(root, 'a') } as const;
  await registry.load({ name: 'a', source, pin: false, wait: true, replace: true });
  const after = await acquireMerged(registry, merge(['a', 'b']), never);
  after.release();
  assert.notEqual(after.digest, before.digest);
});

test('members of another rank or a name that is not there are refused, and a merge of merges cannot be named', async (t) => {
  const { registry } = await world(t);
  await assert.rejects(acquireMerged(registry, merge(['a', 'wide']), never), { message: /different ranks: a has 2–2/ });
  await assert.rejects(acquireMerged(registry, merge(['a', 'gone']), never), { code: 'ERR_ADAPTER_NOT_FOUND' });
  const lease = await acquireMerged(registry, merge(['a', 'b']), never);
  lease.release();
  assert.equal(registry.identify(`merge:${lease.digest}`), null);
});

test('many recipes leave a bounded number of names behind', async (t) => {
  const { registry } = await world(t, 8);
  for (let at = 0; at < 300; at += 1) {
    (await acquireMerged(registry, merge(['a', 'b'], {}, at / 8 + 1), never)).release();
  }
  const { adapters } = await registry.list();
  assert.ok(adapters.length <= 3 + 256 + 8, `${adapters.length} names`);
  assert.deepEqual(registry.violations(), []);
});

test('the digest of a recipe has every part of it', () => {
  const members = [
    { digest: 'a'.repeat(64), weight: 0.5 },
    { digest: 'b'.repeat(64), weight: -1 },
  ];
  const ties: MergeMethod = { formula: 'peft', strategy: 'ties', density: 0.5, majoritySign: 'total' };
  const digests = [
    recipeDigest(ties, members),
    recipeDigest({ ...ties, formula: 'lorax' }, members),
    recipeDigest({ ...ties, strategy: 'dare_ties' }, members),
    recipeDigest({ ...ties, density: 0.25 }, members),
    recipeDigest({ ...ties, majoritySign: 'frequency' }, members),
    recipeDigest(ties, members.toReversed()),
    recipeDigest(ties, [members[0] as never, { digest: 'b'.repeat(64), weight: 1 }]),
  ];
  assert.equal(new Set(digests).size, digests.length);
  assert.ok(digests.every((digest) => /^[0-9a-f]{64}$/.test(digest)));
});
