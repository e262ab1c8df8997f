import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Approximation } from '../helpers/approximation.js';
import { assertSameBits } from '../helpers/compare.js';
import { type Outcome, shuffled } from '../helpers/direct-engine.js';
import { comparableTokens } from '../helpers/oracle.js';
import { casesOf, openSynthetic, SYNTHETIC_MODELS, type SyntheticCase, titleOf } from '../helpers/synthetic.js';

/** Random weights decide closely: a trained model agrees more often (tests/model/rounded-adapters.test.ts). */
const LIMITS = {
  int8: { agreement: 0.97, mean: 0.04 },
  int4: { agreement: 0.9, mean: 0.25 },
} as const;

const CASES = [...SYNTHETIC_MODELS].flatMap(([name, { covers }]) =>
  (['int8', 'int4'] as const).map((adapterDtype) => ({ name, covers, adapterDtype })),
);

for (const { name, covers, adapterDtype } of CASES) {
  const cases = casesOf(name);

  test(`${name}, factors in ${adapterDtype}: near, and no row depends on its batch (${covers})`, async (context) => {
    const requestsOf = (engine: Awaited<ReturnType<typeof openSynthetic>>) =>
      cases.map(({ adapter, prompt_ids, expected_ids }) => engine.request(adapter, prompt_ids, expected_ids.length));

    const exact = await openSynthetic(name);
    const wanted = await exact.run(requestsOf(exact), { logits: true });
    await exact.close();

    const rounded = await openSynthetic(name, { adapterDtype });
    const order = shuffled(
      cases.map((_, i) => i),
      2,
    );
    const requests = requestsOf(rounded);
    const mixed = await rounded.run(
      order.map((i) => requests[i] as (typeof requests)[number]),
      { logits: true },
    );
    const off = new Approximation();
    for (const [at, i] of order.entries()) {
      const oracle = cases[i] as SyntheticCase;
      const found = mixed[at] as Outcome;
      off.add(wanted[i] as Outcome, found, comparableTokens(oracle));
      const [alone] = await rounded.run([requestsOf(rounded)[i] as (typeof requests)[number]], { logits: true });
      assertSameBits(found, alone as Outcome, titleOf(oracle));
    }
    await rounded.close();
    context.diagnostic(off.toString());
    assert.ok(off.largest > 0, 'factors were rounded');
    const { mean, agreement } = LIMITS[adapterDtype];
    assert.ok(off.mean < mean && off.agreement >= agreement, off.toString());
  });
}
