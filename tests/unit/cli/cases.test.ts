import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ANSWER_TOKENS, verifyCases } from '../../../src/cli/verify/cases.js';
import { Random } from '../../../src/cli/verify/random.js';

test('a seed decides the numbers, and neighbouring seeds differ', () => {
  const draw = (seed: number): number[] => {
    const random = new Random(seed);
    return Array.from({ length: 50 }, () => random.below(1000));
  };
  assert.deepEqual(draw(5), draw(5));
  assert.notDeepEqual(draw(5), draw(6));
  assert.ok(draw(0).every((value) => Number.isInteger(value) && value >= 0 && value < 1000));
  assert.ok(new Set(draw(0)).size > 30);
});

test('cases fit the model and the vocabulary, greedy and sampled', () => {
  for (const maxPositions of [14, 40, 2048]) {
    const cases = verifyCases(300, maxPositions);
    assert.deepEqual(cases, verifyCases(300, maxPositions));
    for (const { promptIds } of cases) {
      assert.ok(promptIds.length >= 1 && promptIds.length + ANSWER_TOKENS <= maxPositions);
      assert.ok(promptIds.every((id) => id < 300));
    }
    assert.equal(new Set(cases.map(({ sampling }) => sampling.greedy)).size, 2);
  }
});
