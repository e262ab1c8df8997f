import type { KvDtype, PreparedModel } from '../../src/core/model-manifest.js';
import { BASE_NAME } from '../../src/core/names.js';
import { DirectEngine } from '../../tests/helpers/direct-engine.js';

/** Sequences that decode together, and tokens that each has behind it. */
export const LONG = { batch: 16, context: 2000 } as const;

/** Tokens of each sequence in a round: the first go on while the prompts of the last are read, then all decode together. */
const STEPS = 96;
const BLOCK_TOKENS = 16;

/**
 * Base-only decode behind long prompts, tokens per second; samples of all rounds gather in `samples`. Every round reads the
 * prompts anew, untimed: a direct engine keeps no prefixes from one run to the next.
 */
export class LongDecodeProbe {
  readonly samples: number[] = [];

  private constructor(private readonly engine: DirectEngine) {}

  static async open(model: PreparedModel, threads: number, kvDtype: KvDtype): Promise<LongDecodeProbe> {
    const longest = LONG.context + STEPS + BLOCK_TOKENS;
    const engine = await DirectEngine.open({
      model,
      adapterRoots: [],
      threads,
      kvDtype,
      maxModelLen: longest,
      maxBatchTokens: 512,
      kvBlocks: LONG.batch * Math.ceil(longest / BLOCK_TOKENS),
    });
    return new LongDecodeProbe(engine);
  }

  async round(): Promise<void> {
    /** Ends of the steps in which every sequence decodes, and of the step before them. */
    const ends: number[] = [];
    await this.engine.run(this.requests(), {
      onStep: (batch) => {
        if (batch.tokens.length > LONG.batch) ends.length = 0;
        if (batch.tokens.length >= LONG.batch) ends.push(performance.now());
      },
    });
    const [began = Number.NaN, ended = Number.NaN] = [ends[0], ends.at(-1)];
    this.samples.push(((ends.length - 1) * LONG.batch * 1000) / (ended - began));
  }

  async close(): Promise<void> {
    await this.engine.close();
  }

  private requests(): ReturnType<DirectEngine['request']>[] {
    return Array.from({ length: LONG.batch }, (_, row) => {
      const prompt = Array.from({ length: LONG.context }, (_, at) => 100 + ((at * 97 + row * 389) % 4000));
      return this.engine.request(BASE_NAME, prompt, STEPS);
    });
  }
}
