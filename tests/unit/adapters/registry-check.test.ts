import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { deferred } from '../../../src/adapters/deferred.js';
import { AdapterProver, type ProbeRun } from '../../../src/adapters/proof.js';
import { AdapterRegistry } from '../../../src/adapters/registry.js';
import { coded, RANK_BYTES, ScriptedBackend, temporaryDirectory, tinyBase, until, writeAdapter } from './support.js';

interface Rig {
  readonly registry: AdapterRegistry;
  readonly backend: ScriptedBackend;
  readonly root: string;
  /** Handles that were probed. */
  readonly probed: number[];
}

/** A registry with a prover whose engine moves the first logit by `delta`. */
async function rig(t: TestContext, names: readonly string[], room = 10, delta = 2): Promise<Rig> {
  const root = await temporaryDirectory(t);
  for (const [fill, name] of names.entries()) await writeAdapter(join(root, name), { fill });
  const backend = new ScriptedBackend();
  const probed: number[] = [];
  const run: ProbeRun = async (_, handle) => {
    if (handle === null) return Float32Array.of(1, 2);
    assert.ok(backend.held.has(handle), 'the probe runs on an adapter that is in memory');
    probed.push(handle);
    return Float32Array.of(1 + delta, 2);
  };
  const registry = new AdapterRegistry({
    backend,
    base: tinyBase(),
    roots: [root],
    capacityBytes: room * RANK_BYTES,
    prover: new AdapterProver({ run, tokenCount: 100, maxModelLen: 64 }),
    emit: () => undefined,
  });
  t.after(() => {
    assert.deepEqual(registry.violations(), []);
    assert.equal(registry.tiers()[0]?.bytes, backend.heldBytes);
  });
  return { registry, backend, root, probed };
}

function checkCall(name: string, directory: string, replace = true): Parameters<AdapterRegistry['check']>[0] {
  return { name, source: { type: 'dir', location: directory }, replace };
}

test('a load is proven once for its files, and anew for an operator', async (t) => {
  const { registry, root, probed } = await rig(t, ['a', 'b'], 1);
  const touch = async (name: string): Promise<void> => (await registry.acquire(name)).release();
  await touch('a');
  assert.deepEqual((await registry.get('a')).proof, { maxLogitDelta: 2, probeTokens: 2 });
  await touch('b');
  await touch('a');
  assert.equal(probed.length, 2, 'what an eviction threw out comes back with its old proof');
  assert.deepEqual((await registry.get('a')).proof, { maxLogitDelta: 2, probeTokens: 2 });
  await touch('b');
  const source = { type: 'dir', location: join(root, 'a') } as const;
  const { adapter } = await registry.load({ name: 'a', source, pin: false, wait: true, replace: true });
  assert.equal(probed.length, 3);
  assert.deepEqual(adapter.proof, { maxLogitDelta: 2, probeTokens: 2 });
});

test('an adapter that moves nothing is served with a warning', async (t) => {
  const { registry } = await rig(t, ['a'], 10, 0);
  (await registry.acquire('a')).release();
  const { proof, warnings } = await registry.get('a');
  assert.equal(proof?.maxLogitDelta, 0);
  assert.match(warnings?.join() ?? '', /moves no logit of the probe prompt, though all 1 modules are applied/);
});

test('an adapter that overflows is refused and leaves no bytes', async (t) => {
  const { registry, backend } = await rig(t, ['a'], 10, Number.NaN);
  await assert.rejects(registry.acquire('a'), coded('ERR_ADAPTER_INVALID', /probe prompt/));
  assert.equal(backend.held.size, 0);
  assert.equal((await registry.get('a')).state, 'failed');
});

test('a dry run finds out everything and keeps nothing', async (t) => {
  const { registry, backend, root, probed } = await rig(t, ['a']);
  const before = await registry.list();
  const info = await registry.check(checkCall('new', join(root, 'a')));
  assert.equal(info.name, 'new');
  assert.equal(info.state, 'ready');
  assert.equal(info.tier, 'disk');
  assert.equal(info.bytes, RANK_BYTES);
  assert.match(info.digest ?? '', /^[0-9a-f]{64}$/);
  assert.deepEqual(info.modules, { inFile: 1, applied: 1 });
  assert.deepEqual(info.proof, { maxLogitDelta: 2, probeTokens: 2 });
  assert.equal(probed.length, 1);
  assert.equal(backend.held.size, 0);
  assert.deepEqual(await registry.list(), before);
  await assert.rejects(registry.get('new'), coded('ERR_ADAPTER_NOT_FOUND'));
});

test('a dry run under a served name leaves the name as it is', async (t) => {
  const { registry, backend, root } = await rig(t, ['a', 'b']);
  const lease = await registry.acquire('a');
  const before = await registry.get('a');
  const info = await registry.check(checkCall('a', join(root, 'b')));
  assert.notEqual(info.digest, before.digest);
  assert.deepEqual(await registry.get('a'), before);
  assert.equal(backend.held.size, 1);
  // Without `replace` it is refused as the load would be; the same files are fine.
  await assert.rejects(registry.check(checkCall('a', join(root, 'b'), false)), coded('ERR_BAD_REQUEST'));
  assert.equal((await registry.check(checkCall('a', join(root, 'a'), false))).digest, before.digest);
  lease.release();
});

test('a dry run fails as the load would', async (t) => {
  const { registry, backend, root } = await rig(t, ['a', 'broken', 'huge'], 2);
  await rm(join(root, 'broken', 'adapter_model.safetensors'));
  await writeAdapter(join(root, 'huge'), { rank: 3 });
  const outside = await temporaryDirectory(t);
  await writeAdapter(outside);
  const refusals = [
    ['__base__', 'a', 'ERR_BAD_REQUEST'],
    ['x', 'broken', 'ERR_ADAPTER_INVALID'],
    ['x', 'huge', 'ERR_ADAPTER_NO_SPACE'],
    ['x', 'nowhere', 'ERR_ADAPTER_NOT_FOUND'],
    ['x', outside, 'ERR_ADAPTER_FORBIDDEN'],
  ] as const;
  for (const [name, directory, code] of refusals) {
    const path = directory.startsWith('/') ? directory : join(root, directory);
    await assert.rejects(registry.check(checkCall(name, path)), coded(code), `${name} from ${directory}`);
    assert.equal(backend.held.size, 0);
  }
  assert.ok((await registry.list()).adapters.every(({ failure }) => failure === null));
});

test('closing ends a dry run and frees what it made', async (t) => {
  const { registry, backend, root } = await rig(t, ['a']);
  const compiling = deferred<void>();
  backend.onCompile = () => compiling.promise;
  const check = registry.check(checkCall('x', join(root, 'a')));
  const refused = assert.rejects(check, coded('ERR_ENGINE_CLOSED'));
  await until(() => registry.tiers()[0]?.bytes === RANK_BYTES);
  const closed = registry.close();
  compiling.resolve();
  await refused;
  await closed;
  assert.equal(backend.held.size, 0);
});
