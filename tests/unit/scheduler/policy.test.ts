import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { GenerateRequest } from '../../../src/core/request.js';
import {
  blocksFor,
  canAdmit,
  checkLimits,
  checkRequest,
  finishReason,
  longPromptRows,
  maxScoredRows,
} from '../../../src/scheduler/policy.js';
import { makeLimits } from './requests.js';

function sized(prompt: number, maxNewTokens: number, promptLogprobs: GenerateRequest['promptLogprobs'] = null) {
  return { promptIds: new Uint32Array(prompt), maxNewTokens, promptLogprobs };
}

test('blocksFor rounds up to whole blocks', () => {
  for (const [tokens, blockSize, blocks] of [
    [0, 16, 0],
    [1, 16, 1],
    [16, 16, 1],
    [17, 16, 2],
    [5, 1, 5],
  ] as const) {
    assert.equal(blocksFor(tokens, blockSize), blocks, `${tokens} tokens in blocks of ${blockSize}`);
  }
});

test('of the prefill rows of a step that decodes, long prompts leave a quarter to others, and always get on', () => {
  for (const [rows, each, together] of [
    [1, 1, 1],
    [2, 1, 1],
    [3, 1, 2],
    [10, 3, 7],
    [64, 16, 48],
  ] as const) {
    assert.deepEqual(longPromptRows(rows), { each, together }, `of ${rows} rows`);
  }
});

test('checkRequest refuses what could never finish', () => {
  const limits = { maxModelLen: 16, kvBlocks: 3, blockSize: 4 };
  for (const [prompt, output, code] of [
    [1, 1, null],
    [12, 1, null], // the last token needs no KV: 12 tokens in 3 blocks
    [12, 2, 'ERR_PROMPT_TOO_LONG'], // 13 tokens need a fourth block
    [8, 5, null],
    [16, 1, 'ERR_PROMPT_TOO_LONG'], // longer than the model
    [0, 1, 'ERR_VALIDATION'],
    [1, 0, 'ERR_VALIDATION'],
    [1, 1.5, 'ERR_VALIDATION'],
  ] as const) {
    const check = () => checkRequest(sized(prompt, output), limits);
    if (code === null) assert.doesNotThrow(check, `${prompt} + ${output}`);
    else assert.throws(check, { code }, `${prompt} + ${output}`);
  }
  const roomy = { ...limits, kvBlocks: 4 };
  assert.doesNotThrow(() => checkRequest(sized(15, 1), roomy));
  assert.throws(() => checkRequest(sized(15, 2), roomy), {
    message: /at most 16, got 15 \+ 2/,
  });
});

test('checkRequest takes a prompt that is only scored', () => {
  const limits = { maxModelLen: 12, kvBlocks: 3, blockSize: 4 };
  for (const prompt of [1, 12]) assert.doesNotThrow(() => checkRequest(sized(prompt, 0, { top: 0 }), limits));
  assert.throws(() => checkRequest(sized(13, 0, { top: 0 }), limits), { code: 'ERR_PROMPT_TOO_LONG' });
  assert.throws(() => checkRequest(sized(9, 0, { top: 0 }), { ...limits, kvBlocks: 2 }), {
    code: 'ERR_PROMPT_TOO_LONG',
    message: /need 3/,
  });
  assert.throws(() => checkRequest(sized(0, 0, { top: 0 }), limits), { code: 'ERR_VALIDATION' });
});

test('maxScoredRows keeps logits within 64 MiB, and never stops at none', () => {
  assert.equal(maxScoredRows(49_152), 341);
  assert.equal(maxScoredRows(151_936), 110);
  assert.equal(maxScoredRows(2 ** 26), 1);
});

test('checkLimits names the limit that cannot work', () => {
  assert.doesNotThrow(() => checkLimits(makeLimits()));
  assert.throws(() => checkLimits(makeLimits({ kvBlocks: 0 })), { code: 'ERR_CONFIG', message: /kvBlocks.*got 0/ });
  assert.throws(() => checkLimits(makeLimits({ maxQueue: Number.NaN })), { code: 'ERR_CONFIG', message: /maxQueue/ });
  assert.throws(() => checkLimits(makeLimits({ maxSequences: 8, maxBatchTokens: 7 })), {
    code: 'ERR_CONFIG',
    message: /maxBatchTokens to be at least maxSequences \(8\).*got 7/,
  });
});

test('canAdmit needs a row, a slot and every block', () => {
  for (const [rows, slots, blocks, admits] of [
    [1, 1, 3, true],
    [0, 1, 3, false],
    [1, 0, 3, false],
    [1, 1, 2, false],
  ] as const) {
    assert.equal(canAdmit({ rows, slots, blocks }, 3), admits, `${rows} rows, ${slots} slots, ${blocks} blocks`);
  }
});

test('finishReason looks at the length before EOS', () => {
  const request = { maxNewTokens: 3, stopIds: [2, 5] };
  for (const [generated, token, reason] of [
    [1, 9, null],
    [1, 5, 'eos_token'],
    [3, 9, 'length'],
    [3, 2, 'length'],
  ] as const) {
    assert.equal(finishReason(request, generated, token), reason, `token ${token} as number ${generated}`);
  }
});
