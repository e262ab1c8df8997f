import assert from 'node:assert/strict';
import { test } from 'node:test';
import { GREEDY_SAMPLING } from '../../../src/core/request.js';
import { GREEDY_ROW, NO_CONSTRAINT, NOT_GUESSED, type StepBatch } from '../../../src/core/step.js';
import { BASE_ROWS, rowAdapters } from '../../../src/scheduler/row-adapters.js';
import { Harness, makeRequest, rowsOf, SERVED_BY } from './requests.js';

/** Runs one step and copies its batch: the arrays are reused. */
function nextBatch(harness: Harness): { batch: StepBatch; rows: string } {
  const captured: { batch?: StepBatch } = {};
  const plan = harness.step((planned) => {
    captured.batch = structuredClone(harness.scheduler.buildBatch(planned));
  });
  assert.ok(captured.batch);
  return { batch: captured.batch, rows: rowsOf(plan) };
}

test('a mixed step: rows by adapter, base first, one segment each', () => {
  const harness = new Harness({ maxBatchTokens: 8, blockSize: 4 });
  harness.enqueue(1, 3, 4, 9);
  harness.enqueue(2, 2, 4, -1);
  harness.enqueue(3, 9, 4, 5);
  harness.enqueue(4, 1, 4, 9);

  const first = nextBatch(harness);
  assert.equal(first.rows, '2:p2 3:p3 1:p3');
  assert.deepEqual([...first.batch.tokens], [14, 17, 1, 4, 7, 7, 10, 13]);
  assert.deepEqual([...first.batch.cuSeqlens], [0, 2, 5, 8]);
  assert.deepEqual([...first.batch.contextLens], [2, 3, 3]);
  assert.equal(first.batch.maxBlocks, 1);
  assert.deepEqual([...first.batch.blockTables], [1, 2, 0]);
  assert.deepEqual([...first.batch.slotMapping], [4, 5, 8, 9, 10, 0, 1, 2]);
  assert.deepEqual([...first.batch.segmentIndptr], [0, 2, 5, 8]);
  assert.deepEqual([...first.batch.segmentAdapters], [-1, 0, 1]);
  assert.deepEqual(first.batch.adapterTable, [[{ adapter: 5, weight: 1 }], [{ adapter: 9, weight: 1 }]]);
  assert.deepEqual([...first.batch.logitsRows], [1, 7]); // 3 has not reached the end of its prompt
  assert.deepEqual(
    first.batch.sampling.map(({ slot, position }) => [slot, position]),
    [
      [1, 2],
      [0, 3],
    ],
  );

  const second = nextBatch(harness);
  assert.equal(second.rows, '2:1 3:p6 1:1');
  assert.deepEqual([...second.batch.contextLens], [3, 9, 4]);
  assert.equal(second.batch.maxBlocks, 3);
  assert.deepEqual([...second.batch.blockTables], [1, -1, -1, 2, 3, 4, 0, -1, -1]);
  assert.deepEqual([...second.batch.slotMapping], [6, 11, 12, 13, 14, 15, 16, 3]);
  assert.deepEqual([...second.batch.logitsRows], [0, 6, 7]);

  const third = nextBatch(harness);
  assert.equal(third.rows, '2:1 3:1 1:1 4:p1');
  assert.deepEqual([...third.batch.segmentIndptr], [0, 1, 2, 4]);
  assert.deepEqual([...third.batch.slotMapping], [7, 17, 20, 24]); // 1 enters a second block, after 4 is admitted
});

test('lists of adapters: one segment for rows of the same list, whatever their order of arrival', () => {
  const harness = new Harness({ maxBatchTokens: 16 });
  const both = [
    { adapter: 3, weight: 0.1 },
    { adapter: 5, weight: -2 },
  ];
  harness.enqueue(1, 2, 4, rowAdapters(both));
  harness.enqueue(2, 2, 4, 3);
  harness.enqueue(3, 2, 4, rowAdapters(both.toReversed()));
  harness.enqueue(4, 2, 4, rowAdapters(structuredClone(both)));
  const { batch, rows } = nextBatch(harness);
  assert.equal(rows, '1:p2 4:p2 2:p2 3:p2');
  assert.deepEqual([...batch.segmentIndptr], [0, 4, 6, 8]);
  assert.deepEqual([...batch.segmentAdapters], [0, 1, 2]);
  const rounded = both.map(({ adapter, weight }) => ({ adapter, weight: Math.fround(weight) }));
  assert.deepEqual(batch.adapterTable, [rounded, [{ adapter: 3, weight: 1 }], rounded.toReversed()]);
});

test('adapters that begin within the prompt: the rows of a step split there, on any chunk', () => {
  const harness = new Harness({ maxBatchTokens: 8 });
  harness.enqueue(1, 10, 4, rowAdapters([{ adapter: 5, weight: 1 }], 6));
  harness.enqueue(2, 2, 4, rowAdapters([{ adapter: 5, weight: 1 }], Number.POSITIVE_INFINITY));
  harness.enqueue(3, 1, 4, 5);
  const first = nextBatch(harness);
  assert.equal(first.rows, '1:p8');
  assert.deepEqual([...first.batch.segmentIndptr], [0, 6, 8]);
  assert.deepEqual([...first.batch.segmentAdapters], [-1, 0]);
  const second = nextBatch(harness);
  assert.equal(second.rows, '2:p2 1:p2 3:p1');
  assert.deepEqual([...second.batch.segmentIndptr], [0, 2, 5]);
  assert.deepEqual([...second.batch.segmentAdapters], [-1, 0]);
  const third = nextBatch(harness);
  assert.equal(third.rows, '2:1 1:1 3:1');
  assert.deepEqual([...third.batch.segmentIndptr], [0, 1, 3]);
});

test('sequences that begin on the base keep its rows at their head; the adapter stays one table entry', () => {
  const harness = new Harness({ maxBatchTokens: 16 });
  for (const id of [1, 2]) harness.enqueue(id, 4, 4, rowAdapters([{ adapter: 5, weight: 1 }], 2));
  harness.enqueue(3, 2, 4);
  harness.enqueue(4, 2, 4, 5);
  const { batch, rows } = nextBatch(harness);
  assert.equal(rows, '3:p2 1:p4 2:p4 4:p2');
  assert.deepEqual([...batch.segmentIndptr], [0, 4, 6, 8, 12]);
  assert.deepEqual([...batch.segmentAdapters], [-1, 0, -1, 0]);
  assert.deepEqual(batch.adapterTable, [[{ adapter: 5, weight: 1 }]]);
});

test('sampling carries what the request says; what is off is null', () => {
  const harness = new Harness();
  const own = { temperature: 0.7, topK: 40, topP: 0.9, minP: 0.1, typicalP: 0.8, seed: 2n ** 63n };
  const penalties = { repetitionPenalty: 1.3, presencePenalty: 0.5, frequencyPenalty: -0.25 };
  const logitBias = new Map([
    [7, -1.5],
    [3, 100],
  ]);
  const logprobs = { of: 'processed', top: 2 } as const;
  const request = makeRequest(1, 3, 4, {
    sampling: { ...GREEDY_SAMPLING, ...own, ...penalties, greedy: false, penaltyScope: 'sequence', logitBias },
    choice: 5,
    stopIds: [2, 4],
    minNewTokens: 1,
    logprobs,
  });
  harness.scheduler.enqueue(request, BASE_ROWS, 0, SERVED_BY);
  harness.enqueue(2, 3, 4);
  const prompt = [...request.promptIds];

  const first = nextBatch(harness).batch.sampling;
  assert.deepEqual(first[0], {
    greedy: false,
    ...own,
    penalties: {
      repetition: 1.3,
      presence: 0.5,
      frequency: -0.25,
      scope: 'sequence',
      history: Uint32Array.from(prompt),
      promptLength: 3,
    },
    bias: { ids: Uint32Array.of(7, 3), values: Float32Array.of(-1.5, 100) },
    banned: Uint32Array.of(2, 4),
    choice: 5,
    position: 3,
    logprobs,
    slot: 0,
    constraint: NO_CONSTRAINT,
    follows: NOT_GUESSED,
  });
  assert.deepEqual(first[1], { ...GREEDY_ROW, position: 3, slot: 1 });

  const [second] = nextBatch(harness).batch.sampling;
  assert.equal(second?.position, 4);
  assert.equal(second?.banned, null, 'one token is there');
  assert.deepEqual([...(second?.penalties?.history ?? [])], [...prompt, harness.tokensOf(1)[0]]);
});

test('raw logits come back only of the requests that want them', () => {
  const harness = new Harness();
  for (const id of [1, 2, 3]) harness.enqueue(id, 3, 4);
  harness.step((plan) => {
    assert.deepEqual([...harness.scheduler.buildBatch(plan).returnLogits], []);
    const { returnLogits } = harness.scheduler.buildBatch(plan, (id) => id !== 2);
    assert.deepEqual([...returnLogits], [0, 2]);
  });
});

test('arrays grow with the step and are reused', () => {
  const harness = new Harness({ maxBatchTokens: 300, maxModelLen: 400, kvBlocks: 100 });
  harness.enqueue(1, 2, 40);
  const buffers = new Set<ArrayBufferLike>();
  const record = () => harness.step((plan) => buffers.add(harness.scheduler.buildBatch(plan).tokens.buffer));
  record();
  record();
  assert.equal(buffers.size, 1);
  harness.enqueue(2, 290, 2);
  record();
  record();
  assert.equal(buffers.size, 2);
});
