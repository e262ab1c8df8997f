import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Approximation } from '../helpers/approximation.js';
import { assertSameBits } from '../helpers/compare.js';
import { type Outcome, shuffled } from '../helpers/direct-engine.js';
import { comparableTokens } from '../helpers/oracle.js';
import { casesOf, openSynthetic, SYNTHETIC_MODELS, type SyntheticCase, titleOf } from '../helpers/synthetic.js';

/** Random weights decide closely: a trained model agrees more often (tests/model/int8-adapters.test.ts). */
const LEAST_AGREEMENT = 0.97;
const LARGEST_MEAN = 0.04;

for (const [name, { covers }] of SYNTHETIC_MODELS) {
  const cases = casesOf(name);

  test(`${name} with factors as bytes: near, and no row depends on its batch (${covers})`, async (context) => {
    const requestsOf = (engine: Awaited<ReturnType<typeof openSynthetic>>) =>
      cases.map(({ adapter, prompt_ids, expected_ids }) => engine.request(adapter, prompt_ids, expected_ids.length));

    const exact = await openSynthetic(name);
    const wanted = await exact.run(requestsOf(exact), { logits: true });
    await exact.close();

    const int8 = await openSynthetic(name, { adapterDtype: 'int8' });
    const order = shuffled(
      cases.map((_, i) => i),
      2,
    );
    const requests = requestsOf(int8);
    const mixed = await int8.run(
      order.map((i) => requests[i] as (typeof requests)[number]),
      { logits: true },
    );
    const off = new Approximation();
    for (const [at, i] of order.entries()) {
      const oracle = cases[i] as SyntheticCase;
      const found = mixed[at] as Outcome;
      off.add(wanted[i] as Outcome, found, comparableTokens(oracle));
      const [alone] = await int8.run([requestsOf(int8)[i] as (typeof requests)[number]], { logits: true });
      assertSameBits(found, alone as Outcome, titleOf(oracle));
    }
    await int8.close();
    context.diagnostic(off.toString());
    assert.ok(off.largest > 0, 'factors were rounded');
    assert.ok(off.mean < LARGEST_MEAN && off.agreement >= LEAST_AGREEMENT, off.toString());
  });
}
