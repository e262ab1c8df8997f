import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { AdapterDtype } from '../../src/core/adapter.js';
import { Approximation } from '../helpers/approximation.js';
import { comparableTokens, demoModel, peftCases } from '../helpers/demo-model.js';
import { DirectEngine, type Outcome } from '../helpers/direct-engine.js';
import { DEMO_ADAPTERS } from '../helpers/paths.js';

const EOS = [2];

/** Where PEFT's choice is no near tie. */
const LIMITS = {
  int8: { agreement: 0.99, mean: 0.05 },
  int4: { agreement: 0.98, mean: 0.1 },
} as const;

test('the demo adapters in 8 and 4 bits: greedy tokens of their own dtype, nearly always', async (context) => {
  const model = await demoModel();
  const cases = peftCases();
  const run = async (adapterDtype: AdapterDtype): Promise<Outcome[]> => {
    const engine = await DirectEngine.open({ model, adapterRoots: [DEMO_ADAPTERS], adapterDtype });
    const requests = cases.map((one) => engine.request(one.adapter, one.prompt_ids, one.max_new_tokens, EOS));
    const outcomes = await engine.run(requests, { logits: true });
    await engine.close();
    return outcomes;
  };
  const exact = await run('file');
  for (const adapterDtype of ['int8', 'int4'] as const) {
    const found = await run(adapterDtype);
    const off = new Approximation();
    for (const [i, one] of cases.entries()) off.add(exact[i] as Outcome, found[i] as Outcome, comparableTokens(one));
    context.diagnostic(`${adapterDtype}: ${off}`);
    const { mean, agreement } = LIMITS[adapterDtype];
    assert.ok(off.mean < mean && off.agreement >= agreement, `${adapterDtype}: ${off}`);
  }
});
