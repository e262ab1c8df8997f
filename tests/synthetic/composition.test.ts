import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Composition, membersLabel } from '../../src/core/composition.js';
import { BASE_NAME } from '../../src/core/names.js';
import type { GenerateRequest } from '../../src/core/request.js';
import { tryClaim } from '../../src/worker/claim.js';
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

function compositionOf({ members: list, merge }: CombinationCase): Composition {
  const members = list.map(({ id, weight }) => ({ name: id, weight }));
  if (merge === undefined) return { kind: 'sum', members };
  const { formula, strategy, density, majority_sign: majoritySign } = merge;
  return { kind: 'merge', members, method: { formula, strategy, density, majoritySign } };
}

function composed(
  engine: DirectEngine,
  prompt: readonly number[],
  steps: number,
  composition: Composition,
): GenerateRequest {
  return { ...engine.request(membersLabel(composition.members), prompt, steps), composition };
}

const MERGES = FIXTURE.combinations.filter(({ merge }) => merge !== undefined);
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

test('merges equal PEFT, or LoRAX’s formulas, also beside each other, and are made once', async () => {
  const engine = await openSynthetic(FIXTURE.model);
  const requestOf = (oracle: CombinationCase) =>
    composed(engine, oracle.prompt_ids, oracle.expected_ids.length, compositionOf(oracle));
  assert.ok(MERGES.length >= 16);
  const alone: Outcome[] = [];
  for (const oracle of MERGES) {
    const request = requestOf(oracle);
    const [outcome] = await engine.run([request], { logits: true });
    assert.ok(outcome !== undefined);
    assertParity(oracle, outcome);
    alone.push(outcome);
    const held = tryClaim(engine.registry, request);
    assert.equal(held?.servedBy.digest, oracle.digest, oracle.adapter);
    assert.equal(held?.servedBy.tierAtArrival, 'host', 'resident after its first use');
    held?.release();
  }
  const loads = (await engine.registry.list()).adapters.filter(({ name }) => name.startsWith('merge:'));
  assert.equal(loads.length, MERGES.length);
  const mixed = await engine.run(MERGES.map(requestOf), { logits: true });
  mixed.forEach((outcome, at) => {
    assertSameBits(outcome, alone[at] as Outcome, `${MERGES[at]?.adapter}, mixed`);
  });
  assert.deepEqual(engine.registry.violations(), []);
  await engine.close();
});

test('what cannot be merged is refused by name', async () => {
  const engine = await openSynthetic(FIXTURE.model);
  const method = { formula: 'peft', strategy: 'linear', density: 0, majoritySign: 'total' } as const;
  const merged = (...names: string[]) =>
    composed(engine, [5, 6], 1, { kind: 'merge', method, members: names.map((name) => ({ name, weight: 1 })) });
  await assert.rejects(engine.run([merged('plain', 'dora')]), {
    code: 'ERR_ADAPTER_INVALID',
    message: /expected plain or rsLoRA adapters in `merged_adapters`, but dora is dora/,
  });
  await assert.rejects(engine.run([merged('plain', 'all-linear')]), {
    code: 'ERR_ADAPTER_INVALID',
    message: /lora configs have different ranks: plain has 8–8, all-linear has 16–16/,
  });
  const whole: readonly (readonly [string, RegExp])[] = [
    ['modules-to-save-lm-head', /is modules_to_save: use it alone/],
    ['modules-to-save-norm', /is modules_to_save: use it alone/],
    ['trainable-tokens-list', /is trainable_tokens: use it alone/],
    ['lora-bias', /is lora_bias: use it alone/],
    ['embed', /but embed has one of the embedding/],
    ['block-diagonal', /but block-diagonal stores blocks/],
  ];
  for (const [name, message] of whole) {
    await assert.rejects(engine.run([merged(name, 'plain')]), { code: 'ERR_ADAPTER_INVALID', message }, name);
  }
  await assert.rejects(engine.run([merged('plain', 'nowhere')]), { code: 'ERR_ADAPTER_NOT_FOUND' });
  assert.deepEqual(engine.registry.violations(), []);
  await engine.close();
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
