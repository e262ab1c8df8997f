import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BASE_ROWS } from '../../../src/scheduler/row-adapters.js';
import { Sequence } from '../../../src/scheduler/sequence.js';
import { makeRequest, SERVED_BY } from './requests.js';

test('appending never writes into the caller’s prompt and keeps every token', () => {
  const memory = Uint32Array.from({ length: 200 }, () => 99);
  const promptIds = memory.subarray(0, 3);
  const sequence = new Sequence(makeRequest(1, 3, 150, { promptIds }), BASE_ROWS, 0, 0, SERVED_BY);
  for (let token = 0; token < 150; token += 1) sequence.append(token);
  assert.deepEqual([...sequence.tokens()], [99, 99, 99, ...Array.from({ length: 150 }, (_, token) => token)]);
  assert.equal(sequence.generated, 150);
  assert.ok(memory.every((token) => token === 99));
});

test('after a preemption all tokens known are prefill', () => {
  const sequence = new Sequence(makeRequest(1, 3, 10), BASE_ROWS, 0, 0, SERVED_BY);
  sequence.admit(0, 0, 0);
  assert.equal(sequence.prefillLength, 3);
  sequence.computed = 3;
  sequence.append(8);
  assert.equal(sequence.prefilling, false);
  sequence.detach();
  assert.equal(sequence.everAdmitted, true);
  sequence.admit(2, 5, 1);
  assert.deepEqual([sequence.computed, sequence.prefillLength, sequence.prefilling], [1, 4, true]);
});
