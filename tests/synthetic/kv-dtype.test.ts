import { test } from 'node:test';
import { assertRoundedNear } from '../helpers/rounded-engine.js';
import { SYNTHETIC_MODELS } from '../helpers/synthetic.js';

/** Random weights decide closely: a trained model agrees more often (docs/precision.md). */
const BOUNDS = { f16: { mean: 0.005, agreement: 0.99 }, bf16: { mean: 0.04, agreement: 0.97 } } as const;

for (const kvDtype of ['f16', 'bf16'] as const) {
  for (const [name, { covers }] of SYNTHETIC_MODELS) {
    test(`${name} with ${kvDtype} keys and values: near, and no row depends on its batch (${covers})`, (context) =>
      assertRoundedNear(context, name, { kvDtype }, BOUNDS[kvDtype]));
  }
}
