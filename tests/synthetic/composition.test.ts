import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Composition, membersLabel } from '../../src/core/composition.js';
import { BASE_NAME } from '../../src/core/names.js';
import type { GenerateRequest } from '../../src/core/request.js';
import { assertSameBits, worstError } from '../helpers/compare.js';
import { type CombinationCase, FIXTURE } from '../helpers/composition.js';
import { type DirectEngine, type Outcome, shuffled } from '../helpers/direct-engine.js';
import { openSynthetic, oracleLogits, type SyntheticCase } from '../helpers/synthetic.js';

const ATOL = 1e-4;
const RTOL = 1e-4;
/** Steps whose two best logits are closer may fall either way: comparing stops there. */
const TIE = 1e-3;

function assertParity(oracle: SyntheticCase, outcome: Outcome): void {
  const error = worstError(outcome.logits[0] as Float32Array, oracleLogits(oracle), ATOL, RTOL);
  assert.ok(error <= 1, `${oracle.adapter}: logits are off by ${error.toFixed(2)} times the tolerance`);
  const tie = oracle.gaps.findIndex((gap) => gap < TIE);
  const count = tie === -1 ? oracle.expected_ids.length : tie;
  assert.ok(count >= 4, `${oracle.adapter}: too few tokens to compare`);
  assert.deepEqual(outcome.tokens.slice(0, count), oracle.expected_ids.slice(0, count), oracle.adapter);
}

function compositionOf({ members }: CombinationCase): Composition {
  return { kind: 'sum', members: members.map(({ id, weight }) => ({ name: id, weight })) };
}

function composed(
  engine: DirectEngine,
  prompt: readonly number[],
  steps: number,
  composition: Composition,
): GenerateRequest {
  return { ...engine.request(membersLabel(composition.members), prompt, steps), composition };
}

const SUMS = FIXTURE.combinations.filter(({ merge }) => merge === undefined);

test('weighted sums of adapters equal PEFT, alone, beside other lists and plain rows, and in chunks', async () => {
  const engine = await openSynthetic(FIXTURE.model);
  const requestsOn = (target: DirectEngine): GenerateRequest[] => [
    ...SUMS.map((oracle) => composed(target, oracle.prompt_ids, oracle.expected_ids.length, compositionOf(oracle))),
    ...[BASE_NAME, 'plain', 'dora', 'rslora'].map((adapter) =>
      target.request(adapter, SUMS[0]?.prompt_ids ?? [], SUMS[0]?.expected_ids.length ?? 0),
    ),
  ];
  const alone: Outcome[] = [];
  for (const request of requestsOn(engine)) alone.push(...(await engine.run([request], { logits: true })));
  assert.ok(SUMS.length >= 5);
  SUMS.forEach((oracle, at) => {
    assertParity(oracle, alone[at] as Outcome);
  });

  const order = shuffled(
    alone.map((_, at) => at),
    7,
  );
  const requests = requestsOn(engine);
  const mixed = await engine.run(
    order.map((at) => requests[at] as GenerateRequest),
    { logits: true },
  );
  order.forEach((at, place) => {
    assertSameBits(mixed[place] as Outcome, alone[at] as Outcome, `request ${at}, mixed`);
  });
  await engine.close();

  const narrow = await openSynthetic(FIXTURE.model, { maxBatchTokens: 5, maxSequences: 4, kvBlocks: 12 });
  const chunked = await narrow.run(requestsOn(narrow), { logits: true });
  chunked.forEach((outcome, at) => {
    assertSameBits(outcome, alone[at] as Outcome, `request ${at}, in chunks`);
  });
  await narrow.close();
});

test('the order of a list changes no bit', async () => {
  const engine = await openSynthetic(FIXTURE.model);
  const oracle = SUMS.find(({ members }) => members.length === 3) ?? assert.fail();
  const { members } = compositionOf(oracle);
  const run = async (list: typeof members) =>
    (await engine.run([composed(engine, oracle.prompt_ids, 8, { kind: 'sum', members: list })], { logits: true }))[0];
  const expected = (await run(members)) ?? assert.fail();
  assertSameBits((await run(members.toReversed())) ?? assert.fail(), expected, 'reversed');
  await engine.close();
});

test('DoRA adapters are refused in a list and at another strength', async () => {
  const engine = await openSynthetic(FIXTURE.model);
  for (const members of [
    [{ name: 'dora', weight: 0.5 }],
    [
      { name: 'plain', weight: 1 },
      { name: 'dora', weight: 1 },
    ],
  ]) {
    await assert.rejects(engine.run([composed(engine, [5, 6], 1, { kind: 'sum', members })]), {
      code: 'ERR_ADAPTER_INVALID',
      message: /dora is dora: use it alone, as adapter_id/,
    });
  }
  assert.equal(engine.registry.violations().length, 0);
  const { adapters } = await engine.registry.list();
  assert.ok(adapters.every(({ pins }) => pins.rows === 0));
  await engine.close();
});
