import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { AdapterRegistry } from '../../../src/adapters/registry.js';
import { GREEDY_SAMPLING, PLAIN_REQUEST } from '../../../src/core/request.js';
import { allowedAliases } from '../../../src/worker/allowed-aliases.js';
import { claim, tryClaim } from '../../../src/worker/claim.js';
import { RANK_BYTES, ScriptedBackend, temporaryDirectory, tinyBase, writeAdapter } from '../adapters/support.js';

const FORBIDDEN = { code: 'ERR_FORBIDDEN', message: /may use the name prod, but not the adapter/ };

/** Adapters `sql-1` and `secret`, both loaded, and `prod`, an alias of the first. */
async function rig(t: TestContext): Promise<AdapterRegistry> {
  const root = await temporaryDirectory(t);
  for (const [fill, name] of ['sql-1', 'secret'].entries()) await writeAdapter(join(root, name), { fill });
  const registry = new AdapterRegistry({
    backend: new ScriptedBackend(),
    base: tinyBase(),
    roots: [root],
    capacityBytes: 10 * RANK_BYTES,
    emit: () => undefined,
  });
  for (const name of ['sql-1', 'secret']) (await registry.acquire(name)).release();
  await registry.setAlias('prod', { adapter: 'sql-1' });
  t.after(() => assert.deepEqual(registry.violations(), []));
  return registry;
}

function request(adapter: string, allowed: readonly string[], merged = false) {
  const members = [
    { name: adapter, weight: 1 },
    { name: 'sql-1', weight: 2 },
  ];
  const method = { formula: 'peft', strategy: 'linear', density: 1, majoritySign: 'total' } as const;
  return {
    ...PLAIN_REQUEST,
    id: 1,
    adapter,
    allowed,
    ...(merged ? { composition: { kind: 'merge', members, method } as const } : {}),
    promptIds: Uint32Array.of(1),
    maxNewTokens: 1,
    stopIds: [],
    sampling: GREEDY_SAMPLING,
  };
}

test('an alias opens what the key may use by its own name', async (t) => {
  const registry = await rig(t);
  const allowed = ['prod', 'sql-*'];
  const held = tryClaim(registry, request('prod', allowed));
  assert.ok(held !== null);
  held.release();
  (await claim(registry, request('prod', allowed), new AbortController().signal)).release();

  await registry.setAlias('prod', { adapter: 'secret' });
  assert.throws(() => tryClaim(registry, request('prod', allowed)), FORBIDDEN);
  await assert.rejects(claim(registry, request('prod', allowed), new AbortController().signal), FORBIDDEN);
  await registry.setAlias('prod', { adapter: 'sql-1' });
  tryClaim(registry, request('prod', allowed))?.release();
});

test('an alias inside a merge opens no more', async (t) => {
  const registry = await rig(t);
  await registry.setAlias('prod', { adapter: 'secret' });
  const allowed = ['prod', 'sql-*'];
  assert.throws(() => tryClaim(registry, request('prod', allowed, true)), FORBIDDEN);
  await assert.rejects(claim(registry, request('prod', allowed, true), new AbortController().signal), FORBIDDEN);
});

test('names that are no aliases, and callers without limits, are not looked at again', async (t) => {
  const registry = await rig(t);
  // The main thread has checked plain names.
  tryClaim(registry, request('secret', []))?.release();
  assert.equal(allowedAliases(registry, undefined), registry);
  const { allowed: _, ...anyone } = request('prod', []);
  await registry.setAlias('prod', { adapter: 'secret' });
  const held = tryClaim(registry, anyone);
  assert.ok(held !== null);
  held.release();
});

test('an alias that leads nowhere says so', async (t) => {
  const registry = await rig(t);
  await registry.unload('sql-1');
  assert.throws(() => tryClaim(registry, request('prod', ['*'])), { code: 'ERR_ADAPTER_NOT_FOUND' });
});
