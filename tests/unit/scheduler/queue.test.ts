import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WaitingQueue } from '../../../src/scheduler/queue.js';
import { Sequence } from '../../../src/scheduler/sequence.js';
import { makeRequest, rowsOn, SERVED_BY } from './requests.js';

function arrival(rank: number, adapter: number | null = -1): Sequence {
  return new Sequence(makeRequest(rank, 2, 2), rowsOn(adapter), rank, 0, SERVED_BY);
}

function ids(queue: WaitingQueue): number[] {
  return queue.runnable.map((sequence) => sequence.id);
}

function load(queue: WaitingQueue, id: number): void {
  const sequence = queue.takeLoaded(id);
  assert.ok(sequence);
  sequence.adapters = rowsOn(3);
  queue.insert(sequence);
}

test('a loading sequence is passed over and takes its place by arrival once ready', () => {
  const queue = new WaitingQueue();
  for (const sequence of [arrival(0), arrival(1, null), arrival(2), arrival(3, null), arrival(4)])
    queue.insert(sequence);
  assert.deepEqual(ids(queue), [0, 2, 4]);
  assert.deepEqual([queue.size, queue.loadingCount], [5, 2]);
  load(queue, 3);
  load(queue, 1);
  assert.deepEqual(ids(queue), [0, 1, 2, 3, 4]);
  assert.deepEqual([queue.size, queue.loadingCount], [5, 0]);
});

test('preempted sequences stay before all that never ran', () => {
  const queue = new WaitingQueue();
  const preempted = arrival(5);
  preempted.admit(0, 0, 0);
  preempted.detach();
  queue.insert(arrival(6));
  queue.insert(arrival(1, null));
  queue.pushFront(preempted);
  load(queue, 1);
  assert.deepEqual(ids(queue), [5, 1, 6]);
});

test('removal works from either place and ignores strangers', () => {
  const queue = new WaitingQueue();
  const [runnable, loading] = [arrival(0), arrival(1, null)];
  queue.insert(runnable);
  queue.insert(loading);
  queue.remove(arrival(7));
  assert.equal(queue.size, 2);
  queue.remove(runnable);
  queue.remove(loading);
  assert.equal(queue.size, 0);
  assert.equal(queue.takeLoaded(1), null);
});
