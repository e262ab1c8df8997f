import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { WorkerEngineClient } from '../../src/engine/worker-client.js';

/** Adapters of one rank that lie in the folder. */
export const POOL = 16;

/** What came of some loads. */
export interface Loaded {
  count: number;
  bytes: number;
  /** Milliseconds from asking to served. */
  readonly latenciesMs: number[];
}

/** Loads adapters that nothing is left of but the page cache's copy of their files. */
export class ColdLoads {
  #number = 0;

  constructor(
    readonly engine: WorkerEngineClient,
    readonly root: string,
  ) {}

  /** One load and its unload, under a name of its own: an earlier one may still be leaving. */
  async one(rank: number, onLoaded: (bytes: number, latencyMs: number) => void): Promise<void> {
    const number = this.#number++;
    const name = `load-${number}`;
    const source = { type: 'dir', location: join(this.root, `rank${rank}-${number % POOL}`) } as const;
    const startedMs = performance.now();
    const call = { op: 'load', name, source, pin: false, wait: true, replace: true } as const;
    const { adapter } = await this.engine.admin<'load'>(call);
    onLoaded(adapter.bytes, performance.now() - startedMs);
    await this.engine.admin<'unload'>({ op: 'unload', name, force: true });
  }

  /** Asks for loads at a steady rate until `ended`, however long they take; returns when all are over. */
  async steadily(rank: number, perSecond: number, ended: () => boolean, loaded: Loaded): Promise<void> {
    const startedMs = performance.now();
    const loads: Promise<void>[] = [];
    for (let n = 0; ; n += 1) {
      await sleep(Math.max(0, startedMs + (n * 1_000) / perSecond - performance.now()));
      if (ended()) break;
      const load = this.one(rank, (bytes, latencyMs) => {
        if (ended()) return;
        loaded.count += 1;
        loaded.bytes += bytes;
        loaded.latenciesMs.push(latencyMs);
      });
      loads.push(load);
    }
    await Promise.all(loads);
  }
}
