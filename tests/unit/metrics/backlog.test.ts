import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Backlog } from '../../../src/metrics/backlog.js';

test('items are counted once, in order: when there are many, or when asked for', () => {
  const counted: number[] = [];
  const backlog = new Backlog<number>(3, (item) => counted.push(item));
  backlog.add(1);
  backlog.add(2);
  assert.deepEqual(counted, []);
  backlog.add(3);
  assert.deepEqual(counted, [1, 2, 3]);
  backlog.add(4);
  backlog.flush();
  backlog.flush();
  assert.deepEqual(counted, [1, 2, 3, 4]);
});
