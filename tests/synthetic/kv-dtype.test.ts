import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Approximation } from '../helpers/approximation.js';
import { assertSameBits } from '../helpers/compare.js';
import { type Outcome, shuffled } from '../helpers/direct-engine.js';
import { comparableTokens } from '../helpers/oracle.js';
import { casesOf, openSynthetic, SYNTHETIC_MODELS, type SyntheticCase, titleOf } from '../helpers/synthetic.js';

/** Random weights decide closely: a trained model agrees more often (docs/precision.md). */
const BOUNDS = { f16: { mean: 0.005, agreement: 0.99 }, bf16: { mean: 0.04, agreement: 0.97 } } as const;

for (const kvDtype of ['f16', 'bf16'] as const) {
  for (const [name, { covers }] of SYNTHETIC_MODELS) {
    const cases = casesOf(name);

    test(`${name} with ${kvDtype} keys and values: near, and no row depends on its batch (${covers})`, async (context) => {
      const requestsOf = (engine: Awaited<ReturnType<typeof openSynthetic>>) =>
        cases.map(({ adapter, prompt_ids, expected_ids }) => engine.request(adapter, prompt_ids, expected_ids.length));

      const exact = await openSynthetic(name);
      const wanted = await exact.run(requestsOf(exact), { logits: true });
      await exact.close();

      const narrow = await openSynthetic(name, { kvDtype });
      const order = shuffled(
        cases.map((_, i) => i),
        2,
      );
      const requests = requestsOf(narrow);
      const mixed = await narrow.run(
        order.map((i) => requests[i] as (typeof requests)[number]),
        { logits: true },
      );
      const off = new Approximation();
      for (const [at, i] of order.entries()) {
        const oracle = cases[i] as SyntheticCase;
        const found = mixed[at] as Outcome;
        off.add(wanted[i] as Outcome, found, comparableTokens(oracle));
        const [alone] = await narrow.run([requestsOf(narrow)[i] as (typeof requests)[number]], { logits: true });
        assertSameBits(found, alone as Outcome, titleOf(oracle));
      }
      await narrow.close();
      context.diagnostic(off.toString());
      assert.ok(off.largest > 0, 'keys and values were rounded');
      assert.ok(off.mean < BOUNDS[kvDtype].mean && off.agreement >= BOUNDS[kvDtype].agreement, off.toString());
    });
  }
}
