import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import { BASE_NAME } from '../../src/core/names.js';
import { type GenerateRequest, GREEDY_SAMPLING, type SamplingParams } from '../../src/core/request.js';
import { DirectEngine, type Outcome } from '../helpers/direct-engine.js';
import { prepareLocal, SYNTHETIC, SYNTHETIC_TOKENS, syntheticModel } from '../helpers/synthetic.js';
import { type Context, likeliest, probabilities, reported, sample } from '../reference/sampler.js';

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
  'min-p': { minP: 0.3 },
  'min-p of one': { minP: 1 },
  'typical-p': { typicalP: 0.5 },
  'a tiny typical-p': { typicalP: 0.01 },
  'presence and frequency of the output': { presencePenalty: 1.5, frequencyPenalty: 0.7 },
  'presence and frequency of the sequence': { presencePenalty: -1, frequencyPenalty: 20, penaltyScope: 'sequence' },
  bias: {
    logitBias: new Map([
      [3, 5],
      [7, -100],
      [40, 4.25],
    ]),
  },
  'everything at once': {
    temperature: 0.8,
    topK: 90,
    topP: 0.95,
    minP: 0.01,
    typicalP: 0.9,
    repetitionPenalty: 1.2,
    presencePenalty: 0.3,
    frequencyPenalty: 0.1,
    logitBias: new Map([[9, 1]]),
  },
  'a penalty below one': { repetitionPenalty: 0.8 },
  'the largest seed': { seed: 2n ** 64n - 1n },
};

let engine: DirectEngine;
before(async () => {
  const model = await prepareLocal(join(SYNTHETIC, syntheticModel('llama-gqa-tied').path), 'f32');
  engine = await DirectEngine.open({ model, adapterRoots: [] });
});
after(() => engine.close());

/** What the reference needs to know of the `t`-th token of a request. */
function contextOf(request: GenerateRequest, { tokens }: Outcome, t: number): Context {
  const banned = t < request.minNewTokens ? request.stopIds : [];
  return { prompt: [...request.promptIds], output: tokens.slice(0, t), choice: request.choice, banned };
}

/** Holds each token, its log-probability and its alternatives against the reference on the same logits. */
function checkOutcome(request: GenerateRequest, outcome: Outcome, what: string): void {
  const { sampling, logprobs } = request;
  for (const [t, token] of outcome.tokens.entries()) {
    const logits = (outcome.logits[t] as Float32Array).subarray(0, SYNTHETIC_TOKENS);
    const context = contextOf(request, outcome, t);
    assert.equal(token, sample(logits, sampling, context), `${what}: token ${t}`);
    if (logprobs === null) {
      assert.ok(Number.isNaN(outcome.logprobs[t]), `${what}: nothing is reported`);
      assert.equal(outcome.tops[t], null);
      continue;
    }
    const wanted = reported(logits, sampling, context, logprobs);
    const close = (found: number | undefined, id: number): void =>
      assert.ok(
        Math.abs((found as number) - (wanted[id] as number)) < 1e-4,
        `${what}: ${t}, ${id}: ${found}, ${wanted[id]}`,
      );
    close(outcome.logprobs[t], token);
    const top = outcome.tops[t] ?? null;
    if (logprobs.top === 0) assert.equal(top, null);
    else {
      const list = likeliest(wanted, logprobs.top);
      assert.deepEqual(
        [...(top?.ids ?? [])],
        list.map((other) => other.token),
        `${what}: alternatives of ${t}`,
      );
      for (const [rank, other] of list.entries()) close(top?.logprobs[rank], other.token);
    }
  }
}

test('every way of sampling chooses the tokens of the TypeScript reference, in one batch', async () => {
  const ways = Object.entries(WAYS);
  const requests = ways.map(([, way], i) => ({
    ...engine.request(BASE_NAME, [7, 30, 99, 30], TOKENS),
    sampling: { ...NEUTRAL, ...way },
    choice: i % 3,
    logprobs: i % 4 === 3 ? null : ({ of: i % 2 === 0 ? 'raw' : 'processed', top: i % 5 } as const),
  }));
  const outcomes = await engine.run(requests, { logits: true });
  for (const [i, [name]] of ways.entries()) {
    const outcome = outcomes[i] as Outcome;
    assert.equal(outcome.tokens.length, TOKENS);
    checkOutcome(requests[i] as GenerateRequest, outcome, name);
  }
});

const id = fc.nat(SYNTHETIC_TOKENS - 1);
/** Off half of the time, so that few knobs meet as often as many. */
const maybe = <T>(off: T, on: fc.Arbitrary<T>): fc.Arbitrary<T> => fc.oneof(fc.constant(off), on);
const share = (min: number): fc.Arbitrary<number> => fc.double({ min, max: 1, noNaN: true });
const signed = fc.double({ min: -2, max: 2, noNaN: true });
const anySampling: fc.Arbitrary<SamplingParams> = fc.record({
  greedy: fc.oneof({ weight: 4, arbitrary: fc.constant(false) }, fc.constant(true)),
  temperature: maybe(1, fc.double({ min: 0.05, max: 5, noNaN: true })),
  topK: maybe(0, fc.integer({ min: 1, max: SYNTHETIC_TOKENS + 5 })),
  topP: maybe(1, share(0.01)),
  minP: maybe(0, share(0)),
  typicalP: maybe(1, share(0.01)),
  repetitionPenalty: maybe(1, fc.double({ min: 0.5, max: 2, noNaN: true })),
  presencePenalty: maybe(0, signed),
  frequencyPenalty: maybe(0, signed),
  penaltyScope: fc.constantFrom('output', 'sequence'),
  logitBias: maybe(
    new Map(),
    fc
      .array(fc.tuple(id, fc.double({ min: -100, max: 100, noNaN: true })), { maxLength: 20 })
      .map((pairs) => new Map(pairs)),
  ),
  seed: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
});
const anyRequest = fc.record({
  prompt: fc.array(id, { minLength: 1, maxLength: 6 }),
  sampling: anySampling,
  choice: fc.nat(3),
  stopIds: fc.array(id, { maxLength: 3 }),
  minNewTokens: fc.nat(8),
  logprobs: fc.option(fc.record({ of: fc.constantFrom('raw', 'processed'), top: fc.nat(8) })),
});

test('any mix of any knobs chooses and reports what the reference does', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(anyRequest, { minLength: 1, maxLength: 8 }), async (drawn) => {
      const requests = drawn.map(({ prompt, ...rest }) => ({ ...engine.request(BASE_NAME, prompt, 8), ...rest }));
      const outcomes = await engine.run(requests, { logits: true });
      for (const [i, outcome] of outcomes.entries()) {
        checkOutcome(requests[i] as GenerateRequest, outcome, `request ${i}`);
      }
    }),
    { seed: 20_261_123, numRuns: 60 },
  );
});

test('draws come with the probabilities of the reference', async () => {
  const DRAWS = 2_000;
  const ways: readonly Partial<SamplingParams>[] = [
    {},
    { temperature: 3, topP: 0.8 },
    { temperature: 4, minP: 0.05, typicalP: 0.9 },
    { temperature: 8, topK: 12, logitBias: new Map([[5, 5]]), repetitionPenalty: 1.5 },
  ];
  for (const [at, way] of ways.entries()) {
    const sampling = { ...NEUTRAL, ...way, seed: BigInt(at) };
    const counts = new Map<number, number>();
    let expected: number[] = [];
    for (let first = 0; first < DRAWS; first += 50) {
      const requests = Array.from({ length: 50 }, (_, i) => ({
        ...engine.request(BASE_NAME, [7, 30, 99], 1),
        sampling,
        choice: first + i,
      }));
      const outcomes = await engine.run(requests, { logits: first === 0 });
      for (const { tokens } of outcomes) counts.set(tokens[0] as number, (counts.get(tokens[0] as number) ?? 0) + 1);
      const [one] = outcomes;
      if (first > 0 || one === undefined) continue;
      const logits = (one.logits[0] as Float32Array).subarray(0, SYNTHETIC_TOKENS);
      expected = probabilities(logits, sampling, contextOf(requests[0] as GenerateRequest, one, 0));
    }
    assertChiSquare(expected, counts, DRAWS, `way ${at}`);
  }
});

/** Pearson's statistic over what can be drawn; cells below five expected draws are put together. */
function assertChiSquare(
  expected: readonly number[],
  counts: ReadonlyMap<number, number>,
  draws: number,
  what: string,
): void {
  const cells: [count: number, mean: number][] = [];
  const rare: [count: number, mean: number] = [0, 0];
  for (const [token, p] of expected.entries()) {
    const count = counts.get(token) ?? 0;
    assert.ok(p > 0 || count === 0, `${what}: drew ${token}, which was filtered out`);
    if (p * draws >= 5) cells.push([count, p * draws]);
    else {
      rare[0] += count;
      rare[1] += p * draws;
    }
  }
  if (rare[1] > 1) cells.push(rare);
  const statistic = cells.reduce((sum, [count, mean]) => sum + (count - mean) ** 2 / mean, 0);
  const freedom = cells.length - 1;
  assert.ok(freedom > 3, `${what}: ${cells.length} cells`);
  // Five standard deviations: a fixed seed either always passes or the draws are off.
  assert.ok(statistic < freedom + 5 * Math.sqrt(2 * freedom), `${what}: ${statistic} at ${freedom} degrees of freedom`);
}

test('one seed draws one sequence for each choice, whatever else is in the batch', async () => {
  const request = (seed: bigint, choice = 0) => ({
    ...engine.request(BASE_NAME, [5, 6], TOKENS),
    sampling: { ...NEUTRAL, temperature: 1.5, seed },
    choice,
  });
  const [alone] = await engine.run([request(9n)]);
  const [first, other, second, choice] = await engine.run([request(9n), request(10n), request(9n), request(9n, 1)]);
  assert.deepEqual(first?.tokens, alone?.tokens);
  assert.deepEqual(second?.tokens, alone?.tokens);
  assert.notDeepEqual(other?.tokens, alone?.tokens);
  assert.notDeepEqual(choice?.tokens, alone?.tokens);
});
