import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Residency } from '../../../src/adapters/residency.js';
import { coded } from './support.js';

/** A residency with these resident, unpinned adapters: key → bytes, in order of use. */
function filled(capacity: number, entries: Record<number, number>): Residency {
  const residency = new Residency(capacity);
  for (const [key, bytes] of Object.entries(entries)) {
    assert.deepEqual(residency.reserve(Number(key), bytes), []);
    residency.commit(Number(key), 0, false);
  }
  return residency;
}

test('reserves, commits and counts', () => {
  const residency = new Residency(100);
  assert.deepEqual(residency.reserve(1, 60), []);
  assert.deepEqual(residency.totals(), { capacity: 100, resident: 0, reserved: 60, pinned: 0, evictable: 0, free: 40 });
  residency.commit(1, 2, false);
  assert.deepEqual(residency.totals(), {
    capacity: 100,
    resident: 60,
    reserved: 0,
    pinned: 60,
    evictable: 0,
    free: 40,
  });
  assert.equal(residency.unpin(1), 1);
  assert.equal(residency.unpin(1), 0);
  assert.deepEqual(residency.totals(), {
    capacity: 100,
    resident: 60,
    reserved: 0,
    pinned: 0,
    evictable: 60,
    free: 40,
  });
  residency.remove(1);
  assert.equal(residency.totals().free, 100);
});

test('evicts the least recently used first and no more than needed', () => {
  const residency = filled(100, { 1: 30, 2: 30, 3: 30 });
  residency.pin(1);
  residency.unpin(1);
  assert.deepEqual(residency.evictionOrder(), [2, 3, 1]);
  assert.deepEqual(residency.reserve(4, 50), [2, 3]);
  assert.deepEqual(residency.evictionOrder(), [1]);
});

test('evicts nothing when it must wait for pins', () => {
  const residency = filled(100, { 1: 40, 2: 40 });
  residency.pin(1);
  assert.equal(residency.reserve(3, 70), null);
  assert.deepEqual(residency.evictionOrder(), [2]);
  residency.unpin(1);
  assert.deepEqual(residency.reserve(3, 70), [2, 1]);
});

test('says at once what can never fit, with the numbers', () => {
  const residency = filled(100, { 1: 40, 2: 30 });
  assert.throws(() => residency.reserve(3, 101), coded('ERR_ADAPTER_NO_SPACE', /needs 101 bytes/));
  residency.setOperatorPin(1, true);
  assert.throws(
    () => residency.reserve(3, 61),
    (thrown: { details: object }) => {
      assert.deepEqual(thrown.details, { bytes: { needed: 61, free: 30, evictable: 30 } });
      return true;
    },
  );
  residency.setOperatorPin(1, false);
  assert.deepEqual(residency.reserve(3, 60), [2]);
});

test('resizes a reservation to what was really taken', () => {
  const residency = filled(100, { 1: 40 });
  residency.reserve(2, 50);
  assert.deepEqual(residency.resize(2, 20), []);
  assert.equal(residency.totals().free, 40);
  assert.deepEqual(residency.resize(2, 90), [1]);
  residency.release(2);
  assert.equal(residency.totals().free, 100);
});

test('refuses misuse of its own state', () => {
  const residency = filled(10, { 1: 5 });
  assert.throws(() => residency.unpin(1), /more often than pinned/);
  assert.throws(() => residency.unpin(2), /not resident/);
  assert.throws(() => residency.commit(2, 0, false), /no reservation/);
  residency.pin(1);
  assert.throws(() => residency.remove(1), /under 1 rows/);
  assert.throws(() => residency.reserve(2, 0), /0 bytes/);
  assert.deepEqual(residency.violations(), []);
  assert.throws(() => new Residency(0), coded('ERR_CONFIG', /--adapter-memory/));
});

type Step =
  | { readonly do: 'load'; readonly bytes: number; readonly rows: number; readonly operator: boolean }
  | { readonly do: 'pin' | 'unpin' | 'operator' | 'remove'; readonly pick: number };

const steps = fc.array(
  fc.oneof(
    fc.record({
      do: fc.constant('load' as const),
      bytes: fc.integer({ min: 1, max: 120 }),
      rows: fc.nat(2),
      operator: fc.boolean(),
    }),
    fc.record({
      do: fc.constantFrom('pin' as const, 'unpin' as const, 'operator' as const, 'remove' as const),
      pick: fc.nat(50),
    }),
  ),
  { maxLength: 80 },
) satisfies fc.Arbitrary<Step[]>;

/** What the residency should hold, kept the obvious way: entries in order of last use. */
interface ModelEntry {
  readonly key: number;
  readonly bytes: number;
  rows: number;
  operator: boolean;
}

test('stays within its budget, never evicts a pinned adapter and follows the order of use', () => {
  fc.assert(
    fc.property(steps, (sequence) => {
      const capacity = 100;
      const residency = new Residency(capacity);
      let model: ModelEntry[] = [];
      const isEvictable = (entry: ModelEntry): boolean => entry.rows === 0 && !entry.operator;
      const sum = (entries: readonly ModelEntry[]): number => entries.reduce((total, entry) => total + entry.bytes, 0);
      const touch = (entry: ModelEntry): void => {
        model = [...model.filter((other) => other !== entry), entry];
      };
      let key = 0;
      for (const step of sequence) {
        if (step.do === 'load') {
          key += 1;
          let evicted: number[] | null;
          try {
            evicted = residency.reserve(key, step.bytes);
          } catch {
            assert.ok(step.bytes > capacity - sum(model.filter((entry) => entry.operator)));
            continue;
          }
          const expected: number[] = [];
          for (let free = capacity - sum(model); free < step.bytes; ) {
            const victim = model.find((entry) => isEvictable(entry) && !expected.includes(entry.key));
            if (victim === undefined) break;
            expected.push(victim.key);
            free += victim.bytes;
          }
          const room = capacity - sum(model.filter((entry) => !isEvictable(entry)));
          assert.deepEqual(evicted, step.bytes > room ? null : expected);
          if (evicted === null) continue;
          model = model.filter((entry) => !expected.includes(entry.key));
          residency.commit(key, step.rows, step.operator);
          model.push({ key, bytes: step.bytes, rows: step.rows, operator: step.operator });
        } else {
          const entry = model[step.pick % Math.max(1, model.length)];
          if (entry === undefined) continue;
          if (step.do === 'pin') {
            residency.pin(entry.key);
            entry.rows += 1;
          } else if (step.do === 'unpin' && entry.rows > 0) {
            entry.rows -= 1;
            assert.equal(residency.unpin(entry.key), entry.rows);
            touch(entry);
          } else if (step.do === 'operator') {
            entry.operator = !entry.operator;
            residency.setOperatorPin(entry.key, entry.operator);
            touch(entry);
          } else if (step.do === 'remove' && entry.rows === 0) {
            residency.remove(entry.key);
            model = model.filter((other) => other !== entry);
          }
        }
        assert.deepEqual(residency.violations(), []);
        assert.equal(residency.totals().resident, sum(model));
        assert.equal(residency.totals().evictable, sum(model.filter(isEvictable)));
        assert.deepEqual(
          residency.evictionOrder(),
          model.filter(isEvictable).map((entry) => entry.key),
        );
      }
    }),
    { numRuns: 300 },
  );
});
