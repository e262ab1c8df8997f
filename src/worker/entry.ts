import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { LoramuxError, toLoramuxError } from '../core/errors.js';
import type { FromWorker, ToWorker, WorkerStart } from '../messages/worker-messages.js';
import { openEngine } from './open-engine.js';

/** The engine worker: opens the engine, then runs the loop until told to stop. */
async function main(port: MessagePort, start: WorkerStart): Promise<void> {
  const post = (message: FromWorker): void => port.postMessage(message);
  try {
    const loop = await openEngine(start, post);
    port.on('message', (message: ToWorker) => loop.handle(message));
  } catch (error) {
    post({ type: 'fatal', error: toLoramuxError(error).toRecord() });
  }
}

if (parentPort === null) throw new LoramuxError('ERR_NATIVE', 'expected to be started as a worker thread');
await main(parentPort, workerData as WorkerStart);
