import type { KvDtype, PreparedModel } from '../../src/core/model-manifest.js';
import { BASE_NAME } from '../../src/core/names.js';
import { DirectEngine } from '../../tests/helpers/direct-engine.js';

/** Sequences that decode together, and tokens that each has behind it. */
export const LONG = { batch: 16, context: 2000 } as const;

/** Tokens of each sequence in a round. */
const STEPS = 16;
const BLOCK_TOKENS = 16;

/** Base-only decode behind long prompts, tokens per second; samples of all rounds gather in `samples`. */
export class LongDecodeProbe {
  readonly samples: number[] = [];

  private constructor(private readonly engine: DirectEngine) {}

  /** The prompts are read here: rounds find them in the prefix cache. */
  static async open(model: PreparedModel, threads: number, kvDtype: KvDtype): Promise<LongDecodeProbe> {
    const longest = LONG.context + STEPS + BLOCK_TOKENS;
    const engine = await DirectEngine.open({
      model,
      adapterRoots: [],
      threads,
      kvDtype,
      prefixCache: true,
      maxModelLen: longest,
      maxBatchTokens: 512,
      kvBlocks: LONG.batch * 2 * Math.ceil(longest / BLOCK_TOKENS),
    });
    const probe = new LongDecodeProbe(engine);
    await probe.engine.run(probe.requests(1));
    return probe;
  }

  async round(): Promise<void> {
    const started = performance.now();
    await this.engine.run(this.requests(STEPS));
    this.samples.push((LONG.batch * STEPS * 1000) / (performance.now() - started));
  }

  async close(): Promise<void> {
    await this.engine.close();
  }

  private requests(tokens: number): ReturnType<DirectEngine['request']>[] {
    return Array.from({ length: LONG.batch }, (_, row) => {
      const prompt = Array.from({ length: LONG.context }, (_, at) => 100 + ((at * 97 + row * 389) % 4000));
      return this.engine.request(BASE_NAME, prompt, tokens);
    });
  }
}
