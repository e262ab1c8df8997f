import { test } from 'node:test';
import { assertRoundedNear } from '../helpers/rounded-engine.js';
import { SYNTHETIC_MODELS } from '../helpers/synthetic.js';

/** Random weights decide closely: a trained model agrees more often (tests/model/rounded-adapters.test.ts). */
const BOUNDS = { int8: { mean: 0.04, agreement: 0.97 }, int4: { mean: 0.25, agreement: 0.9 } } as const;

for (const [name, { covers }] of SYNTHETIC_MODELS) {
  for (const adapterDtype of ['int8', 'int4'] as const) {
    test(`${name}, factors in ${adapterDtype}: near, and no row depends on its batch (${covers})`, (context) =>
      assertRoundedNear(context, name, { adapterDtype }, BOUNDS[adapterDtype]));
  }
}
