import assert from 'node:assert/strict';
import { toLoramuxError } from '../../../src/core/errors.js';
import { loadBinding } from '../../../src/engine/addon.js';
import { worstError } from '../../helpers/compare.js';
import { casesOf, openSynthetic, oracleLogits, titleOf } from '../../helpers/synthetic.js';

/** Models whose widths leave tails in every kernel: heads of 24 and 12, DoRA, sliding windows, rank 256. */
const MODELS = ['llama-rope3-head24', 'mistral-window', 'llama-deep', 'llama-gqa-tied.Q4_1'];
const NEW_TOKENS = 16;
const TIE = 1e-3;

/** Runs the cases of a few models with the kernels that LORAMUX_ISA names, mixed in one batch each. */
async function main(): Promise<void> {
  const isa = loadBinding().instructionSet();
  let ran = 0;
  for (const name of MODELS) {
    const cases = casesOf(name);
    const engine = await openSynthetic(name);
    const requests = cases.map(({ adapter, prompt_ids }) => engine.request(adapter, prompt_ids, NEW_TOKENS));
    const outcomes = await engine.run(requests, { logits: true });
    for (const [i, oracle] of cases.entries()) {
      const tie = oracle.gaps.slice(0, NEW_TOKENS).findIndex((gap) => gap < TIE);
      const count = tie === -1 ? NEW_TOKENS : tie;
      assert.deepEqual(outcomes[i]?.tokens.slice(0, count), oracle.expected_ids.slice(0, count), titleOf(oracle));
      const logits = outcomes[i]?.logits[0];
      assert.ok(logits !== undefined);
      assert.ok(worstError(logits, oracleLogits(oracle), 1e-4, 1e-4) <= 1, titleOf(oracle));
      ran += 1;
    }
    await engine.close();
  }
  console.log(`${isa}: ${ran} cases`);
}

try {
  await main();
} catch (thrown) {
  const { code, message } = toLoramuxError(thrown);
  console.error(`${code}: ${message}`);
  process.exitCode = 1;
}
