import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { BASE_NAME } from '../../src/core/names.js';
import { assertSameBits, worstError } from '../helpers/compare.js';
import { type ActivatedCase, COMPOSITION, FIXTURE } from '../helpers/composition.js';
import { DirectEngine, type Outcome, shuffled } from '../helpers/direct-engine.js';
import { oracleLogits, prepareLocal, SYNTHETIC } from '../helpers/synthetic.js';

const ATOL = 1e-4;
const RTOL = 1e-4;
const TIE = 1e-3;
const NAME = 'alora';
/** Of `q_proj` and the head of a tied base. */
const HEAD_NAME = 'alora-head';

async function open(sizes: Partial<Parameters<typeof DirectEngine.open>[0]> = {}): Promise<DirectEngine> {
  const model = await prepareLocal(join(SYNTHETIC, 'models', FIXTURE.model), 'f32');
  const adapterRoots = [COMPOSITION, SYNTHETIC].map((root) => join(root, 'adapters', FIXTURE.model));
  return DirectEngine.open({ model, adapterRoots, kvBlocks: 512, ...sizes });
}

test('activated LoRA equals PEFT: base before the last call of the prompt, adapter from there on', async () => {
  const engine = await open();
  const { activated } = FIXTURE;
  const requestsOn = (target: DirectEngine) => [
    ...activated.map(({ adapter, prompt_ids, expected_ids }) =>
      target.request(adapter, prompt_ids, expected_ids.length),
    ),
    ...[BASE_NAME, 'plain', 'rslora'].flatMap((adapter) =>
      activated.slice(0, 3).map(({ prompt_ids }) => target.request(adapter, prompt_ids, 8)),
    ),
  ];
  const alone: Outcome[] = [];
  for (const request of requestsOn(engine)) alone.push(...(await engine.run([request], { logits: true })));
  assert.deepEqual(
    activated.map(({ adapter, prompt }) => `${adapter} ${prompt}`),
    [NAME, HEAD_NAME].flatMap((name) =>
      ['none', 'once', 'twice', 'first', 'last', 'broken off'].map((prompt) => `${name} ${prompt}`),
    ),
  );
  activated.forEach((oracle, at) => {
    const outcome = alone[at] as Outcome;
    const error = worstError(outcome.logits[0] as Float32Array, oracleLogits(oracle), ATOL, RTOL);
    assert.ok(
      error <= 1,
      `${oracle.adapter} ${oracle.prompt}: logits are off by ${error.toFixed(2)} times the tolerance`,
    );
    const tie = oracle.gaps.findIndex((gap) => gap < TIE);
    const count = tie === -1 ? oracle.expected_ids.length : tie;
    assert.deepEqual(outcome.tokens.slice(0, count), oracle.expected_ids.slice(0, count), oracle.prompt);
  });

  const order = shuffled(
    alone.map((_, at) => at),
    3,
  );
  const requests = requestsOn(engine);
  const mixed = await engine.run(
    order.map((at) => requests[at] as (typeof requests)[number]),
    { logits: true },
  );
  order.forEach((at, place) => {
    assertSameBits(mixed[place] as Outcome, alone[at] as Outcome, `request ${at}, mixed`);
  });
  await engine.close();

  // Chunks end before, within and after the invocation; too few blocks for all, so that some begin again.
  const narrow = await open({ maxBatchTokens: 5, maxSequences: 4, kvBlocks: 12 });
  const chunked = await narrow.run(requestsOn(narrow), { logits: true });
  chunked.forEach((outcome, at) => {
    assertSameBits(outcome, alone[at] as Outcome, `request ${at}, in chunks`);
  });
  await narrow.close();
});

test('a prompt without the call is answered by the base, bit for bit; a call in the answer changes nothing', async () => {
  const engine = await open();
  const uncalled = FIXTURE.activated.filter(({ start }) => start === null);
  assert.ok(uncalled.length >= 4);
  for (const { adapter: name, prompt, prompt_ids, expected_ids } of uncalled) {
    const run = async (adapter: string) =>
      (await engine.run([engine.request(adapter, prompt_ids, expected_ids.length)], { logits: true }))[0] as Outcome;
    assertSameBits(await run(name), await run(BASE_NAME), `${name} ${prompt}`);
  }
  await engine.close();
});

test('an activated adapter is refused in lists and merges', async () => {
  const engine = await open();
  const oracle = FIXTURE.activated[1] as ActivatedCase;
  const request = engine.request(NAME, oracle.prompt_ids, 2);
  const members = [{ name: NAME, weight: 0.5 }];
  await assert.rejects(engine.run([{ ...request, composition: { kind: 'sum', members } }]), {
    code: 'ERR_ADAPTER_INVALID',
    message: /but alora is alora: use it alone/,
  });
  await engine.close();
});
