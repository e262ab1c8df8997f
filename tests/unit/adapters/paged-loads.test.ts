import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { deferred } from '../../../src/adapters/deferred.js';
import { AdapterRegistry } from '../../../src/adapters/registry.js';
import { PagePool } from '../../../src/core/page-pool.js';
import { BlockPool } from '../../../src/scheduler/block-pool.js';
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

/** A registry over rank-1 adapters of two pages each, which share ten with KV blocks. */
async function rig(t: TestContext, names: readonly string[], room = 8) {
  const root = await temporaryDirectory(t);
  for (const [fill, name] of names.entries()) await writeAdapter(join(root, name), { fill });
  const backend = new ScriptedBackend();
  backend.runsOf = () => [1, 1];
  const pool = new PagePool(10);
  const blocks = new BlockPool(pool);
  const registry = new AdapterRegistry({
    backend,
    base: tinyBase(),
    roots: [root],
    capacityBytes: room * RANK_BYTES,
    device: { pages: { pool, pageBytes: RANK_BYTES }, host: null },
    emit: () => undefined,
  });
  t.after(() => registry.close());
  return { registry, backend, root, pool, blocks };
}

test('an adapter is compiled, then gets pages, then is placed, and gives them back when it goes', async (t) => {
  const { registry, backend, pool } = await rig(t, ['a']);
  const lease = await registry.acquire('a');
  assert.deepEqual([...backend.placed.values()], [[9, 8]]);
  assert.deepEqual([pool.free, registry.tiers()[0]?.bytes], [8, 2 * RANK_BYTES]);
  assert.equal((await registry.get('a')).bytes, 2 * RANK_BYTES);
  lease.release();
  await registry.unload('a');
  assert.deepEqual([pool.free, backend.held.size, backend.placed.size], [10, 0, 0]);
});

test('KV blocks take the pages of idle adapters, never of leased ones', async (t) => {
  const { registry, blocks, backend } = await rig(t, ['a', 'b']);
  const held = await registry.acquire('a');
  (await registry.acquire('b')).release();
  for (let taken = 0; taken < 8; taken += 1) assert.notEqual(blocks.take(), -1, `block ${taken}`);
  assert.equal(blocks.take(), -1);
  assert.deepEqual([...backend.held.keys()], [held.handle]);
  assert.equal(registry.tryAcquire('b'), null, 'its name stays, its numbers are gone');
  held.release();
  assert.notEqual(blocks.take(), -1);
  assert.equal(backend.held.size, 0);
});

test('a load waits for blocks in use and goes on when they come free', async (t) => {
  const { registry, backend, blocks } = await rig(t, ['a']);
  const taken = Array.from({ length: 9 }, () => blocks.take());
  const lease = registry.acquire('a');
  await until(() => backend.held.size === 1);
  await turns(5);
  registry.gatherPages(0);
  assert.equal(backend.placed.size, 0);
  assert.equal(blocks.available, 0, 'what it has gathered is kept for it');
  blocks.release(taken.slice(0, 1));
  registry.gatherPages(0);
  assert.equal((await lease).handle, [...backend.placed.keys()][0]);
});

test('a load that nobody waits for any more gives back what it had', async (t) => {
  const { registry, backend, pool, blocks } = await rig(t, ['a', 'b']);
  for (let taken = 0; taken < 9; taken += 1) blocks.take();
  const controller = new AbortController();
  const waiting = assert.rejects(registry.acquire('a', controller.signal), coded('ERR_ABORTED'));
  await until(() => backend.held.size === 1);
  await turns(5);
  controller.abort();
  await waiting;
  await until(() => backend.held.size === 0);
  assert.deepEqual([pool.free, blocks.available, registry.tiers()[0]?.bytes], [1, 1, 0]);
});

test('an adapter that cannot be placed, or fits nowhere, leaves nothing behind', async (t) => {
  const { registry, backend, pool } = await rig(t, ['a', 'b', 'c'], 5);
  backend.onPlace = async () => {
    throw new Error('the device is gone');
  };
  await assert.rejects(registry.acquire('a'), /the device is gone/);
  assert.deepEqual([pool.free, backend.held.size, registry.tiers()[0]?.bytes], [10, 0, 0]);
  backend.onPlace = async () => undefined;
  backend.runsOf = () => [6];
  await assert.rejects(registry.acquire('b'), coded('ERR_ADAPTER_NO_SPACE', /--gpu-memory/));
  assert.deepEqual([pool.free, backend.held.size], [10, 0]);
});

test('a load ends with an error where pinned adapters leave no room in one piece', async (t) => {
  const { registry, backend, root, pool, blocks } = await rig(t, ['a', 'b'], 9);
  // The pinned adapter lies in the middle.
  const below = Array.from({ length: 4 }, () => blocks.take());
  const above = Array.from({ length: 6 }, () => blocks.take());
  blocks.release(above.slice(0, 1));
  backend.runsOf = () => [1];
  const source = { type: 'dir', location: join(root, 'a') } as const;
  await registry.load({ name: 'a', source, pin: true, wait: true, replace: false });
  blocks.release([...below, ...above.slice(1)]);
  assert.deepEqual([...backend.placed.values()], [[4]]);
  backend.runsOf = () => [6];
  await assert.rejects(registry.acquire('b'), coded('ERR_ADAPTER_NO_SPACE', /one piece/));
  assert.deepEqual([pool.free, backend.held.size, registry.tiers()[0]?.bytes], [9, 1, RANK_BYTES]);
});

test('an unload in the middle of placing waits for it and frees the pages', async (t) => {
  const { registry, backend, pool } = await rig(t, ['a']);
  const placing = deferred<void>();
  backend.onPlace = () => placing.promise;
  const lease = registry.acquire('a');
  const refused = assert.rejects(lease);
  await until(() => pool.free === 8);
  const closed = registry.close();
  placing.resolve();
  await Promise.all([refused, closed]);
  assert.deepEqual([pool.free, backend.held.size], [10, 0]);
});
