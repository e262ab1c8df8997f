import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { isQuantised } from '../../src/core/model-manifest.js';
import { Approximation } from '../helpers/approximation.js';
import { relativeError } from '../helpers/compare.js';
import { dequantised } from '../helpers/dequantised.js';
import { DirectEngine, type Outcome, shuffled } from '../helpers/direct-engine.js';
import { GPU, NO_GPU } from '../helpers/gpu.js';
import { comparableTokens } from '../helpers/oracle.js';
import {
  adapterRootsOf,
  casesOf,
  openSynthetic,
  prepareLocal,
  SYNTHETIC,
  SYNTHETIC_MODELS,
  type SyntheticCase,
  syntheticModel,
  titleOf,
} from '../helpers/synthetic.js';

/** The attention kernels' heads are this wide, or a multiple of it. */
const HEAD_STEP = 8;

/** Of logits with float16 activations, relative to their size: as of f16 against PEFT. */
const MOST_ERROR = 2e-2;

/** Of what random adapters' factors lose as bytes, and their logits in float16: above tests/synthetic/ for the latter. */
const INT8 = { mean: 0.06, agreement: 0.95 } as const;

for (const [name, { covers }] of SYNTHETIC_MODELS) {
  test(`${name} in f16 with factors as bytes is near float32 (${covers})`, { skip: NO_GPU }, async (context) => {
    const { manifest } = await prepareLocal(join(SYNTHETIC, syntheticModel(name).path), 'f16', 'cuda');
    if (manifest.config.headDim % HEAD_STEP !== 0) return;
    const cases = casesOf(name);
    const run = async (engine: DirectEngine): Promise<Outcome[]> => {
      const outcomes = await engine.run(
        cases.map(({ adapter, prompt_ids, expected_ids }) => engine.request(adapter, prompt_ids, expected_ids.length)),
        { logits: true },
      );
      await engine.close();
      return outcomes;
    };
    const wanted = await run(await openSynthetic(name));
    const found = await run(await openSynthetic(name, { precision: 'f16', adapterDtype: 'int8', cuda: GPU }));
    const off = new Approximation();
    for (const [i, oracle] of cases.entries())
      off.add(wanted[i] as Outcome, found[i] as Outcome, comparableTokens(oracle));
    context.diagnostic(off.toString());
    assert.ok(off.mean < INT8.mean && off.agreement >= INT8.agreement, off.toString());
  });
}

for (const precision of ['w8', 'w4'] as const) {
  for (const [name, { covers }] of SYNTHETIC_MODELS) {
    const title = `${name} in ${precision} is the CPU's float32 over the same rounded weights (${covers})`;
    test(title, { skip: NO_GPU }, async (t) => {
      const path = join(SYNTHETIC, syntheticModel(name).path);
      const model = await prepareLocal(path, precision, 'cuda');
      const isRounded = model.manifest.sites.some(({ modules }) =>
        modules.some(({ weight }) => isQuantised(weight.format)),
      );
      // Models of odd widths stay float16, which others test.
      if (model.manifest.config.headDim % HEAD_STEP !== 0 || !isRounded) return;
      const directory = await mkdtemp(join(tmpdir(), 'loramux-dequantised-'));
      t.after(() => rm(directory, { recursive: true }));
      const cases = casesOf(name);
      const requests = (engine: DirectEngine, of: readonly SyntheticCase[]) =>
        of.map(({ adapter, prompt_ids }) => engine.request(adapter, prompt_ids, 1));

      const float = await dequantised(await prepareLocal(path, 'f32'), model, directory);
      const cpu = await DirectEngine.open({ model: float, adapterRoots: adapterRootsOf(name), kvBlocks: 512 });
      const wanted = await cpu.run(requests(cpu, cases), { logits: true });
      await cpu.close();

      const gpu = await openSynthetic(name, { precision, cuda: GPU });
      const assertNear = (found: Outcome | undefined, oracle: SyntheticCase): void => {
        const expected = wanted[cases.indexOf(oracle)]?.logits[0] as Float32Array;
        const error = relativeError(found?.logits[0] as Float32Array, expected);
        assert.ok(error <= MOST_ERROR, `${titleOf(oracle)}: logits are off by ${error.toExponential(1)}`);
      };
      const [first] = cases as [SyntheticCase];
      assertNear((await gpu.run(requests(gpu, [first]), { logits: true }))[0], first);
      const mixed = shuffled(cases, 1);
      const together = await gpu.run(requests(gpu, mixed), { logits: true });
      for (const [at, oracle] of mixed.entries()) assertNear(together[at], oracle);
      await gpu.close();
    });
  }
}
