import assert from 'node:assert/strict';
import { test } from 'node:test';
import { NO_CONSTRAINT, NO_TOKEN, type StepOutput } from '../../../src/core/step.js';
import { BASE_ROWS, oneAdapter } from '../../../src/scheduler/row-adapters.js';
import { Scheduler } from '../../../src/scheduler/scheduler.js';
import { makeRequest, SERVED_BY } from './requests.js';

const LIMITS = {
  maxSequences: 4,
  maxBatchTokens: 16,
  maxPrefillRows: 16,
  maxQueue: 4,
  kvBlocks: 8,
  blockSize: 4,
  maxModelLen: 32,
  vocabSize: 23,
  prefixCache: true,
  speculation: false,
};

function output(tokens: readonly number[]): StepOutput {
  const rows = tokens.length;
  return {
    tokens: Uint32Array.from(tokens),
    logprobs: new Float32Array(rows),
    top: { indptr: new Int32Array(rows + 1), ids: new Uint32Array(0), logprobs: new Float32Array(0) },
    logits: null,
    failures: [],
    runSeconds: 0,
    sampleSeconds: 0,
    maskSeconds: 0,
  };
}

test('a row without finite logits ends its own request alone and frees what it held', () => {
  const scheduler = new Scheduler(LIMITS);
  scheduler.enqueue(makeRequest(1, 3, 4), oneAdapter(7), 0, SERVED_BY);
  scheduler.enqueue(makeRequest(2, 3, 4), BASE_ROWS, 0, SERVED_BY);
  const plan = scheduler.plan(0);
  assert.ok(plan !== null);
  scheduler.buildBatch(plan);
  const broken = plan.entries.findIndex(({ sequence }) => sequence.id === 1);
  const tokens = [5, 5];
  tokens[broken] = NO_TOKEN;
  const events = scheduler.commit(plan, output(tokens), 0);
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

test('a constraint that allows nothing says why, to its own request alone', () => {
  const scheduler = new Scheduler(LIMITS);
  scheduler.enqueue(makeRequest(1, 3, 4), BASE_ROWS, 0, SERVED_BY, 9);
  scheduler.enqueue(makeRequest(2, 3, 4), BASE_ROWS, 0, SERVED_BY);
  const plan = scheduler.plan(0);
  assert.ok(plan !== null);
  assert.deepEqual(
    scheduler.buildBatch(plan).sampling.map(({ constraint }) => constraint),
    [9, NO_CONSTRAINT],
  );
  const failures = [{ row: 0, message: 'too complex' }];
  const events = scheduler.commit(plan, { ...output([NO_TOKEN, 5]), failures }, 0);
  const error = events.find((event) => event.kind === 'error');
  assert.equal(error?.id, 1);
  assert.match(error?.error.message ?? '', /constraint .* position 3: too complex/);
  assert.equal(error?.error.details?.field, 'constraint');
  assert.ok(events.some((event) => event.kind === 'token' && event.id === 2));
});
