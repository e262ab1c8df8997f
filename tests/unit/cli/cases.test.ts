import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ANSWER_TOKENS, verifyCases } from '../../../src/cli/verify/cases.js';
import { combinationsOf } from '../../../src/cli/verify/combinations.js';
import { Random } from '../../../src/cli/verify/random.js';
import type { Subject } from '../../../src/cli/verify/solo-runs.js';

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

test('calls of activated adapters stand in prompts of their own, where they fit', () => {
  const plain = verifyCases(300, 2048);
  const call = [7, 8, 9];
  const cases = verifyCases(300, 2048, [call, [1, 2], [3, 4]]);
  assert.equal(cases.length, plain.length + 4);
  assert.deepEqual(cases.slice(0, plain.length), plain);
  const holds = (ids: Uint32Array): boolean => ids.join().includes(call.join());
  assert.equal(cases.filter(({ promptIds }) => holds(promptIds)).length, 2);
  assert.equal(verifyCases(300, 2048, [Array.from({ length: 40 }, () => 5)]).length, plain.length + 1);
});

test('only plain adapters that fit together are combined, merges at one rank', () => {
  const subject = (name: string, more: Partial<Subject> = {}): Subject => ({
    ...{ name, digest: name, bytes: 10, directory: `/${name}`, variant: ['lora'], rank: 8 },
    ...more,
  });
  const subjects = [
    subject('__base__', { directory: '', bytes: 0 }),
    subject('a'),
    subject('dora', { variant: ['dora'] }),
    subject('b', { variant: ['rslora'], rank: 16 }),
    subject('large', { bytes: 100 }),
    subject('c'),
    subject('mixed', { rank: null }),
  ];
  const namesOf = (budget: number): string[] =>
    combinationsOf(subjects, budget).map(({ composition: { kind, members } }) =>
      [kind, ...members.map(({ name }) => name)].join(' '),
    );
  assert.deepEqual(namesOf(30), ['sum a', 'sum c', 'merge a c']);
  assert.deepEqual(namesOf(5), []);
});
