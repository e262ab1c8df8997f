import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SlotPool } from '../../../src/scheduler/slot-pool.js';

test('the lowest free slot comes first, looking takes nothing', () => {
  const slots = new SlotPool(3);
  assert.equal(slots.nextFree(0), 0);
  assert.equal(slots.free, 3);
  slots.take(0);
  slots.take(1);
  assert.equal(slots.nextFree(0), 2);
  slots.release(0);
  assert.equal(slots.nextFree(0), 0);
  assert.equal(slots.nextFree(1), 2);
  assert.equal(slots.nextFree(3), -1);
  assert.equal(slots.free, 2);
});
