import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LoramuxError } from '../../src/core/errors.js';
import { assertSameBits } from '../helpers/compare.js';
import { type DirectEngine, type Outcome, shuffled } from '../helpers/direct-engine.js';
import { assertEqualsOracle } from '../helpers/oracle.js';
import { casesOf, openSynthetic, type SyntheticCase, titleOf } from '../helpers/synthetic.js';
import { VARIANT_ADAPTERS, VARIANTS, type VariantAdapter } from '../helpers/variants.js';

/** What is served. A variant that is not listed must be refused by name, or be equal to PEFT: then it belongs here. */
const SERVED: ReadonlySet<string> = new Set([
  'lora-bias',
  'bias-lora-only',
  'bias-all',
  'lm-head',
  'embed',
  'lm-head-and-embed',
  'dora-lm-head',
  'dora-embed',
  'modules-to-save-lm-head',
  'modules-to-save-embed',
  'modules-to-save-both',
  'modules-to-save-norm',
  'trainable-tokens-list',
  'trainable-tokens-dict',
  'eva',
  'converted',
  'f64',
]);
/** What the fixtures hold: fewer means that a test lost its cases. */
const ADAPTERS = 50;
const CASES_OF_EACH = 3;
/** Of 32 tokens a case, those before PEFT's first near tie. */
const SHARE_COMPARED = 0.9;

interface Run {
  readonly oracle: SyntheticCase;
  readonly alone: Outcome;
}

/** The load's refusal, or null when the adapter is served. */
async function refusalOf(engine: DirectEngine, name: string): Promise<LoramuxError | null> {
  try {
    (await engine.registry.acquire(name)).release();
    return null;
  } catch (thrown) {
    if (thrown instanceof LoramuxError) return thrown;
    throw thrown;
  }
}

function assertNamed(refusal: LoramuxError, { model, name, keys }: VariantAdapter): void {
  assert.equal(refusal.code, 'ERR_ADAPTER_INVALID', `${model}, ${name}: ${refusal.message}`);
  const offenders = refusal.details?.offenders ?? [];
  const named = offenders.some(({ key, tensor, found }) =>
    keys.some((word) => [key, tensor, found].some((text) => text?.includes(word))),
  );
  assert.ok(named, `${model}, ${name}: expected ${keys.join(' or ')} among the offenders of: ${refusal.message}`);
}

async function runAlone(engine: DirectEngine, oracle: SyntheticCase): Promise<Outcome> {
  const request = engine.request(oracle.adapter, oracle.prompt_ids, oracle.expected_ids.length);
  const [outcome] = await engine.run([request], { logits: true });
  assert.ok(outcome !== undefined);
  return outcome;
}

let compared = 0;
let comparable = 0;
const found = new Map<string, Set<'served' | 'refused'>>(VARIANTS.map((variant) => [variant, new Set()]));

for (const model of new Set(VARIANT_ADAPTERS.map((adapter) => adapter.model))) {
  test(`${model}: variants equal PEFT alone, and mixed with each other, plain, DoRA and base rows`, async (t) => {
    const engine = await openSynthetic(model);
    // Before any variant was loaded: what the base and the plain adapters answer must stay the same to the bit.
    const runs: Run[] = [];
    for (const oracle of casesOf(model)) runs.push({ oracle, alone: await runAlone(engine, oracle) });

    for (const adapter of VARIANT_ADAPTERS.filter((one) => one.model === model)) {
      await t.test(adapter.name, async (t) => {
        const refusal = await refusalOf(engine, adapter.name);
        found.get(adapter.variant)?.add(refusal === null ? 'served' : 'refused');
        if (refusal !== null) {
          assertNamed(refusal, adapter);
          t.diagnostic(`refused: ${adapter.variant}`);
          return;
        }
        for (const oracle of adapter.cases) {
          const alone = await runAlone(engine, oracle);
          compared += assertEqualsOracle(alone, oracle);
          comparable += oracle.expected_ids.length;
          runs.push({ oracle, alone });
        }
      });
    }

    const shuffle = shuffled(runs, 3);
    const requests = shuffle.map(({ oracle }) =>
      engine.request(oracle.adapter, oracle.prompt_ids, oracle.expected_ids.length),
    );
    const mixed = await engine.run(requests, { logits: true });
    shuffle.forEach(({ oracle, alone }, at) => {
      assertSameBits(mixed[at] as Outcome, alone, `${titleOf(oracle)}, mixed`);
    });
    await engine.close();
  });
}

test('the fixtures are all there, and every variant is served or refused as a whole', (t) => {
  assert.equal(VARIANT_ADAPTERS.length, ADAPTERS);
  for (const { model, name, cases } of VARIANT_ADAPTERS) assert.equal(cases.length, CASES_OF_EACH, `${model}, ${name}`);
  for (const [variant, outcomes] of found) {
    assert.equal(outcomes.size, 1, `${variant}: ${[...outcomes].join(' and ')}`);
    if (SERVED.has(variant)) assert.ok(outcomes.has('served'), `${variant} is no longer served`);
    else if (outcomes.has('served')) t.diagnostic(`newly served: ${variant}; list it in SERVED`);
  }
  assert.ok(compared >= SHARE_COMPARED * comparable, `compared ${compared} of ${comparable} tokens`);
});
