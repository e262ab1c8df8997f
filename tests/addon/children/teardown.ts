import { Worker } from 'node:worker_threads';
import { LONG, longBatch, openRaw, promptBatch } from '../../helpers/raw-engine.js';

/** Endings that no caller should choose and that the addon must bear. Prints `survived` and exits 0. */
const SCENARIOS: Readonly<Record<string, () => Promise<void>>> = {
  'terminate-in-step': async () => {
    for (let round = 0; round < 5; round += 1) await terminateWhen('stepping', round);
    await assertUsable();
  },
  'terminate-in-open': async () => {
    for (let round = 0; round < 5; round += 1) await terminateWhen('opening', round);
    await assertUsable();
  },
  'terminate-in-load': async () => {
    for (let round = 0; round < 5; round += 1) await terminateWhen('loading', round, 'load');
    await assertUsable();
  },
  'worker-exit': async () => {
    const worker = startWorker('leave');
    await new Promise<void>((resolve, reject) => {
      worker.on('exit', (code) => (code === 0 ? resolve() : reject(new Error(`the worker exited with ${code}`))));
      worker.on('error', reject);
    });
    await assertUsable();
  },
  'no-close': async () => {
    const { engine } = await openRaw(LONG);
    await engine.step(longBatch());
  },
  'exit-in-step': async () => {
    // In a worker, as the server has it: Node ends the workers first, and with them their steps.
    await reached(startWorker('step'), 'stepping');
    process.stdout.write('survived\n', () => process.exit(0));
    await new Promise(() => undefined);
  },
  collected: async () => {
    const collect = globalThis.gc;
    if (collect === undefined) throw new Error('start me with --expose-gc');
    const registry = new FinalizationRegistry<number>((id) => gone.add(id));
    const gone = new Set<number>();
    for (let id = 0; id < 4; id += 1) registry.register((await openRaw()).engine, id);
    for (let tries = 0; gone.size < 3 && tries < 100; tries += 1) {
      collect();
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    if (gone.size < 3) throw new Error(`${gone.size} of 4 engines were collected`);
    await assertUsable();
  },
};

type Task = 'step' | 'load' | 'leave';

function startWorker(task: Task): Worker {
  return new Worker(new URL('./stepping-worker.js', import.meta.url), { workerData: task });
}

/** Resolves once the worker says that it is where it should be. */
function reached(worker: Worker, state: string): Promise<void> {
  return new Promise((resolve, reject) => {
    worker.on('error', reject);
    worker.on('message', (message) => {
      if (message === state) resolve();
    });
  });
}

/** Terminates a worker a few milliseconds after it says where it is. */
async function terminateWhen(state: string, delayMs: number, task: Task = 'step'): Promise<void> {
  const worker = startWorker(task);
  await reached(worker, state);
  await new Promise((resolve) => setTimeout(resolve, delayMs));
  await worker.terminate();
}

/** What is left of the process still opens engines and steps. */
async function assertUsable(): Promise<void> {
  const { engine } = await openRaw();
  await engine.step(promptBatch([1, 2, 3]));
  await engine.close();
}

const scenario = SCENARIOS[process.argv[2] ?? ''];
if (scenario === undefined) throw new Error(`expected one of ${Object.keys(SCENARIOS).join(', ')}`);
await scenario();
process.stdout.write('survived\n');
