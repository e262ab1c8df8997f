import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { parseAdapterConfig } from '../../src/adapters/config.js';
import { planAdapter } from '../../src/adapters/plan.js';
import { loadBinding } from '../../src/engine/addon.js';
import { openSynthetic, SYNTHETIC, SYNTHETIC_MODELS } from '../helpers/synthetic.js';
import { VARIANT_ADAPTERS } from '../helpers/variants.js';

/** The one variant that no plan is made for. */
const REFUSED = 'modules-to-save-linear';
/** Fewer means that a test lost its adapters. */
const ADAPTERS = 255;
let compared = 0;

const CASES = [...SYNTHETIC_MODELS].flatMap(([model, { adapters }]) =>
  (['file', 'int8', 'int4'] as const).map((adapterDtype) => ({ model, adapters, adapterDtype })),
);

for (const { model, adapters, adapterDtype } of CASES) {
  test(`${model}, ${adapterDtype}: what a plan says an adapter takes is what it takes`, async () => {
    const binding = loadBinding();
    const { engine, model: prepared, ...direct } = await openSynthetic(model, { adapterDtype });
    const variants = VARIANT_ADAPTERS.filter((one) => one.model === model && one.variant !== REFUSED);
    const own = variants.map(({ name }) => join(dirname(adapters[0] as string), name));
    for (const path of [...adapters, ...own]) {
      const directory = join(SYNTHETIC, path);
      const weights = await binding.openAdapterFile(join(directory, 'adapter_model.safetensors'), 2 ** 30);
      const plan = await planAdapter({
        file: path,
        configFile: path,
        tensors: weights.tensors,
        config: parseAdapterConfig(await readFile(join(directory, 'adapter_config.json')), path),
        base: { ...prepared.manifest, adapterDtype },
        firstMatches: binding.firstMatches,
      });
      const compiled = await engine.compileAdapter(weights, JSON.stringify({ modules: plan.modules, ...plan.extras }));
      assert.equal(plan.bytes, compiled.bytes, path);
      engine.releaseAdapter(compiled.handle);
      compared += 1;
    }
    await direct.registry.close();
    await engine.close();
  });
}

test('every adapter of the fixtures was compared', () => {
  assert.ok(compared >= ADAPTERS, `compared ${compared}`);
});
