import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { AdapterLease } from '../../../../src/adapters/adapter-record.js';
import { leaseAll, tryLeaseAll } from '../../../../src/adapters/composition/lease-all.js';
import { requireSummable } from '../../../../src/adapters/composition/summable.js';
import { LoramuxError } from '../../../../src/core/errors.js';

/** Adapters of equal size in a memory of `capacity`; what nothing holds makes room, oldest use first. */
class Memory {
  readonly resident: string[];
  readonly pins = new Map<string, number>();
  loads = 0;

  constructor(
    readonly capacity: number,
    resident: readonly string[] = [],
  ) {
    this.resident = [...resident];
  }

  tryAcquire(name: string): AdapterLease | null {
    return this.resident.includes(name) ? this.#lease(name) : null;
  }

  async acquire(name: string): Promise<AdapterLease> {
    if (name === 'missing') throw new LoramuxError('ERR_ADAPTER_NOT_FOUND', 'no such adapter');
    await Promise.resolve();
    if (!this.resident.includes(name)) {
      if (this.resident.length === this.capacity) {
        const idle = this.resident.findIndex((other) => (this.pins.get(other) ?? 0) === 0);
        assert.ok(idle >= 0, 'a wait for memory with everything pinned would never end');
        this.resident.splice(idle, 1);
      }
      this.resident.push(name);
      this.loads += 1;
    }
    return this.#lease(name);
  }

  get pinned(): number {
    return [...this.pins.values()].reduce((sum, count) => sum + count, 0);
  }

  #lease(name: string): AdapterLease {
    this.pins.set(name, (this.pins.get(name) ?? 0) + 1);
    let held = true;
    return {
      handle: 1,
      digest: name,
      name,
      variant: ['lora'],
      invocation: null,
      text: null,
      tierAtArrival: 'host',
      release: () => {
        if (held) this.pins.set(name, (this.pins.get(name) ?? 0) - 1);
        held = false;
      },
    } as AdapterLease;
  }
}

const never = new AbortController().signal;

test('all or nothing: a list with one member missing holds none', () => {
  const memory = new Memory(4, ['a', 'b']);
  assert.equal(tryLeaseAll(memory, ['a', 'c', 'b']), null);
  assert.equal(memory.pinned, 0);
  const leases = tryLeaseAll(memory, ['b', 'a']);
  assert.deepEqual(
    leases?.map(({ name }) => name),
    ['b', 'a'],
  );
  for (const lease of leases ?? []) lease.release();
  assert.equal(memory.pinned, 0);
});

test('members that are not resident are loaded, each once, and come in the order of the list', async () => {
  const memory = new Memory(3, ['x', 'b']);
  const leases = await leaseAll(memory, ['a', 'b', 'c'], never);
  assert.deepEqual(
    leases.map(({ name }) => name),
    ['a', 'b', 'c'],
  );
  assert.deepEqual([memory.loads, memory.pinned], [2, 3]);
});

test('lists that wait at the same time never hold what the other waits for', async () => {
  const memory = new Memory(3);
  const run = async (names: readonly string[]) => {
    for (const lease of await leaseAll(memory, names, never)) lease.release();
  };
  await Promise.all([run(['a', 'b']), run(['c', 'd'])]);
  assert.equal(memory.pinned, 0);
});

test('a set that never fits ends in an error that says so, and holds nothing', async () => {
  const memory = new Memory(2);
  await assert.rejects(leaseAll(memory, ['a', 'b', 'c'], never), {
    code: 'ERR_ADAPTER_NO_SPACE',
    message: /a, b, c to be resident together.*raise --adapter-memory/,
  });
  assert.equal(memory.pinned, 0);
});

test('a member that cannot be loaded fails the list and leaves nothing held', async () => {
  const memory = new Memory(2, ['a']);
  await assert.rejects(leaseAll(memory, ['a', 'missing'], never), { code: 'ERR_ADAPTER_NOT_FOUND' });
  assert.equal(memory.pinned, 0);
});

test('only adapters that are a delta and nothing else may be combined', () => {
  assert.doesNotThrow(() => requireSummable('a', ['lora'], '`adapters`'));
  assert.doesNotThrow(() => requireSummable('a', ['rslora'], '`adapters`'));
  assert.throws(() => requireSummable('a', ['dora', 'rslora'], '`adapters`'), {
    code: 'ERR_ADAPTER_INVALID',
    message: /in `adapters`, but a is dora: use it alone/,
  });
});
