import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BlockPool } from '../../../src/scheduler/block-pool.js';

test('blocks come lowest first and are reused before untouched ones', () => {
  const pool = new BlockPool(5);
  const first = [pool.reserve(), pool.reserve(), pool.reserve()];
  assert.deepEqual(first, [0, 1, 2]);
  pool.settle();
  pool.release(first);
  assert.deepEqual([pool.reserve(), pool.reserve()], [0, 1]);
  assert.deepEqual(pool.availableIds(), [2, 3, 4]);
});

test('reserved blocks count as free until they are settled', () => {
  const pool = new BlockPool(2);
  pool.reserve();
  assert.deepEqual([pool.used, pool.free, pool.available], [0, 2, 1]);
  pool.settle();
  assert.deepEqual([pool.used, pool.free, pool.available], [1, 1, 1]);
});

test('an empty pool gives −1', () => {
  const pool = new BlockPool(1);
  assert.equal(pool.reserve(), 0);
  assert.equal(pool.reserve(), -1);
});
