import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { BASE_NAME } from '../../src/core/names.js';
import { GREEDY_SAMPLING, type SamplingParams } from '../../src/core/request.js';
import { DirectEngine } from '../helpers/direct-engine.js';
import { prepareLocal, SYNTHETIC, SYNTHETIC_TOKENS, syntheticModel } from '../helpers/synthetic.js';
import { sample } from '../reference/sampler.js';

const TOKENS = 40;
const NEUTRAL: SamplingParams = { ...GREEDY_SAMPLING, greedy: false, seed: 1n };
const WAYS: Readonly<Record<string, Partial<SamplingParams>>> = {
  greedy: { greedy: true },
  'greedy with a penalty': { greedy: true, repetitionPenalty: 1.3 },
  'plain sampling': {},
  cold: { temperature: 0.3 },
  hot: { temperature: 2.5 },
  'top-k': { topK: 5 },
  'top-k of one': { topK: 1 },
  'top-p': { topP: 0.7 },
  'a tiny top-p': { topP: 0.01 },
  'everything at once': { temperature: 0.8, topK: 20, topP: 0.9, repetitionPenalty: 1.2 },
  'a penalty below one': { repetitionPenalty: 0.8 },
  'the largest seed': { seed: 2n ** 64n - 1n },
};

let engine: DirectEngine;
before(async () => {
  const model = await prepareLocal(join(SYNTHETIC, syntheticModel('llama-gqa-tied').path), 'f32');
  engine = await DirectEngine.open({ model, adapterRoots: [] });
});
after(() => engine.close());

test('every way of sampling chooses the tokens of the TypeScript reference, in one batch', async () => {
  const ways = Object.entries(WAYS);
  const prompt = [7, 30, 99, 30];
  const requests = ways.map(([, way]) => ({
    ...engine.request(BASE_NAME, prompt, TOKENS),
    sampling: { ...NEUTRAL, ...way },
  }));
  const outcomes = await engine.run(requests, { logits: true });
  ways.forEach(([name], i) => {
    const { tokens, logits } = outcomes[i] as (typeof outcomes)[number];
    assert.equal(tokens.length, TOKENS);
    const expected = logits.map((row, t) => {
      const history = [...prompt, ...tokens.slice(0, t)];
      const usable = row.subarray(0, SYNTHETIC_TOKENS);
      return sample(usable, history, (requests[i] as (typeof requests)[number]).sampling, prompt.length + t);
    });
    assert.deepEqual(tokens, expected, name);
  });
});

test('one seed draws one sequence, whatever else is in the batch', async () => {
  const request = (seed: bigint) => ({
    ...engine.request(BASE_NAME, [5, 6], TOKENS),
    sampling: { ...NEUTRAL, temperature: 1.5, seed },
  });
  const [alone] = await engine.run([request(9n)]);
  const [first, other, second] = await engine.run([request(9n), request(10n), request(9n)]);
  assert.deepEqual(first?.tokens, alone?.tokens);
  assert.deepEqual(second?.tokens, alone?.tokens);
  assert.notDeepEqual(other?.tokens, alone?.tokens);
});
