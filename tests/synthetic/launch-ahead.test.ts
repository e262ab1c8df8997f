import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { BASE_NAME } from '../../src/core/names.js';
import { type GenerateRequest, GREEDY_SAMPLING } from '../../src/core/request.js';
import { assertSameBits } from '../helpers/compare.js';
import { COMPOSITION, FIXTURE } from '../helpers/composition.js';
import { DirectEngine, type Outcome } from '../helpers/direct-engine.js';
import { prepareLocal, SYNTHETIC, SYNTHETIC_TOKENS } from '../helpers/synthetic.js';

const SEED = 20_261_125;
const RUNS = 60;

interface Drawn {
  readonly adapter: string;
  /** Prompts of one family begin alike. */
  readonly family: number;
  readonly prompt: number;
  readonly tokens: number;
  /** Likeliest tokens to draw from; 0 = greedy. */
  readonly topK: number;
  readonly penalty: boolean;
  readonly constrained: boolean;
  /** So many that some come up. */
  readonly stopIds: readonly number[];
  readonly minNew: number;
  readonly scored: boolean;
  /** Step in which the client leaves. */
  readonly leaves: number | null;
}

const rarely = fc.oneof({ weight: 12, arbitrary: fc.constant(false) }, fc.constant(true));
const drawn: fc.Arbitrary<Drawn> = fc.record({
  adapter: fc.constantFrom(BASE_NAME, BASE_NAME, 'plain', 'rslora', 'alora'),
  family: fc.nat(1),
  prompt: fc.integer({ min: 1, max: 50 }),
  tokens: fc.integer({ min: 1, max: 30 }),
  topK: fc.constantFrom(0, 2, 20),
  penalty: rarely,
  constrained: rarely,
  stopIds: fc.uniqueArray(fc.nat(SYNTHETIC_TOKENS - 1), { maxLength: 8 }),
  minNew: fc.nat(4),
  scored: fc.boolean(),
  leaves: fc.option(fc.nat(30), { freq: 6 }),
});

function requestOf(engine: DirectEngine, one: Drawn): GenerateRequest {
  const promptIds = Array.from({ length: one.prompt }, (_, at) => (at * (one.family + 3) + 7) % SYNTHETIC_TOKENS);
  return {
    ...engine.request(one.adapter, promptIds, one.tokens, one.stopIds),
    minNewTokens: Math.min(one.minNew, one.tokens),
    logprobs: { of: 'raw', top: 2 },
    promptLogprobs: one.scored ? { top: 1 } : null,
    constraint: one.constrained ? { kind: 'regex', pattern: '(ab){2,30}' } : null,
    sampling: {
      ...GREEDY_SAMPLING,
      greedy: one.topK === 0,
      topK: one.topK,
      seed: 7n,
      frequencyPenalty: one.penalty ? 0.1 : 0,
    },
  };
}

for (const speculation of [false, true]) {
  const how = speculation ? ', beside guesses' : '';
  test(`steps launched ahead${how}: tokens, log-probabilities and logits are the same bits`, async () => {
    const model = await prepareLocal(join(SYNTHETIC, 'models', FIXTURE.model), 'f32');
    const adapterRoots = [COMPOSITION, SYNTHETIC].map((root) => join(root, 'adapters', FIXTURE.model));
    const plain = await DirectEngine.open({ model, adapterRoots });
    const sizes = { kvBlocks: 7, maxSequences: 5, maxBatchTokens: 24, prefixCache: true };
    const ahead = await DirectEngine.open({ model, adapterRoots, ahead: true, speculation, ...sizes });
    const met = { cachedTokens: 0, aborts: 0, stopped: 0 };
    await fc.assert(
      fc.asyncProperty(fc.array(drawn, { minLength: 1, maxLength: 7 }), async (all) => {
        const requests = all.map((one) => requestOf(ahead, one));
        const left = new Set<number>();
        const outcomes = await ahead.run(requests, {
          logits: true,
          during: (scheduler, _, step) => {
            for (const [at, { leaves }] of all.entries()) {
              if (leaves === step && scheduler.abort((requests[at] as GenerateRequest).id)) left.add(at);
            }
          },
        });
        met.aborts += left.size;
        for (const [at, outcome] of outcomes.entries()) {
          if (left.has(at)) continue;
          met.cachedTokens += outcome.cachedTokens;
          if (outcome.tokens.length < (all[at] as Drawn).tokens) met.stopped += 1;
          const [solo] = await plain.run([requestOf(plain, all[at] as Drawn)], { logits: true });
          assertSameBits(outcome, solo as Outcome, `request ${at}`);
          assert.deepEqual(
            [outcome.logprobs, outcome.tops, outcome.prompt],
            [solo?.logprobs, solo?.tops, solo?.prompt],
          );
        }
      }),
      { seed: SEED, numRuns: RUNS, includeErrorInReport: true },
    );
    const counts = { ...met, ahead: ahead.ahead, preemptions: ahead.preemptions };
    for (const [what, times] of Object.entries(counts)) assert.ok(times >= 10, `${what}: ${times}`);
    await plain.close();
    await ahead.close();
  });
}
