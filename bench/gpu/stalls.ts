import { setTimeout as sleep } from 'node:timers/promises';
import type { PreparedModel } from '../../src/core/model-manifest.js';
import { WorkerEngineClient } from '../../src/engine/worker-client.js';
import type { CudaStart } from '../../src/messages/worker-messages.js';
import { ColdLoads, type Loaded } from '../loads/cold-loads.js';
import { measureWindow, type Window } from '../loads/window.js';
import type { Recorder } from './records.js';

export interface StallOptions {
  readonly tokens: number;
  readonly rounds: number;
  readonly threads: number;
  readonly cuda: CudaStart | undefined;
  /** Folder with `rank16-0` to `rank16-15`, at least. */
  readonly adapterRoot: string;
  readonly tokenCount: number;
}

const PER_SECOND = 10;
const SETTLE_MS = 100;

function p99({ gapsMs }: Window): number {
  const sorted = [...gapsMs].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(0.99 * sorted.length))] ?? Number.NaN;
}

/** What ten cold loads a second do to the time between tokens of requests that wait for none of them. */
export async function measureStalls(model: PreparedModel, recorder: Recorder, options: StallOptions): Promise<void> {
  const { tokens, rounds, threads, cuda, adapterRoot, tokenCount } = options;
  const engine = await WorkerEngineClient.start({
    start: {
      model,
      tokenCount,
      adapterRoots: [adapterRoot],
      ...(cuda === undefined ? {} : { cuda }),
      threads,
      adapterMemoryBytes: 4 * 2 ** 30,
      kvMemoryBytes: 4 * 2 ** 30,
      maxModelLen: 2048,
      maxBatchTokens: 2048,
      maxPrefillRows: 512,
      maxSequences: 64,
      maxQueue: 64,
      prefixCache: false,
      speculation: false,
      launchAhead: true,
    },
    log: (_level, event, text) => console.error(event, text),
  });
  const cold = new ColdLoads(engine, adapterRoot);
  const window = async (loaded: Loaded | null): Promise<Window> => {
    let ended = false;
    let loads: Promise<void> | null = null;
    const open = (): void => {
      if (loaded !== null) loads = cold.steadily(16, PER_SECOND, () => ended, loaded);
    };
    const found = await measureWindow(engine, tokens, open, () => {
      ended = true;
    });
    await loads;
    await sleep(SETTLE_MS);
    return found;
  };
  const ratios: number[] = [];
  const loads: number[] = [];
  await window(null);
  for (let round = 0; round < rounds; round += 1) {
    const loaded: Loaded = { count: 0, bytes: 0, latenciesMs: [] };
    const early = round % 2 === 0 ? await window(null) : null;
    const during = await window(loaded);
    ratios.push(p99(during) / p99(early ?? (await window(null))));
    loads.push(loaded.count / during.seconds);
  }
  await engine.close();
  recorder.measure('cold loads done', '1/s', loads);
  recorder.measure('p99 between tokens, beside cold loads against without', 'ratio', ratios, { atMost: 1.05 });
}
