import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Precision } from '../../src/core/model-manifest.js';
import { BASE_NAME } from '../../src/core/names.js';
import type { GenerateRequest } from '../../src/core/request.js';
import { assertSameBits } from '../helpers/compare.js';
import { COMPOSITION, FIXTURE } from '../helpers/composition.js';
import { DirectEngine, type Outcome } from '../helpers/direct-engine.js';
import { prepareLocal, SYNTHETIC, SYNTHETIC_TOKENS } from '../helpers/synthetic.js';

const SEED = 20_261_123;
const RUNS = 60;
const BLOCK = 16;
const ACTIVATED = 'alora';

const { alora_invocation_tokens: call } = JSON.parse(
  readFileSync(join(COMPOSITION, 'adapters', FIXTURE.model, ACTIVATED, 'adapter_config.json'), 'utf8'),
) as { readonly alora_invocation_tokens: readonly number[] };

interface Drawn {
  readonly adapter: string;
  /** Tokens of one of two beginnings. */
  readonly family: number;
  readonly shared: number;
  readonly own: readonly number[];
  readonly calls: boolean;
  readonly salt: string | null;
  readonly tokens: number;
  /** Step in which the client leaves. */
  readonly leaves: number | null;
}

const drawn: fc.Arbitrary<Drawn> = fc.record({
  adapter: fc.constantFrom(BASE_NAME, BASE_NAME, 'plain', 'rslora', ACTIVATED),
  family: fc.nat(1),
  shared: fc.integer({ min: 0, max: 4 * BLOCK }),
  own: fc.array(fc.nat(SYNTHETIC_TOKENS - 1), { minLength: 1, maxLength: 5 }),
  calls: fc.boolean(),
  salt: fc.constantFrom(null, null, null, 'other'),
  tokens: fc.integer({ min: 1, max: 20 }),
  leaves: fc.option(fc.nat(30), { freq: 6 }),
});

function beginning(family: number, length: number): number[] {
  return Array.from({ length }, (_, at) => (at * (family + 3) + 7) % SYNTHETIC_TOKENS);
}

function requestOf(
  engine: DirectEngine,
  { adapter, family, shared, own, calls, salt, tokens }: Drawn,
): GenerateRequest {
  const promptIds = [...beginning(family, shared), ...(calls ? call : []), ...own];
  return { ...engine.request(adapter, promptIds, tokens), cacheSalt: salt };
}

async function open(precision: Precision, sizes: Partial<Parameters<typeof DirectEngine.open>[0]>) {
  const model = await prepareLocal(join(SYNTHETIC, 'models', FIXTURE.model), precision);
  const adapterRoots = [COMPOSITION, SYNTHETIC].map((root) => join(root, 'adapters', FIXTURE.model));
  return DirectEngine.open({ model, adapterRoots, ...sizes });
}

for (const precision of ['f32', 'w8'] as const) {
  test(`${precision}: traffic that shares, evicts, preempts and leaves has the logits of requests alone, uncached`, async () => {
    const met = { cachedTokens: 0, preemptions: 0, aborts: 0, shared: 0 };
    const alone = await open(precision, { prefixCache: false });
    const modules = alone.model.manifest.sites.flatMap((site) => site.modules);
    assert.ok(modules.some(({ weight }) => weight.format.startsWith(precision)));
    // Seven blocks: the longest request takes six.
    const crowded = await open(precision, { prefixCache: true, kvBlocks: 7, maxSequences: 6, maxBatchTokens: 24 });
    await fc.assert(
      fc.asyncProperty(fc.array(drawn, { minLength: 2, maxLength: 10 }), async (all) => {
        const requests = all.map((one) => requestOf(crowded, one));
        const left = new Set<number>();
        const outcomes = await crowded.run(requests, {
          logits: true,
          during: (scheduler, plan, step) => {
            met.preemptions += plan.preempted.length;
            if (scheduler.snapshot().blockHolders.some((holders) => holders > 1)) met.shared += 1;
            for (const [at, { leaves }] of all.entries()) {
              if (leaves !== step || !scheduler.abort((requests[at] as GenerateRequest).id)) continue;
              left.add(at);
              met.aborts += 1;
            }
          },
        });
        for (const [at, outcome] of outcomes.entries()) {
          met.cachedTokens += outcome.cachedTokens;
          if (left.has(at)) continue;
          const [solo] = await alone.run([requestOf(alone, all[at] as Drawn)], { logits: true });
          assertSameBits(outcome, solo as Outcome, `request ${at}`);
        }
      }),
      { seed: SEED, numRuns: RUNS, includeErrorInReport: true },
    );
    for (const [what, times] of Object.entries(met)) assert.ok(times >= 10, `${what}: ${times}`);
    await alone.close();
    await crowded.close();
  });
}

test('an activated adapter begins with the K/V of a base request', async () => {
  const engine = await open('f32', { prefixCache: true, maxSequences: 1 });
  const promptIds = [...beginning(0, 2 * BLOCK + 3), ...call, 5];
  const requests = [BASE_NAME, ACTIVATED, ACTIVATED, 'plain'].map((adapter) => engine.request(adapter, promptIds, 4));
  const outcomes = await engine.run(requests, { logits: true });
  assert.deepEqual(
    outcomes.map(({ cachedTokens }) => cachedTokens),
    [0, 2 * BLOCK, 2 * BLOCK, 0],
  );
  const [solo] = await engine.run([engine.request(ACTIVATED, promptIds, 4)], { logits: true });
  for (const at of [1, 2]) assertSameBits(outcomes[at] as Outcome, solo as Outcome, `request ${at}`);
  await engine.close();
});
