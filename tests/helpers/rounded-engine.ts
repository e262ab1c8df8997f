import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { Approximation } from './approximation.js';
import { assertSameBits } from './compare.js';
import { type Outcome, shuffled } from './direct-engine.js';
import { comparableTokens } from './oracle.js';
import { casesOf, openSynthetic, type SyntheticCase, titleOf } from './synthetic.js';

export interface RoundingBounds {
  /** Of logits, |difference| in the mean. */
  readonly mean: number;
  /** Share of greedy tokens that stay. */
  readonly agreement: number;
}

/**
 * All cases of a synthetic model, mixed, on an engine that stores something in fewer bits: near the exact engine within
 * `bounds`, and each row the same bits as alone.
 */
export async function assertRoundedNear(
  context: TestContext,
  name: string,
  rounding: NonNullable<Parameters<typeof openSynthetic>[1]>,
  bounds: RoundingBounds,
): Promise<void> {
  const cases = casesOf(name);
  const requestsOf = (engine: Awaited<ReturnType<typeof openSynthetic>>) =>
    cases.map(({ adapter, prompt_ids, expected_ids }) => engine.request(adapter, prompt_ids, expected_ids.length));

  const exact = await openSynthetic(name);
  const wanted = await exact.run(requestsOf(exact), { logits: true });
  await exact.close();

  const rounded = await openSynthetic(name, rounding);
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
  assert.ok(off.largest > 0, 'something was rounded');
  assert.ok(off.mean < bounds.mean && off.agreement >= bounds.agreement, off.toString());
}
