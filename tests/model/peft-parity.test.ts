import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { comparableTokens, demoModel, type PeftCase, peftCases } from '../helpers/demo-model.js';
import { DirectEngine, type Outcome, shuffled } from '../helpers/direct-engine.js';
import { DEMO_ADAPTERS } from '../helpers/paths.js';

const EOS = [2];
/** Of 540 tokens; the rest follows a near tie of PEFT's two best logits. */
const MUST_COMPARE = 484;

let engine: DirectEngine;
const cases = peftCases();

before(async () => {
  engine = await DirectEngine.open({ model: await demoModel(), adapterRoots: [DEMO_ADAPTERS] });
});
after(() => engine.close());

function requestFor(peft: PeftCase): ReturnType<DirectEngine['request']> {
  return engine.request(peft.adapter, peft.prompt_ids, peft.max_new_tokens, EOS);
}

/** Asserts PEFT's greedy tokens; returns how many were compared. */
function assertTokens(peft: PeftCase, outcome: Outcome): number {
  const count = comparableTokens(peft);
  assert.deepEqual(
    outcome.tokens.slice(0, count),
    peft.expected_ids.slice(0, count),
    `${peft.adapter}: ${JSON.stringify(peft.prompt.slice(-60))}`,
  );
  return count;
}

test('prompts encode to the ids that PEFT was given', async () => {
  for (const peft of cases) {
    assert.deepEqual([...(await engine.tokenizer.encode(peft.prompt, false))], peft.prompt_ids);
  }
});

test('greedy tokens equal PEFT, each case alone and all cases mixed in shuffled orders, bit for bit the same logits', async () => {
  const alone: Outcome[] = [];
  let compared = 0;
  for (const peft of cases) {
    const [outcome] = await engine.run([requestFor(peft)], { logits: true });
    assert.ok(outcome !== undefined);
    compared += assertTokens(peft, outcome);
    alone.push(outcome);
  }
  assert.ok(compared >= MUST_COMPARE, `compared ${compared} tokens, expected at least ${MUST_COMPARE}`);

  const order = cases.map((_, i) => i);
  for (const seed of [1, 2, 3]) {
    const shuffle = shuffled(order, seed);
    const outcomes = await engine.run(
      shuffle.map((i) => requestFor(cases[i] as PeftCase)),
      { logits: true },
    );
    let together = 0;
    shuffle.forEach((i, at) => {
      const [solo, mixed] = [alone[i] as Outcome, outcomes[at] as Outcome];
      assertTokens(cases[i] as PeftCase, mixed);
      assert.deepEqual(mixed.tokens, solo.tokens);
      assert.equal(mixed.logits.length, solo.logits.length);
      mixed.logits.forEach((row, t) => {
        assert.ok(
          sameBits(row, solo.logits[t] as Float32Array),
          `case ${i}, token ${t}: logits differ alone and mixed`,
        );
      });
      together = Math.max(together, ...mixed.distinctAdaptersSeen);
    });
    assert.equal(together, 4, 'all four adapters shared a step');
  }
});

function sameBits(a: Float32Array, b: Float32Array): boolean {
  return Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(Buffer.from(b.buffer, b.byteOffset, b.byteLength));
}
