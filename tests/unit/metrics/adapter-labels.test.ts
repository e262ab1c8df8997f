import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AdapterLabels } from '../../../src/metrics/adapter-labels.js';

function labels(max: number) {
  const clock = { atMs: 0 };
  const dropped: string[] = [];
  const made = new AdapterLabels({
    max,
    stickyMs: 1_000,
    maxTracked: 4,
    now: () => clock.atMs,
    onDrop: (label) => dropped.push(label),
  });
  return { clock, dropped, count: (name: string) => made.count(name) };
}

test('the base is always named, the first names too, then others', () => {
  const { count } = labels(2);
  assert.deepEqual(['__base__', 'a', 'b', 'c', 'a'].map(count), ['__base__', 'a', 'b', 'other', 'a']);
});

test('a busier name takes over from the least busy one, once that was held long enough', () => {
  const { count, clock, dropped } = labels(2);
  for (const name of ['a', 'a', 'a', 'b', 'c', 'c']) count(name);
  assert.deepEqual(dropped, []);
  clock.atMs = 1_000;
  assert.equal(count('c'), 'c');
  assert.deepEqual(dropped, ['b']);
  assert.equal(count('b'), 'other');
});

test('none has a label when there are to be none', () => {
  const { count } = labels(0);
  assert.equal(count('a'), 'other');
});
