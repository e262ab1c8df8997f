import assert from 'node:assert/strict';
import { test } from 'node:test';
import { assertSameBits } from '../helpers/compare.js';
import { type Outcome, shuffled } from '../helpers/direct-engine.js';
import { assertEqualsOracle } from '../helpers/oracle.js';
import {
  casesOf,
  openSynthetic,
  SYNTHETIC_CASES,
  SYNTHETIC_MODELS,
  type SyntheticCase,
  titleOf,
} from '../helpers/synthetic.js';

/** What the fixtures hold: fewer means that a test lost its cases. */
const CASES = 210;
const MUST_COMPARE = 6_638;

let ran = 0;
let compared = 0;

for (const [name, { covers }] of SYNTHETIC_MODELS) {
  const cases = casesOf(name);
  const order = cases.map((_, i) => i);

  test(`${name} generates what PEFT does, alone, mixed and in chunks (${covers})`, async () => {
    const engine = await openSynthetic(name);
    const requestFor = ({ adapter, prompt_ids, expected_ids }: SyntheticCase): ReturnType<typeof engine.request> =>
      engine.request(adapter, prompt_ids, expected_ids.length);

    const alone: Outcome[] = [];
    for (const oracle of cases) {
      const [outcome] = await engine.run([requestFor(oracle)], { logits: true });
      assert.ok(outcome !== undefined);
      compared += assertEqualsOracle(outcome, oracle);
      alone.push(outcome);
      ran += 1;
    }

    const shuffle = shuffled(order, 1);
    const mixed = await engine.run(
      shuffle.map((i) => requestFor(cases[i] as SyntheticCase)),
      { logits: true },
    );
    shuffle.forEach((i, at) => {
      assertSameBits(mixed[at] as Outcome, alone[i] as Outcome, `${titleOf(cases[i] as SyntheticCase)}, mixed`);
    });
    await engine.close();

    // 5 rows a step cut every longer prompt, at places that change with the batch; 12 blocks are too few for the four
    // sequences, some of which are preempted and computed again.
    const narrow = await openSynthetic(name, { maxBatchTokens: 5, maxSequences: 4, kvBlocks: 12 });
    const chunked = await narrow.run(cases.map(requestFor), { logits: true });
    chunked.forEach((outcome, i) => {
      assertSameBits(outcome, alone[i] as Outcome, `${titleOf(cases[i] as SyntheticCase)}, in chunks`);
    });
    await narrow.close();
  });
}

test('every case of the fixtures was run and nearly every token compared', () => {
  assert.equal(SYNTHETIC_CASES.length, CASES);
  assert.equal(ran, CASES);
  assert.ok(compared >= MUST_COMPARE, `compared ${compared} tokens, expected at least ${MUST_COMPARE}`);
});
