import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GREEDY_SAMPLING } from '../../../src/core/request.js';
import { BASE_ROWS } from '../../../src/scheduler/row-adapters.js';
import { rowSampling } from '../../../src/scheduler/row-sampling.js';
import { Sequence } from '../../../src/scheduler/sequence.js';
import { makeRequest, SERVED_BY } from './requests.js';

test('penalties of a guessed row count the guesses before it, after a text of any length', () => {
  // More tokens than a call takes arguments.
  const promptIds = Uint32Array.from({ length: 400_000 }, (_, at) => at % 1000);
  const sampling = { ...GREEDY_SAMPLING, repetitionPenalty: 1.3 };
  const sequence = new Sequence(makeRequest(1, 3, 10, { promptIds, sampling }), BASE_ROWS, 0, 0, SERVED_BY);
  const drafts = [7, 8, 9];
  for (const guessed of [0, 1, 3]) {
    const { penalties, position, follows } = rowSampling(sequence, 0, drafts, guessed);
    assert.deepEqual(penalties?.history, Uint32Array.from([...promptIds, ...drafts.slice(0, guessed)]));
    assert.deepEqual([position, follows], [400_000 + guessed, guessed === 0 ? -1 : drafts[guessed - 1]]);
  }
});
