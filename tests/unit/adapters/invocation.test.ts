import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lastOccurrence } from '../../../src/adapters/invocation.js';

test('the last occurrence counts, wherever it is, overlaps included', () => {
  const at = (tokens: readonly number[], sequence: readonly number[]) =>
    lastOccurrence(Uint32Array.from(tokens), sequence);
  assert.equal(at([1, 2, 3, 1, 2, 4], [1, 2]), 3);
  assert.equal(at([1, 2, 3], [1, 2, 3]), 0);
  assert.equal(at([3, 1, 2], [1, 2]), 1);
  assert.equal(at([1, 1, 1], [1, 1]), 1);
  assert.equal(at([1, 2, 1], [1, 2, 1, 2]), -1);
  assert.equal(at([1, 3, 2], [1, 2]), -1);
});
