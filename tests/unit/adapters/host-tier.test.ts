import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { AdapterLease } from '../../../src/adapters/adapter-record.js';
import { deferred } from '../../../src/adapters/deferred.js';
import { AdapterRegistry } from '../../../src/adapters/registry.js';
import { PagePool } from '../../../src/core/page-pool.js';
import type { Telemetry } from '../../../src/core/telemetry.js';
import {
  coded,
  RANK_BYTES,
  ScriptedBackend,
  temporaryDirectory,
  tinyBase,
  turns,
  until,
  writeAdapter,
} from './support.js';

interface Rig {
  readonly registry: AdapterRegistry;
  readonly backend: ScriptedBackend;
  readonly root: string;
  readonly facts: Telemetry[];
  readonly warnings: string[];
  readonly clock: { ms: number };
  /** Loads an adapter and lets go of it; the tier where it was. */
  use(name: string): Promise<string>;
}

/** Rank-1 adapters on a device with room for `room` of them and a host with room for `host`. */
async function rig(t: TestContext, names: readonly string[], room: number, host: number): Promise<Rig> {
  const root = await temporaryDirectory(t);
  for (const [fill, name] of names.entries()) await writeAdapter(join(root, name), { fill });
  const backend = new ScriptedBackend();
  backend.runsOf = () => [1];
  const facts: Telemetry[] = [];
  const warnings: string[] = [];
  // All files are older, and those written in the test as well.
  const clock = { ms: Date.now() + 3_600_000 };
  const registry = new AdapterRegistry({
    backend,
    base: tinyBase(),
    roots: [root],
    capacityBytes: room * RANK_BYTES,
    device: {
      pages: { pool: new PagePool(room), pageBytes: RANK_BYTES },
      host: { backend, capacityBytes: host * RANK_BYTES },
    },
    emit: (fact) => facts.push(fact),
    warn: (name, warning) => warnings.push(`${name}: ${warning}`),
    now: () => clock.ms,
  });
  t.after(async () => {
    assert.deepEqual(registry.violations(), []);
    await registry.close();
    assert.deepEqual([backend.held.size, backend.images.size], [0, 0]);
  });
  const use = async (name: string): Promise<string> => {
    const lease = registry.tryAcquire(name) ?? (await registry.acquire(name));
    lease.release();
    return lease.tierAtArrival;
  };
  return { registry, backend, root, facts, warnings, clock, use };
}

function loads(facts: readonly Telemetry[]): string[] {
  return facts.flatMap((fact) =>
    fact.kind === 'adapter-load' ? [`${fact.name} ${fact.fromHost ? 'host' : 'files'} ${fact.result}`] : [],
  );
}

test('what left the device comes back from the host, without its files', async (t) => {
  const { registry, backend, root, facts, use } = await rig(t, ['a', 'b'], 1, 4);
  const first = await registry.acquire('a');
  first.release();
  assert.equal(await use('b'), 'disk');
  assert.deepEqual(
    [backend.opened, (await registry.get('a')).tier, (await registry.get('b')).tier],
    [2, 'host', 'device'],
  );
  const again = await registry.acquire('a');
  assert.deepEqual([again.tierAtArrival, again.digest, backend.opened], ['host', first.digest, 2]);
  assert.notEqual(again.handle, first.handle);
  assert.equal(backend.held.get(again.handle)?.bytes, RANK_BYTES);
  again.release();
  assert.equal(await use('a'), 'device');
  assert.deepEqual(loads(facts), ['a files ok', 'b files ok', 'a host ok']);
  const lookups = facts.flatMap((fact) => (fact.kind === 'adapter-lookup' ? [`${fact.tier} ${fact.result}`] : []));
  const miss = ['device miss', 'host miss'];
  assert.deepEqual(lookups, [...miss, ...miss, 'device miss', 'host hit', 'device hit']);
  assert.deepEqual(registry.tiers(), [
    { tier: 'host', bytes: 2 * RANK_BYTES, capacity: 4 * RANK_BYTES, pinned: 0 },
    { tier: 'device', bytes: RANK_BYTES, capacity: RANK_BYTES, pinned: 0 },
  ]);
  await rm(join(root, 'b'), { recursive: true });
  await assert.rejects(
    registry.acquire('b'),
    coded('ERR_ADAPTER_NOT_FOUND'),
    'files that are gone are not answered for',
  );
});

test('files that changed are read again, also where their sizes did not', async (t) => {
  const { registry, backend, root, facts, use } = await rig(t, ['a', 'b'], 1, 4);
  await use('a');
  const { digest } = await registry.get('a');
  await use('b');
  await writeAdapter(join(root, 'a'), { fill: 9 });
  const lease = await registry.acquire('a');
  assert.notEqual(lease.digest, digest);
  lease.release();
  await use('b');
  assert.equal(await use('a'), 'host');
  assert.equal((await registry.get('a')).digest, lease.digest);
  assert.deepEqual(loads(facts), ['a files ok', 'b files ok', 'a files ok', 'b host ok', 'a host ok']);
  assert.equal(backend.images.size, 2, 'the image of the old files is gone');
});

test('files that were just written are not trusted to stay', async (t) => {
  const { backend, clock, use } = await rig(t, ['a', 'b'], 1, 4);
  clock.ms = Date.now();
  await use('a');
  assert.equal(backend.images.size, 0);
  clock.ms += 10_000;
  await use('b');
  assert.equal(backend.images.size, 1);
});

test('unloads and moves drop what was kept; operators and rehearsals have the files read', async (t) => {
  const { registry, backend, root, facts, use } = await rig(t, ['a', 'b'], 1, 4);
  await use('a');
  await use('b');
  await registry.unload('a');
  assert.equal(backend.images.size, 1);
  const load = { name: 'a', source: { type: 'dir', location: join(root, 'a') }, pin: false, replace: true } as const;
  await registry.load({ ...load, wait: true });
  assert.deepEqual(loads(facts).at(-1), 'a files ok');
  await use('b');
  await registry.load({ ...load, wait: true });
  assert.deepEqual(loads(facts).slice(-2), ['b host ok', 'a files ok']);
  const opened = backend.opened;
  await registry.check({ ...load, name: 'c', source: { type: 'dir', location: join(root, 'b') } });
  assert.deepEqual([backend.opened, backend.images.size], [opened + 1, 2]);
  await registry.load({ ...load, source: { type: 'dir', location: join(root, 'b') }, wait: true });
  assert.equal(backend.images.size, 1, 'what the name stood for before is gone, and b has one image by either name');
});

test('least recently used first, and what leaves the device counts as used', async (t) => {
  const { registry, backend, facts, use } = await rig(t, ['a', 'b', 'c', 'd'], 2, 3);
  const a = await registry.acquire('a');
  for (const name of ['b', 'c']) await use(name);
  a.release();
  await use('b');
  assert.equal((await registry.get('a')).tier, 'device');
  // Out goes c, then a: of the images b's is oldest now.
  await use('d');
  await until(() => backend.images.size === 3);
  const tiers = await Promise.all(['a', 'b', 'c', 'd'].map(async (name) => (await registry.get(name)).tier));
  assert.deepEqual(tiers, ['host', 'device', 'host', 'device']);
  const evicted = facts.flatMap((fact) => (fact.kind === 'adapter-evict' && fact.tier === 'host' ? [fact.name] : []));
  assert.deepEqual(evicted, ['b']);
});

test('without pinned memory nothing is kept, which is said once and fails nothing', async (t) => {
  const { backend, warnings, use } = await rig(t, ['a', 'b', 'c'], 1, 3);
  backend.hostRoom = RANK_BYTES;
  for (const name of ['a', 'b', 'c']) await use(name);
  assert.deepEqual([backend.images.size, warnings], [1, []], 'the last one is kept while there is room for one');
  backend.hostRoom = 0;
  for (const name of ['a', 'b', 'a', 'b']) await use(name);
  assert.equal(backend.images.size, 0);
  assert.match(
    warnings.join(),
    /^a: adapters are not kept on the host: there is no pinned memory for its \d+ bytes[^,]*, or set it to 0$/,
  );
});

test('a device that fails while it copies keeps nothing more, and the load goes on', async (t) => {
  const { backend, warnings, use } = await rig(t, ['a', 'b'], 1, 3);
  backend.keepAdapter = async () => {
    throw Object.assign(new Error('copying: CUDA error 700'), { code: 'ERR_DEVICE' });
  };
  for (const name of ['a', 'b', 'a']) await use(name);
  assert.deepEqual(warnings, ['a: adapters are no longer kept on the host: copying: CUDA error 700']);
});

test('an adapter that cannot be brought back gives its pages back and keeps its image', async (t) => {
  const { registry, backend, clock, use } = await rig(t, ['a', 'b'], 1, 3);
  for (const name of ['a', 'b']) await use(name);
  backend.onPlace = async () => {
    throw Object.assign(new Error('copying: CUDA error 700'), { code: 'ERR_DEVICE' });
  };
  await assert.rejects(use('a'), coded('ERR_DEVICE'));
  assert.deepEqual([backend.held.size, backend.placed.size, registry.violations()], [0, 0, []]);
  assert.equal(registry.tiers().at(-1)?.bytes, 0);
  backend.onPlace = async () => undefined;
  clock.ms += 10_000;
  assert.equal(await use('a'), 'host', 'into the only page');
});

test('an image that is dropped while a load brings it back is freed after that', async (t) => {
  const { registry, backend, facts, use } = await rig(t, ['a', 'b', 'c', 'd', 'e'], 2, 3);
  for (const name of ['a', 'b', 'c']) await use(name);
  const turn = deferred<void>();
  let begun = false;
  backend.onPlace = async () => {
    backend.onPlace = async () => undefined;
    begun = true;
    await turn.promise;
  };
  const waiting = registry.acquire('a');
  await until(() => begun);
  for (const name of ['d', 'e']) await use(name);
  assert.equal(backend.images.size, 4, 'the three that are kept, and the one in use');
  const dropped = facts.flatMap((fact) => (fact.kind === 'adapter-evict' && fact.tier === 'host' ? [fact.name] : []));
  assert.deepEqual(dropped, ['a', 'b'], 'c and d left the device after them');
  turn.resolve();
  const a = await waiting;
  assert.equal(a.tierAtArrival, 'host');
  assert.equal(backend.images.size, 3);
  a.release();
});

for (const from of ['host', 'files'] as const) {
  test(`loads of queued requests begin when they come, in their order, each adapter once: from ${from}`, async (t) => {
    // Two files are read at a time, and the quicker one goes first.
    const names = ['a', 'b', 'c', 'd', 'e', ...(from === 'host' ? ['f'] : [])];
    const { registry, backend, facts, use } = await rig(t, [...names, 'y', 'z'], 2, 10);
    if (from === 'files') backend.hostRoom = 0;
    for (const name of [...names, 'y', 'z']) await use(name);
    facts.length = 0;
    const order: string[] = [];
    const acquire = async (name: string): Promise<AdapterLease> => {
      const lease = await registry.acquire(name);
      order.push(name);
      return lease;
    };
    const [a, b] = [await acquire('a'), await acquire('b')];
    const requests = [Promise.resolve(a), Promise.resolve(b)];
    const lookedUp = (name: string): boolean =>
      facts.some((fact) => fact.kind === 'adapter-lookup' && fact.tier === 'host' && fact.name === name);
    for (const name of names.slice(2)) {
      const { opened } = backend;
      requests.push(acquire(name));
      await until(() => lookedUp(name));
      // Two at a time are read; then they wait for memory.
      if (from === 'files' && name < 'e') await until(() => backend.opened > opened);
    }
    for (const name of from === 'files' ? ['c', 'd'] : [])
      while ((await registry.get(name)).state !== 'validating') await turns(1);
    await turns(100);
    // Nobody has asked for a slot: as many as fit are there, pinned, and stay.
    assert.deepEqual(
      [order, [...backend.placed.keys()]],
      [
        ['a', 'b'],
        [a.handle, b.handle],
      ],
    );
    for (const [at, request] of requests.entries()) {
      const lease = await request;
      assert.deepEqual(order.slice(0, at + 1), names.slice(0, at + 1));
      assert.ok(backend.held.has(lease.handle));
      lease.release();
    }
    assert.deepEqual(
      loads(facts),
      names.map((name) => `${name} ${from} ok`),
    );
  });
}
