import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fitPrompt } from '../../../src/generation/fit-prompt.js';
import { LIMITS } from '../../helpers/scripted-engine.js';

const ids = (length: number): Uint32Array => Uint32Array.from({ length }, (_, at) => at);
const fit = (length: number, maxNewTokens: number | null, truncate: number | null = null) =>
  fitPrompt({ truncate, truncateSide: 'left', maxNewTokens }, ids(length), LIMITS);

test('without a limit the answer may fill the model length', () => {
  assert.equal(fit(10, null).maxNewTokens, 54);
  assert.equal(fit(63, null).maxNewTokens, 1);
  assert.equal(fit(60, 4).maxNewTokens, 4);
});

test('a prompt that is only scored may fill the model length', () => {
  assert.equal(fit(64, 0).maxNewTokens, 0);
  assert.throws(() => fit(65, 0), /must be <= 64\. Given: 65 `inputs` tokens and 0 `max_new_tokens`/);
});

test('what does not fit is refused with both numbers', () => {
  assert.throws(() => fit(60, 5), /must be <= 64\. Given: 60 `inputs` tokens and 5 `max_new_tokens`/);
  assert.throws(() => fit(64, null), /must have less than 63 tokens\. Given: 64/);
  assert.throws(() => fit(0, null), /at least one token/);
});

test('truncation keeps the last tokens and comes before the limits', () => {
  assert.deepEqual([...fit(100, null, 3).promptIds], [97, 98, 99]);
  assert.equal(fit(2, null, 3).promptIds.length, 2);
});
