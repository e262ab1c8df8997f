import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LeaseBook } from '../../../src/worker/lease-book.js';

test('a lease is returned when no step is in flight that began before its end', () => {
  const book = new LeaseBook();
  const returned: number[] = [];
  const hold = (id: number): void => book.hold(id, { release: () => returned.push(id) });
  for (const id of [1, 2, 3, 4]) hold(id);
  book.end(1);
  assert.deepEqual(returned, [1], 'at once between steps');
  book.stepBegins();
  book.end(2);
  book.stepBegins();
  book.end(3);
  assert.deepEqual(returned, [1]);
  book.stepEnds();
  assert.deepEqual(returned, [1, 2], 'the step behind may name 3');
  book.stepEnds();
  assert.deepEqual(returned, [1, 2, 3]);
  assert.equal(book.size, 1);
});

test('a wait that ends is aborted at once', () => {
  const book = new LeaseBook();
  const waiting = new AbortController();
  book.stepBegins();
  book.wait(1, waiting);
  book.end(1);
  assert.ok(waiting.signal.aborted);
});
