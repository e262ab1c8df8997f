import type { PreparedModel } from '../../src/core/model-manifest.js';
import { BASE_NAME } from '../../src/core/names.js';
import { DirectEngine } from '../../tests/helpers/direct-engine.js';

/** Sequences that decode together; `prefill` reads one prompt of PROMPT rows in a single step. */
export const SPEEDS = ['decode 1', 'decode 4', 'decode 16', 'prefill'] as const;
export type Speed = (typeof SPEEDS)[number];

const PROMPT = 512;
/** Of one token a sequence each; the first reads prompts of one token and is a step like the others. */
const STEPS = 16;

/** Base-only speed of one precision, tokens per second; samples of all rounds gather in `samples`. */
export class SpeedProbe {
  readonly samples = new Map<Speed, number[]>(SPEEDS.map((speed) => [speed, []]));

  private constructor(private readonly engine: DirectEngine) {}

  static async open(model: PreparedModel, threads: number): Promise<SpeedProbe> {
    return new SpeedProbe(await DirectEngine.open({ model, adapterRoots: [], threads, maxBatchTokens: PROMPT }));
  }

  /** One round; rounds of several probes take turns, so that none meets another machine than the others. */
  async round(): Promise<void> {
    for (const batch of [1, 4, 16] as const) {
      const requests = Array.from({ length: batch }, (_, row) =>
        this.engine.request(BASE_NAME, [100 + row * 37], STEPS),
      );
      await this.time(`decode ${batch}`, batch * STEPS, requests);
    }
    const prompt = Array.from({ length: PROMPT }, (_, at) => 100 + ((at * 97) % 4000));
    await this.time('prefill', PROMPT, [this.engine.request(BASE_NAME, prompt, 1)]);
  }

  async close(): Promise<void> {
    await this.engine.close();
  }

  private async time(speed: Speed, rows: number, requests: Parameters<DirectEngine['run']>[0]): Promise<void> {
    const started = performance.now();
    await this.engine.run(requests);
    this.samples.get(speed)?.push((rows * 1000) / (performance.now() - started));
  }
}
