import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import type { AdapterLease } from '../../../src/adapters/adapter-record.js';
import { AdapterRegistry } from '../../../src/adapters/registry.js';
import { RANK_BYTES, ScriptedBackend, temporaryDirectory, tinyBase, turns, until, writeAdapter } from './support.js';

const ADAPTERS = 100;
const RESIDENT = 8;
const REQUESTS = 600;
const MAX_LOADING = 12;

/** Adapter indices by Zipf's law with exponent 1, from a linear congruential generator. */
function* zipf(): Generator<number> {
  const weights = Array.from({ length: ADAPTERS }, (_, rank) => 1 / (rank + 1));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  for (let state = 12_345; ; ) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    let left = (state / 2 ** 32) * total;
    const at = weights.findIndex((weight) => {
      left -= weight;
      return left < 0;
    });
    yield Math.max(0, at);
  }
}

test('a request whose adapter is resident never waits for the loads of others', async (t) => {
  const root = await temporaryDirectory(t);
  for (let i = 0; i < ADAPTERS; i += 1) await writeAdapter(join(root, `a${i}`), { fill: i });
  const backend = new ScriptedBackend();
  // Loads take many arrivals.
  backend.onOpen = () => turns(20);
  const resident = new Set<string>();
  let evictions = 0;
  const registry = new AdapterRegistry({
    backend,
    base: tinyBase(),
    roots: [root],
    capacityBytes: RESIDENT * RANK_BYTES,
    emit: (fact) => {
      if (fact.kind === 'adapter-load' && fact.result === 'ok') resident.add(fact.name);
      if (fact.kind !== 'adapter-evict') return;
      resident.delete(fact.name);
      evictions += 1;
    },
    now: () => 0,
  });
  const finish = async (lease: AdapterLease): Promise<void> => {
    await turns(5);
    lease.release();
  };
  const running: Promise<void>[] = [];
  let hits = 0;
  let hitsBesideLoads = 0;
  let loading = 0;
  const arrivals = zipf();
  for (let request = 0; request < REQUESTS; request += 1) {
    const name = `a${arrivals.next().value}`;
    const wasResident = resident.has(name);
    const lease = registry.tryAcquire(name);
    assert.equal(lease !== null, wasResident, `request ${request} for ${name}, ${loading} waiting for loads`);
    if (lease !== null) {
      assert.equal(lease.tierAtArrival, 'host');
      hits += 1;
      if (loading > 0) hitsBesideLoads += 1;
      running.push(finish(lease));
    } else {
      loading += 1;
      const loaded = registry.acquire(name).finally(() => {
        loading -= 1;
      });
      running.push(loaded.then(finish));
    }
    assert.ok(resident.size <= RESIDENT);
    await turns(8);
    // However slow the disk is, arrivals do not outrun the loads for good.
    await until(() => loading < MAX_LOADING);
  }
  await Promise.all(running);
  assert.deepEqual(registry.violations(), []);
  assert.ok(evictions > REQUESTS / 10, `${evictions} evictions`);
  assert.ok(hits > REQUESTS / 10 && hitsBesideLoads > hits / 2, `${hits} hits, ${hitsBesideLoads} beside loads`);
  await registry.close();
  assert.equal(backend.heldBytes, 0);
});
