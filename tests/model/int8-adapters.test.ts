import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Approximation } from '../helpers/approximation.js';
import { comparableTokens, demoModel, peftCases } from '../helpers/demo-model.js';
import { DirectEngine, type Outcome } from '../helpers/direct-engine.js';
import { DEMO_ADAPTERS } from '../helpers/paths.js';

const EOS = [2];

test('the demo adapters as bytes: greedy tokens agree wherever PEFT’s choice is no near tie', async (context) => {
  const model = await demoModel();
  const cases = peftCases();
  const run = async (adapterDtype: 'file' | 'int8'): Promise<Outcome[]> => {
    const engine = await DirectEngine.open({ model, adapterRoots: [DEMO_ADAPTERS], adapterDtype });
    const requests = cases.map((one) => engine.request(one.adapter, one.prompt_ids, one.max_new_tokens, EOS));
    const outcomes = await engine.run(requests, { logits: true });
    await engine.close();
    return outcomes;
  };
  const [exact, int8] = [await run('file'), await run('int8')];
  const off = new Approximation();
  for (const [i, one] of cases.entries()) off.add(exact[i] as Outcome, int8[i] as Outcome, comparableTokens(one));
  context.diagnostic(off.toString());
  assert.ok(off.agreement >= 0.99 && off.mean < 0.05, off.toString());
});
