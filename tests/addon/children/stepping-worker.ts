import { parentPort, workerData } from 'node:worker_threads';
import { compileRaw, LONG, longBatch, openRaw, RAW_ADAPTER } from '../../helpers/raw-engine.js';

/** Opens an engine of its own; then steps or loads until terminated, or leaves with a step in flight. */
parentPort?.postMessage('opening');
const raw = await openRaw(LONG);
const { binding, engine } = raw;
if (workerData === 'leave') {
  void engine.step(longBatch());
  process.exit(0);
}
if (workerData === 'load') {
  // More than the loader gets through before the end comes: some jobs wait.
  for (let rounds = 0; ; rounds += 1) {
    const files = Array.from({ length: 200 }, () => binding.openAdapterFile(RAW_ADAPTER, 2 ** 20));
    const adapters = Array.from({ length: 20 }, () => compileRaw(raw));
    if (rounds === 0) parentPort?.postMessage('loading');
    for (const file of await Promise.all(files)) file.close();
    for (const { handle } of await Promise.all(adapters)) engine.releaseAdapter(handle);
  }
}
for (let steps = 0; ; steps += 1) {
  await engine.step(longBatch());
  if (steps === 0) parentPort?.postMessage('stepping');
}
