import assert from 'node:assert/strict';
import { test } from 'node:test';
import { NO_TOKEN, type StepOutput } from '../../../src/core/step.js';
import { BASE_ROWS, oneAdapter } from '../../../src/scheduler/row-adapters.js';
import { Scheduler } from '../../../src/scheduler/scheduler.js';
import { makeRequest, SERVED_BY } from './requests.js';

test('a row without finite logits ends its own request alone and frees what it held', () => {
  const limits = {
    maxSequences: 4,
    maxBatchTokens: 16,
    maxQueue: 4,
    kvBlocks: 8,
    blockSize: 4,
    maxModelLen: 32,
    vocabSize: 23,
    prefixCache: true,
  };
  const scheduler = new Scheduler(limits);
  scheduler.enqueue(makeRequest(1, 3, 4), oneAdapter(7), 0, SERVED_BY);
  scheduler.enqueue(makeRequest(2, 3, 4), BASE_ROWS, 0, SERVED_BY);
  const plan = scheduler.plan(0);
  assert.ok(plan !== null);
  scheduler.buildBatch(plan);
  const broken = plan.entries.findIndex(({ sequence }) => sequence.id === 1);
  const output: StepOutput = {
    tokens: Uint32Array.from([5, 5]),
    logprobs: new Float32Array(2),
    top: { indptr: new Int32Array(3), ids: new Uint32Array(0), logprobs: new Float32Array(0) },
    logits: null,
    runSeconds: 0,
    sampleSeconds: 0,
  };
  output.tokens[broken] = NO_TOKEN;
  const events = scheduler.commit(plan, output, 0);
  const terminal = events.filter(({ kind }) => kind === 'error' || kind === 'finish');
  assert.deepEqual(
    terminal.map(({ kind, id }) => [kind, id]),
    [['error', 1]],
  );
  assert.ok(!events.some((event) => event.kind === 'token' && event.id === 1));
  assert.deepEqual(
    scheduler.snapshot().running.map(({ id }) => id),
    [2],
  );
  assert.equal(scheduler.counts().usedBlocks, 1);
});
