import assert from 'node:assert/strict';
import { rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { AdapterLease } from '../../../src/adapters/adapter-record.js';
import { deferred } from '../../../src/adapters/deferred.js';
import { invalidAdapter } from '../../../src/adapters/offenders.js';
import { AdapterRegistry } from '../../../src/adapters/registry.js';
import type { TextReader } from '../../../src/adapters/text/text-cache.js';
import type { Telemetry } from '../../../src/core/telemetry.js';
import { adapterText } from '../../helpers/adapter-text.js';
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

/** A load that waited this long for memory goes before requests for what is resident. */
const OVERDUE_MS = 2_001;

interface Rig {
  readonly registry: AdapterRegistry;
  readonly backend: ScriptedBackend;
  readonly root: string;
  readonly facts: Telemetry[];
  readonly warnings: string[];
  readonly clock: { ms: number };
}

/** Takes no memory of its own. */
const TEXT = adapterText({ template: null });

/** Finds the same text in all files, but refuses what says that it is bad. */
const TEXTS: TextReader = {
  read: async (place, [file]) => {
    if (new TextDecoder().decode(file?.content) !== 'bad') return { text: TEXT, warnings: ['looks odd'] };
    throw invalidAdapter(place, [{ key: 'tokenizer.json', expected: 'a good one', found: 'a bad one' }]);
  },
  close: async () => undefined,
};

/** A registry over a folder of rank-1 adapters with room for `room` of them. */
async function rig(t: TestContext, names: readonly string[], room = 10): Promise<Rig> {
  const root = await temporaryDirectory(t);
  for (const [fill, name] of names.entries()) await writeAdapter(join(root, name), { fill });
  const backend = new ScriptedBackend();
  const facts: Telemetry[] = [];
  const warnings: string[] = [];
  const clock = { ms: 1_000_000 };
  const registry = new AdapterRegistry({
    backend,
    base: tinyBase(),
    roots: [root],
    capacityBytes: room * RANK_BYTES,
    texts: TEXTS,
    emit: (fact) => facts.push(fact),
    warn: (name, warning) => warnings.push(`${name}: ${warning}`),
    now: () => clock.ms,
  });
  t.after(() => {
    assert.deepEqual(registry.violations(), []);
    assert.equal(registry.tiers()[0]?.bytes, backend.heldBytes);
  });
  return { registry, backend, root, facts, warnings, clock };
}

/** Loads and lets go. */
async function touch(registry: AdapterRegistry, name: string): Promise<void> {
  (await registry.acquire(name)).release();
}

/** Waits until a load stands in line for memory: once time passes, what is resident is no longer handed out. */
async function standsForMemory({ registry, clock }: Rig, resident: string): Promise<void> {
  await until(() => {
    clock.ms += OVERDUE_MS;
    const lease = registry.tryAcquire(resident);
    clock.ms -= OVERDUE_MS;
    lease?.release();
    return lease === null;
  });
}

function loadCall(name: string, directory: string, more: object = {}): Parameters<AdapterRegistry['load']>[0] {
  return { name, source: { type: 'dir', location: directory }, pin: false, wait: true, replace: true, ...more };
}

test('loads on first use and then hands out leases without waiting', async (t) => {
  const { registry, backend, facts } = await rig(t, ['a']);
  assert.equal(registry.tryAcquire('a'), null);
  const first = await registry.acquire('a');
  assert.equal(first.tierAtArrival, 'disk');
  const second = registry.tryAcquire('a');
  assert.equal(second?.tierAtArrival, 'host');
  assert.equal(second?.handle, first.handle);
  assert.equal(second?.digest, first.digest);
  assert.match(first.digest, /^[0-9a-f]{64}$/);
  assert.deepEqual((await registry.get('a')).pins, { rows: 2, operator: false });
  first.release();
  first.release();
  second?.release();
  const info = await registry.get('a');
  assert.equal(info.state, 'ready');
  assert.equal(info.tier, 'host');
  assert.equal(info.bytes, RANK_BYTES);
  assert.equal(info.requests, 2);
  assert.deepEqual(info.ranks, { min: 1, max: 1 });
  assert.deepEqual(info.modules, { inFile: 1, applied: 1 });
  assert.equal(info.loadedAt, new Date(1_000_000).toISOString());
  assert.equal(backend.opened, 1);
  assert.deepEqual(facts, [
    { kind: 'adapter-lookup', tier: 'host', name: 'a', result: 'miss' },
    {
      kind: 'adapter-load',
      name: 'a',
      source: 'dir',
      fromHost: false,
      result: 'ok',
      code: null,
      seconds: 0,
      bytes: RANK_BYTES,
    },
    { kind: 'adapter-lookup', tier: 'host', name: 'a', result: 'hit' },
  ]);
});

test('requests for one name share one load and are all pinned by it', async (t) => {
  const crowded = await rig(t, ['a', 'b'], 1);
  const { registry, backend } = crowded;
  const leases = await Promise.all(Array.from({ length: 20 }, () => registry.acquire('a')));
  assert.equal(backend.compiledPaths.length, 1);
  const other = registry.acquire('b');
  await standsForMemory(crowded, 'a');
  assert.equal(backend.held.size, 1);
  for (const lease of leases) lease.release();
  (await other).release();
  assert.equal(backend.held.size, 1);
});

test('lists adapters of the folder as ready on disk before they were read', async (t) => {
  const { registry, root } = await rig(t, ['b', 'a']);
  const { adapters, tiers } = await registry.list();
  assert.deepEqual(
    adapters.map((info) => [info.name, info.state, info.tier, info.digest]),
    [
      ['a', 'ready', 'disk', null],
      ['b', 'ready', 'disk', null],
    ],
  );
  assert.equal(adapters[0]?.source, `dir:${join(root, 'a')}`);
  assert.deepEqual(tiers, [{ tier: 'host', bytes: 0, capacity: 10 * RANK_BYTES, pinned: 0 }]);
});

test('evicts the least recently used adapter', async (t) => {
  const { registry, facts, backend } = await rig(t, ['a', 'b', 'c'], 2);
  for (const name of ['a', 'b', 'a', 'c']) await touch(registry, name);
  assert.deepEqual(
    facts.filter((fact) => fact.kind === 'adapter-evict'),
    [{ kind: 'adapter-evict', tier: 'host', name: 'b', reason: 'capacity', bytes: RANK_BYTES }],
  );
  assert.equal(registry.tryAcquire('b'), null);
  assert.equal((await registry.get('b')).tier, 'disk');
  assert.notEqual((await registry.get('b')).digest, null);
  assert.equal(backend.held.size, 2);
});

test('names unknown adapters', async (t) => {
  const { registry, facts } = await rig(t, ['a']);
  for (const name of ['nope', '..', 'a/../a', '__base__', 'org/a']) {
    await assert.rejects(registry.acquire(name), coded('ERR_ADAPTER_NOT_FOUND'), name);
    await assert.rejects(registry.get(name), coded('ERR_ADAPTER_NOT_FOUND'), name);
  }
  assert.deepEqual(facts, []);
});

test('refuses a folder that links outside of the root', async (t) => {
  const { registry, root } = await rig(t, ['a']);
  const outside = await temporaryDirectory(t);
  await writeAdapter(outside);
  await symlink(outside, join(root, 'link'));
  await assert.rejects(registry.acquire('link'), coded('ERR_ADAPTER_FORBIDDEN'));
  await assert.rejects(registry.load(loadCall('x', outside)), coded('ERR_ADAPTER_FORBIDDEN'));
  assert.deepEqual(
    (await registry.list()).adapters.map((info) => info.name),
    ['a'],
  );
});

test('remembers a failed load until its files change or time passes', async (t) => {
  const { registry, backend, root, clock, facts } = await rig(t, ['a']);
  const good = loadCall('a', join(root, 'a'));
  await writeFile(join(root, 'a', 'adapter_config.json'), '{"peft_type": "LORA", "use_qalora": true}');
  const refused = coded('ERR_ADAPTER_INVALID', /use_qalora/);
  await assert.rejects(registry.acquire('a'), refused);
  await assert.rejects(registry.acquire('a'), refused);
  const info = await registry.get('a');
  assert.equal(info.state, 'failed');
  assert.equal(info.failure?.code, 'ERR_ADAPTER_INVALID');
  assert.deepEqual(
    info.failure?.details?.offenders?.map((offender) => offender.key),
    ['use_qalora'],
  );
  const failures = (): number =>
    facts.filter((fact) => fact.kind === 'adapter-load' && fact.result === 'failed').length;
  assert.equal(failures(), 1);
  clock.ms += 5_000;
  await assert.rejects(registry.acquire('a'), refused);
  assert.equal(failures(), 2);
  await writeAdapter(good.source.location);
  await touch(registry, 'a');
  assert.equal((await registry.get('a')).failure, null);
  assert.equal(backend.held.size, 1);
});

test('shares a failure among all who waited and leaves no bytes behind', async (t) => {
  const { registry, backend } = await rig(t, ['a']);
  backend.onCompile = async () => {
    throw Object.assign(new Error('tensor x.lora_A.weight: element 3 is NaN'), { code: 'ERR_ADAPTER_INVALID' });
  };
  const results = await Promise.allSettled([registry.acquire('a'), registry.acquire('a')]);
  for (const result of results)
    assert.ok(result.status === 'rejected' && coded('ERR_ADAPTER_INVALID', /NaN/)(result.reason));
  const offender = (await registry.get('a')).failure?.details?.offenders?.[0];
  assert.equal(offender?.tensor, 'x.lora_A.weight');
  assert.equal(registry.tiers()[0]?.bytes, 0);
});

test('forgets an adapter whose folder is gone', async (t) => {
  const { registry, root } = await rig(t, ['a']);
  await registry.list();
  await rm(join(root, 'a'), { recursive: true });
  await assert.rejects(registry.acquire('a'), coded('ERR_ADAPTER_NOT_FOUND'));
  assert.deepEqual((await registry.list()).adapters, []);
});

test('refuses an adapter that can never fit, with the numbers', async (t) => {
  const { registry, root } = await rig(t, [], 2);
  await writeAdapter(join(root, 'big'), { rank: 3 });
  await assert.rejects(registry.acquire('big'), coded('ERR_ADAPTER_NO_SPACE'));
  assert.equal((await registry.get('big')).failure?.details?.bytes?.needed, 3 * RANK_BYTES);
});

test('tries again with the true size when the estimate fell short', async (t) => {
  const { registry, backend } = await rig(t, ['a', 'b'], 2);
  const pinned = await registry.acquire('a');
  backend.overhead = RANK_BYTES;
  const waiting = registry.acquire('b');
  await until(() => backend.compiledPaths.length === 2 && backend.held.size === 1);
  pinned.release();
  (await waiting).release();
  assert.equal(registry.tiers()[0]?.bytes, 2 * RANK_BYTES);
});

test('runs at most two loads at a time', async (t) => {
  const { registry, backend } = await rig(t, ['a', 'b', 'c', 'd']);
  const gate = deferred<void>();
  backend.onOpen = () => gate.promise;
  const leases = ['a', 'b', 'c', 'd'].map((name) => registry.acquire(name));
  await until(() => backend.opened === 2);
  await turns(20);
  assert.equal(backend.opened, 2);
  // Which two is the file system's choice: a load looks at its directory before it takes a turn.
  const states = (await registry.list()).adapters.map(({ state }) => state);
  assert.deepEqual(states.sort(), ['fetching', 'fetching', 'queued', 'queued']);
  gate.resolve();
  for (const lease of await Promise.all(leases)) lease.release();
});

test('serves waiting loads in order, so that a large one is not starved by small ones', async (t) => {
  const crowded = await rig(t, ['a', 'b'], 4);
  const { registry, root, clock, backend } = crowded;
  await writeAdapter(join(root, 'big'), { rank: 4 });
  let lease = await registry.acquire('a');
  const big = registry.acquire('big');
  await standsForMemory(crowded, 'a');
  const small = registry.acquire('b');
  await until(() => backend.opened === 3);
  assert.equal(registry.tryAcquire('b'), null);
  const next = registry.tryAcquire('a');
  assert.ok(next !== null, 'resident adapters are served while the wait is short');
  lease.release();
  lease = next;
  clock.ms += OVERDUE_MS;
  assert.equal(registry.tryAcquire('a'), null);
  let late: AdapterLease | null = null;
  const behind = registry.acquire('a').then((got) => {
    late = got;
    return got;
  });
  await turns(20);
  assert.equal(late, null);
  lease.release();
  const gotBig = await big;
  assert.equal(late, null);
  gotBig.release();
  (await small).release();
  (await behind).release();
});

test('an aborted request gives up its place and its load', async (t) => {
  const crowded = await rig(t, ['a', 'b'], 1);
  const { registry } = crowded;
  const lease = await registry.acquire('a');
  const controller = new AbortController();
  const waiting = registry.acquire('b', controller.signal);
  waiting.catch(() => undefined);
  await standsForMemory(crowded, 'a');
  controller.abort();
  await assert.rejects(waiting, coded('ERR_ABORTED'));
  await assert.rejects(registry.acquire('b', controller.signal), coded('ERR_ABORTED'));
  lease.release();
  const again = registry.tryAcquire('a');
  assert.ok(again !== null, 'nothing was evicted for the aborted request');
  again.release();
});

test('requests go on when the overdue load they stood behind is given up', async (t) => {
  const crowded = await rig(t, ['a', 'b'], 4);
  const { registry, root, clock, backend } = crowded;
  await writeAdapter(join(root, 'big'), { rank: 4 });
  const lease = await registry.acquire('a');
  const controller = new AbortController();
  const big = registry.acquire('big', controller.signal);
  big.catch(() => undefined);
  await standsForMemory(crowded, 'a');
  const small = registry.acquire('b');
  await until(() => backend.opened === 3);
  clock.ms += OVERDUE_MS;
  const behind = registry.acquire('a');
  await turns(20);
  controller.abort();
  await assert.rejects(big, coded('ERR_ABORTED'));
  for (const got of await Promise.all([small, behind])) got.release();
  lease.release();
});

test('a request that stands behind an overdue load can be aborted', async (t) => {
  const crowded = await rig(t, ['a'], 4);
  const { registry, root, clock } = crowded;
  await writeAdapter(join(root, 'big'), { rank: 4 });
  const lease = await registry.acquire('a');
  const big = registry.acquire('big');
  await standsForMemory(crowded, 'a');
  clock.ms += OVERDUE_MS;
  const controller = new AbortController();
  const behind = registry.acquire('a', controller.signal);
  await turns(5);
  controller.abort();
  await assert.rejects(behind, coded('ERR_ABORTED'));
  lease.release();
  (await big).release();
});

test('an aborted request does not take the load from others', async (t) => {
  const { registry, backend } = await rig(t, ['a']);
  const gate = deferred<void>();
  backend.onCompile = () => gate.promise;
  const controller = new AbortController();
  const first = registry.acquire('a', controller.signal);
  const second = registry.acquire('a');
  await turns(20);
  controller.abort();
  await assert.rejects(first, coded('ERR_ABORTED'));
  gate.resolve();
  (await second).release();
  assert.equal((await registry.get('a')).pins.rows, 0);
  assert.equal(backend.compiledPaths.length, 1);
});

test('load is idempotent for the same files', async (t) => {
  const { registry, root, backend } = await rig(t, ['a']);
  const directory = join(root, 'a');
  const first = await registry.load(loadCall('x', directory));
  assert.equal(first.outcome, 'created');
  assert.equal(first.adapter.state, 'ready');
  const second = await registry.load(loadCall('x', directory, { replace: false }));
  assert.equal(second.outcome, 'unchanged');
  assert.equal(backend.compiledPaths.length, 1);
});

test('load moves a name to changed files while rows in flight keep the old ones', async (t) => {
  const { registry, root, backend, facts } = await rig(t, ['a']);
  const old = await registry.acquire('a');
  await writeAdapter(join(root, 'a'), { fill: 77 });
  const reply = await registry.load(loadCall('a', join(root, 'a')));
  assert.equal(reply.outcome, 'replaced');
  assert.equal(reply.replaced, old.digest);
  const fresh = registry.tryAcquire('a');
  assert.ok(fresh !== null);
  assert.notEqual(fresh.digest, old.digest);
  assert.notEqual(fresh.handle, old.handle);
  assert.ok(backend.held.has(old.handle));
  old.release();
  assert.ok(!backend.held.has(old.handle));
  assert.ok(facts.some((fact) => fact.kind === 'adapter-evict' && fact.reason === 'replaced'));
  fresh.release();
});

test('load without replace leaves a taken name alone', async (t) => {
  const { registry, root } = await rig(t, ['a', 'b']);
  const taken = coded('ERR_BAD_REQUEST', /already names/);
  await assert.rejects(registry.load(loadCall('a', join(root, 'b'), { replace: false })), taken);
  await touch(registry, 'a');
  const { digest } = await registry.get('a');
  await assert.rejects(registry.load(loadCall('a', join(root, 'b'), { replace: false })), taken);
  assert.equal((await registry.get('a')).digest, digest);
  (registry.tryAcquire('a') ?? assert.fail()).release();
});

test('a refused replacement changes nothing', async (t) => {
  const { registry, root } = await rig(t, ['a']);
  await touch(registry, 'a');
  const bad = join(root, 'bad');
  await writeAdapter(bad, { config: { use_dora: true } });
  await assert.rejects(registry.load(loadCall('a', bad)), coded('ERR_ADAPTER_INVALID', /magnitude/));
  const info = await registry.get('a');
  assert.equal(info.state, 'ready');
  assert.equal(info.source, `dir:${join(root, 'a')}`);
  assert.equal(info.failure?.code, 'ERR_ADAPTER_INVALID');
  await touch(registry, 'a');
});

test('load validates its name and directory', async (t) => {
  const { registry, root } = await rig(t, []);
  await assert.rejects(registry.load(loadCall('__base__', root)), coded('ERR_BAD_REQUEST', /adapter name/));
  await assert.rejects(registry.load(loadCall('x', join(root, 'nothing'))), coded('ERR_ADAPTER_NOT_FOUND'));
});

test('load without waiting answers at once and shows a later failure', async (t) => {
  const { registry, root } = await rig(t, []);
  await writeAdapter(join(root, 'bad'), { config: { use_qalora: true } });
  const reply = await registry.load(loadCall('x', join(root, 'bad'), { wait: false }));
  assert.equal(reply.outcome, 'accepted');
  assert.equal(reply.adapter.state, 'queued');
  await assert.rejects(registry.acquire('x'), coded('ERR_ADAPTER_INVALID'));
  assert.equal((await registry.get('x')).state, 'failed');
});

test('an operator pin keeps an adapter through eviction and replacement', async (t) => {
  const { registry, root, backend } = await rig(t, ['a', 'b', 'c'], 2);
  await registry.load(loadCall('a', join(root, 'a'), { pin: true }));
  for (const name of ['b', 'c', 'b']) await touch(registry, name);
  (registry.tryAcquire('a') ?? assert.fail()).release();
  await writeAdapter(join(root, 'a'), { fill: 99 });
  await registry.load(loadCall('a', join(root, 'a')));
  for (const name of ['b', 'c']) await touch(registry, name);
  assert.deepEqual((await registry.get('a')).pins, { rows: 0, operator: true });
  (registry.tryAcquire('a') ?? assert.fail()).release();
  assert.equal((await registry.pin('a', false)).pins.operator, false);
  for (const name of ['b', 'c']) await touch(registry, name);
  assert.equal(registry.tryAcquire('a'), null);
  assert.equal((await registry.pin('a', true)).tier, 'host');
  assert.equal(backend.held.size, 2);
});

test('unload drains rows in flight, refuses new ones and forgets the name', async (t) => {
  const { registry, backend, root } = await rig(t, ['a']);
  const leases = [await registry.acquire('a'), await registry.acquire('a')];
  let done = false;
  const unloading = registry.unload('a').then((reply) => {
    done = true;
    return reply;
  });
  await turns(5);
  assert.equal(done, false);
  assert.equal(registry.tryAcquire('a'), null);
  await assert.rejects(registry.acquire('a'), coded('ERR_ADAPTER_UNLOADED'));
  await assert.rejects(registry.load(loadCall('a', join(root, 'a'))), coded('ERR_ADAPTER_UNLOADED'));
  assert.equal((await registry.get('a')).state, 'draining');
  for (const lease of leases) lease.release();
  assert.deepEqual(await unloading, { drained: 2, rowsCut: 0 });
  assert.equal(backend.held.size, 0);
  await assert.rejects(registry.acquire('a'), coded('ERR_ADAPTER_NOT_FOUND', /unloaded by the operator/));
  assert.deepEqual((await registry.list()).adapters, []);
  assert.equal((await registry.load(loadCall('a', join(root, 'a')))).outcome, 'created');
  await touch(registry, 'a');
});

test('unload by force tells which handles to fail, old versions included', async (t) => {
  const { registry, backend, root } = await rig(t, ['a']);
  const old = await registry.acquire('a');
  await writeAdapter(join(root, 'a'), { fill: 9 });
  await registry.load(loadCall('a', join(root, 'a')));
  const fresh = await registry.acquire('a');
  const cut: number[] = [];
  const reply = await registry.unload('a', (handle) => {
    cut.push(handle);
    for (const lease of [old, fresh]) if (lease.handle === handle) lease.release();
    return 1;
  });
  assert.deepEqual(cut, [old.handle, fresh.handle]);
  assert.deepEqual(reply, { drained: 0, rowsCut: 2 });
  assert.equal(backend.held.size, 0);
});

test('unload during a load fails those who wait and frees what was compiled', async (t) => {
  const { registry, backend } = await rig(t, ['a']);
  const gate = deferred<void>();
  backend.onCompile = () => gate.promise;
  const waiting = registry.acquire('a');
  waiting.catch(() => undefined);
  await until(() => registry.tiers()[0]?.bytes !== 0);
  await turns(2);
  const unloading = registry.unload('a');
  await assert.rejects(waiting, coded('ERR_ADAPTER_UNLOADED'));
  gate.resolve();
  assert.deepEqual(await unloading, { drained: 0, rowsCut: 0 });
  assert.equal(backend.held.size, 0);
  assert.equal(registry.tiers()[0]?.bytes, 0);
});

test('reads the text files that an adapter ships and counts them in its digest', async (t) => {
  const { registry, root, warnings } = await rig(t, ['a']);
  await touch(registry, 'a');
  const { digest } = await registry.get('a');
  await writeFile(join(root, 'a', 'tokenizer.json'), '{}');
  const reply = await registry.load(loadCall('a', join(root, 'a')));
  assert.equal(reply.replaced, digest);
  assert.deepEqual(reply.adapter.text, { tokenizer: 'base', template: 'own', digest: TEXT.digest });
  const lease = await registry.acquire('a');
  assert.equal(lease.text, TEXT);
  lease.release();
  assert.deepEqual(warnings, ['a: looks odd']);
  await writeFile(join(root, 'a', 'tokenizer.json'), 'bad');
  const again = registry.load({ ...loadCall('a', join(root, 'a')), replace: true });
  await assert.rejects(again, coded('ERR_ADAPTER_INVALID'));
  assert.equal((await registry.get('a')).digest, reply.adapter.digest);
});

test('close refuses everything and frees what no row holds', async (t) => {
  const crowded = await rig(t, ['a', 'b'], 1);
  const { registry, backend } = crowded;
  const lease = await registry.acquire('a');
  const waiting = registry.acquire('b');
  waiting.catch(() => undefined);
  await standsForMemory(crowded, 'a');
  await registry.close();
  await assert.rejects(waiting, coded('ERR_ENGINE_CLOSED'));
  await assert.rejects(registry.acquire('a'), coded('ERR_ENGINE_CLOSED'));
  assert.equal(registry.tryAcquire('a'), null);
  lease.release();
  assert.equal(backend.held.size, 0);
});
