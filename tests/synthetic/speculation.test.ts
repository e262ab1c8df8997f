import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { BASE_NAME } from '../../src/core/names.js';
import { type GenerateRequest, GREEDY_SAMPLING } from '../../src/core/request.js';
import { acceptedDraftsOf, type StepPlan } from '../../src/scheduler/step-plan.js';
import { assertSameBits } from '../helpers/compare.js';
import { COMPOSITION, FIXTURE } from '../helpers/composition.js';
import { DirectEngine, type Outcome } from '../helpers/direct-engine.js';
import { prepareLocal, SYNTHETIC, SYNTHETIC_TOKENS } from '../helpers/synthetic.js';

const SEED = 20_261_124;
const RUNS = 40;
const END_ID = 2;

interface Drawn {
  readonly adapter: string;
  readonly prompt: readonly number[];
  readonly tokens: number;
  /** Least likely tokens left out; 0 = greedy. */
  readonly topK: number;
  readonly penalty: boolean;
  readonly stops: boolean;
  readonly minNew: number;
  /** Characters that the text repeats; null = it is free. */
  readonly pattern: string | null;
}

const drawn: fc.Arbitrary<Drawn> = fc.record({
  adapter: fc.constantFrom(BASE_NAME, BASE_NAME, 'plain', 'rslora', 'alora'),
  prompt: fc.array(fc.nat(SYNTHETIC_TOKENS - 1), { minLength: 1, maxLength: 20 }),
  tokens: fc.integer({ min: 1, max: 48 }),
  topK: fc.constantFrom(0, 0, 1, 2),
  penalty: fc.oneof({ weight: 3, arbitrary: fc.constant(false) }, fc.constant(true)),
  stops: fc.boolean(),
  minNew: fc.nat(8),
  pattern: fc.option(fc.constantFrom('(ab){2,30}', '(x y ){1,9}', '[0-9]{2}(, [0-9]{2}){3,6}'), { freq: 3 }),
});

function requestOf(engine: DirectEngine, one: Drawn): GenerateRequest {
  const { adapter, prompt, tokens, topK, penalty, stops, minNew, pattern } = one;
  const stopIds = stops || pattern !== null ? [END_ID] : [];
  return {
    ...engine.request(adapter, prompt, tokens, stopIds),
    minNewTokens: Math.min(minNew, tokens),
    logprobs: { of: 'processed', top: 2 },
    constraint: pattern === null ? null : { kind: 'regex', pattern },
    sampling: {
      ...GREEDY_SAMPLING,
      greedy: topK === 0,
      topK,
      seed: 42n,
      frequencyPenalty: penalty ? 0.1 : 0,
    },
  };
}

for (const precision of ['f32', 'w8', 'w4'] as const) {
  test(`${precision}: guessed or not, tokens, log-probabilities and logits are the same bits`, async () => {
    const model = await prepareLocal(join(SYNTHETIC, 'models', FIXTURE.model), precision);
    const adapterRoots = [COMPOSITION, SYNTHETIC].map((root) => join(root, 'adapters', FIXTURE.model));
    const plain = await DirectEngine.open({ model, adapterRoots });
    const sizes = { kvBlocks: 7, maxSequences: 5, maxBatchTokens: 64 };
    const guessing = await DirectEngine.open({ model, adapterRoots, speculation: true, prefixCache: true, ...sizes });
    const met = { right: 0, wrong: 0, constrained: 0, preemptions: 0 };
    await fc.assert(
      fc.asyncProperty(fc.array(drawn, { minLength: 1, maxLength: 7 }), async (all) => {
        let running: StepPlan | null = null;
        const outcomes = await guessing.run(
          all.map((one) => requestOf(guessing, one)),
          {
            logits: true,
            during: (_, plan) => {
              running = plan;
            },
            onStep: (_, { tokens }) => {
              if (running === null) return;
              const right = acceptedDraftsOf(running, tokens);
              met.right += right;
              met.wrong += running.draftRows - right;
              met.preemptions += running.preempted.length;
              const constrained = running.entries.filter(({ sequence }) => sequence.request.constraint !== null);
              if (constrained.some(({ drafts }) => drafts.length > 0)) met.constrained += 1;
            },
          },
        );
        for (const [at, outcome] of outcomes.entries()) {
          const [solo] = await plain.run([requestOf(plain, all[at] as Drawn)], { logits: true });
          assertSameBits(outcome, solo as Outcome, `request ${at}`);
          assert.deepEqual(outcome.logprobs, solo?.logprobs);
        }
      }),
      { seed: SEED, numRuns: RUNS, includeErrorInReport: true },
    );
    for (const [what, times] of Object.entries(met)) assert.ok(times >= 3, `${what}: ${times}`);
    await plain.close();
    await guessing.close();
  });
}
