import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PagePool } from '../../../src/core/page-pool.js';
import { BlockPool } from '../../../src/scheduler/block-pool.js';

test('blocks come lowest first and are reused before untouched ones', () => {
  const pool = new BlockPool(new PagePool(5));
  const first = [pool.take(), pool.take(), pool.take()];
  assert.deepEqual(first, [0, 1, 2]);
  pool.release(first);
  assert.deepEqual([pool.take(), pool.take()], [0, 1]);
  assert.deepEqual(pool.blankIds(), [2, 3, 4]);
  assert.deepEqual([pool.used, pool.available, pool.idle], [2, 3, 0]);
});

test('an empty pool gives −1', () => {
  const pool = new BlockPool(new PagePool(1));
  assert.equal(pool.take(), 0);
  assert.equal(pool.take(), -1);
});

test('a published block stays when its holders are gone, and blank ones are taken first', () => {
  const evicted: number[] = [];
  const pool = new BlockPool(new PagePool(4), {
    onEvict: (block) => void evicted.push(block),
    buildOn: () => [],
  });
  const path = [pool.take(), pool.take(), pool.take()];
  pool.publish(0);
  pool.publish(1);
  pool.release(path);
  assert.deepEqual([pool.idleIds(), pool.blankIds(), pool.used, pool.available], [[1, 0], [2, 3], 0, 4]);
  assert.deepEqual([pool.take(), pool.take()], [2, 3]);
  assert.deepEqual(evicted, []);
  assert.deepEqual([pool.take(), pool.take(), pool.take()], [1, 0, -1]);
  assert.deepEqual(evicted, [1, 0], 'the end of a path first');
  pool.release([0]);
  assert.deepEqual(pool.blankIds(), [0], 'its content is not known any more');
});

test('the path used longest ago goes first; what is held again does not go', () => {
  const pool = new BlockPool(new PagePool(4));
  for (let block = 0; block < 4; block += 1) pool.publish(pool.take());
  pool.hold(0);
  pool.release([0, 1]);
  pool.release([0, 2]);
  pool.release([3]);
  assert.deepEqual([pool.holders(0), pool.idleIds()], [0, [1, 2, 0, 3]]);
  pool.hold(2);
  assert.deepEqual([pool.idleIds(), pool.available], [[1, 0, 3], 3]);
  assert.deepEqual([pool.take(), pool.take(), pool.take(), pool.take()], [1, 0, 3, -1]);
});
