import { parentPort, workerData } from 'node:worker_threads';
import { LONG, longBatch, openRaw } from '../../helpers/raw-engine.js';

/** Opens an engine of its own; then steps until terminated, or leaves with a step in flight. */
parentPort?.postMessage('opening');
const { engine } = await openRaw(LONG);
if (workerData === 'leave') {
  void engine.step(longBatch());
  process.exit(0);
}
for (let steps = 0; ; steps += 1) {
  await engine.step(longBatch());
  if (steps === 0) parentPort?.postMessage('stepping');
}
