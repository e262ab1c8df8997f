import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { AdapterRegistry } from '../../../src/adapters/registry.js';
import { coded, RANK_BYTES, ScriptedBackend, temporaryDirectory, tinyBase, writeAdapter } from './support.js';

interface Rig {
  readonly registry: AdapterRegistry;
  readonly root: string;
}

async function rig(t: TestContext, names: readonly string[], room = 10): Promise<Rig> {
  const root = await temporaryDirectory(t);
  for (const [fill, name] of names.entries()) await writeAdapter(join(root, name), { fill });
  const backend = new ScriptedBackend();
  const registry = new AdapterRegistry({
    backend,
    base: tinyBase(),
    roots: [root],
    capacityBytes: room * RANK_BYTES,
    emit: () => undefined,
  });
  t.after(() => assert.deepEqual(registry.violations(), []));
  return { registry, root };
}

async function digestOf(registry: AdapterRegistry, name: string): Promise<string> {
  const lease = await registry.acquire(name);
  lease.release();
  return lease.digest;
}

function load(registry: AdapterRegistry, name: string, directory: string): ReturnType<AdapterRegistry['load']> {
  return registry.load({ name, source: { type: 'dir', location: directory }, pin: false, wait: true, replace: true });
}

test('an alias answers with the digest it was given, by digest or by adapter', async (t) => {
  const { registry } = await rig(t, ['a', 'b']);
  const [a, b] = [await digestOf(registry, 'a'), await digestOf(registry, 'b')];
  assert.deepEqual(await registry.setAlias('prod', { adapter: 'a' }), {
    replaced: null,
    alias: { name: 'prod', digest: a, adapter: 'a' },
  });
  assert.equal(await digestOf(registry, 'prod'), a);
  assert.deepEqual((await registry.setAlias('prod', { digest: b })).replaced, a);
  const lease = registry.tryAcquire('prod');
  assert.equal(lease?.digest, b);
  assert.equal(lease?.name, 'b');
  lease?.release();
  assert.deepEqual((await registry.get('prod')).name, 'b');
  const { adapters } = await registry.list();
  assert.deepEqual(
    adapters.map(({ name, aliases }) => [name, aliases]),
    [
      ['a', []],
      ['b', ['prod']],
    ],
  );
});

test('a lease stays with the version that it began with when the alias moves', async (t) => {
  const { registry } = await rig(t, ['a', 'b']);
  const [a, b] = [await digestOf(registry, 'a'), await digestOf(registry, 'b')];
  await registry.setAlias('prod', { digest: a });
  const before = await registry.acquire('prod');
  await registry.setAlias('prod', { digest: b });
  const after = await registry.acquire('prod');
  assert.deepEqual([before.digest, after.digest], [a, b]);
  assert.notEqual(before.handle, after.handle);
  before.release();
  after.release();
});

test('an alias brings its adapter back after an eviction', async (t) => {
  const { registry } = await rig(t, ['a', 'b'], 1);
  const a = await digestOf(registry, 'a');
  await registry.setAlias('prod', { adapter: 'a' });
  await digestOf(registry, 'b');
  assert.equal(registry.tryAcquire('prod'), null);
  assert.equal(await digestOf(registry, 'prod'), a);
});

test('an alias never answers with another digest, whatever the name behind it moves to', async (t) => {
  const { registry, root } = await rig(t, ['a', 'b']);
  const a = await digestOf(registry, 'a');
  await registry.setAlias('prod', { adapter: 'a' });
  await load(registry, 'a', join(root, 'b'));
  await assert.rejects(registry.acquire('prod'), coded('ERR_ADAPTER_NOT_FOUND', /no adapter has any more/));
  assert.throws(() => registry.tryAcquire('prod'), coded('ERR_ADAPTER_NOT_FOUND'));
  assert.deepEqual(registry.aliases(), { aliases: [{ name: 'prod', digest: a, adapter: null }] });
  await load(registry, 'c', join(root, 'a'));
  assert.equal(await digestOf(registry, 'prod'), a);
  assert.deepEqual(registry.aliases(), { aliases: [{ name: 'prod', digest: a, adapter: 'c' }] });
});

test('files that changed while the adapter was evicted are not served by its alias', async (t) => {
  const { registry, root } = await rig(t, ['a', 'b'], 1);
  await digestOf(registry, 'a');
  await registry.setAlias('prod', { adapter: 'a' });
  await digestOf(registry, 'b');
  await writeAdapter(join(root, 'a'), { fill: 9 });
  await assert.rejects(registry.acquire('prod'), coded('ERR_ADAPTER_NOT_FOUND'));
  assert.deepEqual((await registry.get('a')).pins, { rows: 0, operator: false });
});

test('adapters and aliases share one space of names', async (t) => {
  const { registry, root } = await rig(t, ['a', 'b']);
  await digestOf(registry, 'a');
  for (const taken of ['a', 'b']) {
    await assert.rejects(registry.setAlias(taken, { adapter: 'a' }), coded('ERR_BAD_REQUEST', /name of an adapter/));
  }
  await registry.setAlias('prod', { adapter: 'a' });
  await assert.rejects(load(registry, 'prod', join(root, 'b')), coded('ERR_BAD_REQUEST', /name of an alias/));
  // A folder of that name that appears later neither hides the alias nor shows up beside it.
  await writeAdapter(join(root, 'prod'), { fill: 5 });
  assert.equal((await registry.acquire('prod')).name, 'a');
  assert.deepEqual(
    (await registry.list()).adapters.map(({ name }) => name),
    ['a', 'b'],
  );
  await assert.rejects(registry.unload('prod'), coded('ERR_ADAPTER_NOT_FOUND', /is an alias/));
  await assert.rejects(registry.pin('prod', true), coded('ERR_ADAPTER_NOT_FOUND', /is an alias/));
});

test('an alias needs a proper name and a digest that was loaded', async (t) => {
  const { registry } = await rig(t, ['a']);
  for (const name of ['__base__', '__base_model__', 'x:y', '']) {
    await assert.rejects(registry.setAlias(name, { adapter: 'a' }), coded('ERR_BAD_REQUEST'), name);
  }
  await assert.rejects(registry.setAlias('prod', { adapter: 'a' }), coded('ERR_ADAPTER_NOT_FOUND', /never loaded/));
  await assert.rejects(registry.setAlias('prod', { adapter: 'nope' }), coded('ERR_ADAPTER_NOT_FOUND'));
  await assert.rejects(registry.setAlias('prod', { digest: 'e'.repeat(64) }), coded('ERR_ADAPTER_NOT_FOUND'));
  assert.deepEqual(registry.aliases(), { aliases: [] });
});

test('a forgotten alias is unknown, and its adapter stays', async (t) => {
  const { registry } = await rig(t, ['a']);
  const a = await digestOf(registry, 'a');
  await registry.setAlias('prod', { adapter: 'a' });
  await registry.setAlias('next', { adapter: 'prod' });
  assert.deepEqual((await registry.get('a')).aliases, ['next', 'prod']);
  assert.deepEqual(registry.deleteAlias('prod'), { name: 'prod', digest: a, adapter: 'a' });
  assert.throws(() => registry.deleteAlias('prod'), coded('ERR_ADAPTER_NOT_FOUND'));
  await assert.rejects(registry.acquire('prod'), coded('ERR_ADAPTER_NOT_FOUND'));
  assert.equal(await digestOf(registry, 'next'), a);
});
