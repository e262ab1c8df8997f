import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WaitingQueue } from '../../../src/scheduler/queue.js';
import { Sequence } from '../../../src/scheduler/sequence.js';
import { makeRequest, rowsOn, SERVED_BY } from './requests.js';

function arrival(rank: number, adapter: number | null = -1): Sequence {
  return new Sequence(makeRequest(rank, 2, 2), rowsOn(adapter), rank, 0, SERVED_BY);
}

function ids(queue: WaitingQueue): number[] {
  return Array.from(queue.runnable(), (sequence) => sequence.id);
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

test("first what was preempted, then the engine's own, then those whose turn had come", () => {
  const queue = new WaitingQueue();
  const preempted = arrival(5);
  preempted.admit(0, 0, 0);
  preempted.detach();
  const [late, early, turned] = [arrival(6), arrival(1, null), arrival(7)];
  for (const sequence of [late, early, turned]) queue.insert(sequence);
  queue.takeTurn(turned);
  queue.pushFront(preempted);
  load(queue, 1);
  const own = new Sequence(makeRequest(-9, 2, 2), rowsOn(-1), -1, 0, SERVED_BY);
  queue.insertFirst(own);
  assert.deepEqual(ids(queue), [5, -9, 7, 1, 6]);
  for (const sequence of [preempted, own]) {
    queue.takeTurn(sequence);
    queue.remove(sequence);
  }
  assert.deepEqual(ids(queue), [7, 1, 6]);
});

test('removal works from every place and ignores strangers', () => {
  const queue = new WaitingQueue();
  const [runnable, loading, turned] = [arrival(0), arrival(1, null), arrival(2)];
  for (const sequence of [runnable, loading, turned]) queue.insert(sequence);
  queue.takeTurn(turned);
  queue.remove(arrival(7));
  assert.equal(queue.size, 3);
  for (const sequence of [runnable, loading, turned]) queue.remove(sequence);
  assert.equal(queue.size, 0);
  assert.equal(queue.takeLoaded(1), null);
});
