import assert from 'node:assert/strict';
import { test } from 'node:test';
import { assertSameBits, relativeError } from '../helpers/compare.js';
import { type DirectEngine, type Outcome, shuffled } from '../helpers/direct-engine.js';
import {
  casesOf,
  openSynthetic,
  oracleLogits,
  SYNTHETIC_CASES,
  SYNTHETIC_MODELS,
  type SyntheticCase,
  titleOf,
} from '../helpers/synthetic.js';

const NEW_TOKENS = 6;
const CASES = 210;

/**
 * ‖logits − float32 logits‖ / ‖float32 logits‖ over the last prompt token: at most, and on average over a model. These
 * decoders are all noise: nothing averages the rounding of one layer out in the next, so errors are several times those
 * of trained models. Unrelated logits are about 1.4 apart.
 */
const BOUNDS = { w8: { most: 0.15, mean: 0.08 }, w4: { most: 0.9, mean: 0.55 } } as const;
/** Blocks that the file already holds in 4 bits are taken over as they are: only activations are rounded. */
const HELD_IN_4_BITS = ['llama-gqa-tied.Q4_0', 'llama-gqa-tied.Q4_1'];
/** Of the 15 models: the others have an input width that blocks of 32 do not divide, and stay float32. */
const QUANTISED_MODELS = 9;

for (const precision of ['w8', 'w4'] as const) {
  let ran = 0;
  let quantised = 0;

  for (const name of SYNTHETIC_MODELS.keys()) {
    test(`${name} in ${precision}: near float32, and a row is the same alone and mixed`, async () => {
      const cases = casesOf(name);
      const engine = await openSynthetic(name, { precision });
      const requestFor = ({ adapter, prompt_ids }: SyntheticCase): ReturnType<DirectEngine['request']> =>
        engine.request(adapter, prompt_ids, NEW_TOKENS);
      const sites = engine.model.manifest.sites.flatMap(({ modules }) => modules);
      if (sites.some(({ weight }) => weight.format === precision)) quantised += 1;
      const bounds = HELD_IN_4_BITS.includes(name) ? BOUNDS.w8 : BOUNDS[precision];
      const alone: Outcome[] = [];
      let sum = 0;
      for (const oracle of cases) {
        const [outcome] = await engine.run([requestFor(oracle)], { logits: true });
        assert.ok(outcome !== undefined);
        const error = relativeError(outcome.logits[0] as Float32Array, oracleLogits(oracle));
        assert.ok(error <= bounds.most, `${titleOf(oracle)}: logits are ${error.toFixed(3)} off`);
        sum += error;
        alone.push(outcome);
        ran += 1;
      }
      assert.ok(sum / cases.length <= bounds.mean, `logits are ${(sum / cases.length).toFixed(3)} off on average`);

      const shuffle = shuffled(cases, 2);
      const mixed = await engine.run(shuffle.map(requestFor), { logits: true });
      shuffle.forEach((oracle, at) => {
        const solo = alone[cases.indexOf(oracle)] as Outcome;
        assertSameBits(mixed[at] as Outcome, solo, `${titleOf(oracle)}, mixed`);
      });
      await engine.close();
    });
  }

  test(`${precision} ran every case of the fixtures`, () => {
    assert.equal(SYNTHETIC_CASES.length, CASES);
    assert.equal(ran, CASES);
    assert.equal(quantised, QUANTISED_MODELS);
  });
}
