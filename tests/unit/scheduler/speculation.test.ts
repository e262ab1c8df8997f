import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { GREEDY_SAMPLING } from '../../../src/core/request.js';
import { BASE_ROWS } from '../../../src/scheduler/row-adapters.js';
import { Sequence } from '../../../src/scheduler/sequence.js';
import { Speculation } from '../../../src/scheduler/speculation.js';
import { StepCost } from '../../../src/scheduler/step-cost.js';
import { Harness, makeLimits, makeRequest, SERVED_BY } from './requests.js';

const LIMITS = makeLimits({ speculation: true, maxBatchTokens: 256, maxPrefillRows: 16, maxModelLen: 512 });

/** A sequence that says `1 2 3 4` over and over, so that guesses about it are right. */
function repeating(tokens = 40, maxNewTokens = 200, stopIds: number[] = []): Sequence {
  const promptIds = Uint32Array.of(1, 2, 3, 4);
  const request = makeRequest(1, 4, maxNewTokens, { promptIds, stopIds, sampling: GREEDY_SAMPLING });
  const sequence = new Sequence(request, BASE_ROWS, 0, 0, SERVED_BY);
  while (sequence.length < tokens) sequence.append((sequence.length % 4) + 1);
  return sequence;
}

describe('how many drafts pay', () => {
  const drafted = (decodeRows: number, cost = new StepCost()): number =>
    new Speculation(LIMITS, cost, decodeRows).drafts(repeating(), 512).length;

  test('the fewer rows a step has anyway, the more', () => {
    const counts = [1, 2, 4, 8, 16, 64].map((rows) => drafted(rows));
    assert.ok(
      counts.every((count, index) => index === 0 || count <= (counts[index - 1] as number)),
      `${counts}`,
    );
    assert.ok((counts[0] as number) >= 8 && (counts.at(-1) as number) <= 4, `${counts}`);
  });

  test('none where a row takes as long as a step', () => {
    const cost = new StepCost();
    for (const rows of [1, 2, 4, 8, 16, 32]) for (let n = 0; n < 20; n += 1) cost.observe(rows, 0.001 * rows);
    assert.equal(drafted(32, cost), 0);
  });

  test('none for a sequence whose guesses are wrong', () => {
    const wrong = repeating(20);
    for (let turn = 0; turn < 30; turn += 1) for (const id of [1, 2, 3, 5 + turn]) wrong.append(id);
    for (const id of [1, 2, 3]) wrong.append(id);
    assert.equal(new Speculation(LIMITS, new StepCost(), 8).drafts(wrong, 512).length, 0);
  });
});

describe('what bounds drafts', () => {
  const drafts = (sequence: Sequence, capacity = 512, limits = LIMITS): readonly number[] =>
    new Speculation(limits, new StepCost(), 1).drafts(sequence, capacity);

  test('the blocks that the sequence has', () => {
    assert.equal(drafts(repeating(40), 40).length, 0);
    assert.deepEqual(drafts(repeating(40), 43), [1, 2, 3]);
  });

  test('the tokens that are wanted: the last one needs no draft', () => {
    assert.deepEqual(drafts(repeating(40, 39)), [1, 2]);
    assert.deepEqual(drafts(repeating(40, 37)), []);
  });

  test('a stop token is never drafted', () => {
    assert.deepEqual(drafts(repeating(40, 200, [3])), [1, 2]);
  });

  test("the step's budget, of which prefills keep their part", () => {
    const limits = makeLimits({ ...LIMITS, maxBatchTokens: 20, maxPrefillRows: 10 });
    assert.equal(drafts(repeating(), 512, limits).length, 9);
    assert.equal(drafts(repeating(), 512, { ...limits, maxBatchTokens: 5 }).length, 2);
    assert.equal(drafts(repeating(), 512, { ...limits, maxBatchTokens: 2 }).length, 0);
  });

  test('the switch', () => {
    assert.equal(drafts(repeating(), 512, { ...LIMITS, speculation: false }).length, 0);
  });
});

describe('the cost of a step', () => {
  test('is fitted to what steps took', () => {
    const cost = new StepCost();
    for (let n = 0; n < 100; n += 1) cost.observe(1 + (n % 20), 0.04 + 0.002 * (1 + (n % 20)));
    assert.ok(Math.abs(cost.inRows(1) - 21) < 1.5, `${cost.inRows(1)}`);
    assert.ok(Math.abs(cost.inRows(20) - 40) < 1.5, `${cost.inRows(20)}`);
  });

  test('is an assumption while all steps were alike, and never less than its rows', () => {
    const cost = new StepCost();
    assert.equal(cost.inRows(4), 20);
    for (let n = 0; n < 50; n += 1) cost.observe(4, 0.02);
    assert.ok(Math.abs(cost.inRows(4) - 20) < 1e-6);
    cost.observe(4, Number.NaN);
    cost.observe(4, 0);
    assert.ok(Math.abs(cost.inRows(4) - 20) < 1e-6);
    for (const rows of [1, 64]) for (let n = 0; n < 50; n += 1) cost.observe(rows, 0.05 - 0.0005 * rows);
    assert.ok(cost.inRows(64) >= 64);
  });
});

test('a repetitive request ends in fewer steps with the same events', () => {
  const run = (speculation: boolean) => {
    const harness = new Harness({ speculation, maxModelLen: 64, blockSize: 16 });
    harness.enqueue(1, 6, 40);
    harness.enqueue(2, 6, 40, 3);
    harness.runToEnd();
    return harness;
  };
  const [plain, guessing] = [run(false), run(true)];
  for (const id of [1, 2]) assert.deepEqual(guessing.tokensOf(id), plain.tokensOf(id));
  assert.ok(guessing.nowMs < plain.nowMs, `${guessing.nowMs} of ${plain.nowMs} steps`);
});
