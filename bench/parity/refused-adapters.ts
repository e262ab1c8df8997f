import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { toLoramuxError } from '../../src/core/errors.js';
import { DirectEngine } from '../../tests/helpers/direct-engine.js';
import { prepareLocal, SYNTHETIC, syntheticModel } from '../../tests/helpers/synthetic.js';

const BAD = join(SYNTHETIC, 'bad');
const BASE = 'llama-gqa-tied';

/** Every broken adapter of the fixtures with the code that a request for it ends in; null when it was served. */
export async function runRefused(): Promise<ReadonlyMap<string, string | null>> {
  const model = await prepareLocal(join(SYNTHETIC, syntheticModel(BASE).path), 'f32');
  const codes = new Map<string, string | null>();
  for (const directory of readdirSync(BAD).filter((name) => name.startsWith('adapter-'))) {
    const engine = await DirectEngine.open({ model, adapterRoots: [join(BAD, directory)], threads: 1 });
    codes.set(directory, await refusalCode(engine, 'input'));
    await engine.close();
  }
  return codes;
}

/** The code that a request for the adapter ends in, or null when it is served. */
export async function refusalCode(engine: DirectEngine, adapter: string): Promise<string | null> {
  try {
    (await engine.registry.acquire(adapter)).release();
    return null;
  } catch (thrown) {
    return toLoramuxError(thrown).code;
  }
}
