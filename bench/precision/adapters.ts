import type { AdapterDtype } from '../../src/core/adapter.js';
import type { Precision } from '../../src/core/model-manifest.js';
import { demoModel } from '../../tests/helpers/demo-model.js';
import { DirectEngine } from '../../tests/helpers/direct-engine.js';
import { DEMO_ADAPTERS } from '../../tests/helpers/paths.js';
import { scoreTexts, type TextScore, WINDOW } from './score.js';

const ADAPTERS = ['pirate', 'sentiment', 'sql', 'support-json'];
const DTYPES: readonly AdapterDtype[] = ['file', 'int8', 'int4'];
const BASES: readonly Precision[] = ['f32', 'w4'];

/** What an adapter costs in one storage over one base: all texts' tokens together. */
export interface AdapterScore {
  readonly base: Precision;
  readonly dtype: AdapterDtype;
  readonly adapter: string;
  readonly perplexity: number;
  /** Perplexity as a change against the adapter as its file has it over the float32 base, in percent. */
  readonly change: number;
  /** The same over the same base. */
  readonly changeOverBase: number;
  /** Share of the tokens with the likeliest token of that reference over the same base. */
  readonly sameChoice: number;
  /** Over the same base: root mean square of what ln p moves by, in parts of what the adapter itself moves it by. */
  readonly ofEffect: number;
}

/** A text's tokens and those of the next text. */
function pooled(scores: readonly TextScore[]): {
  readonly logprobs: readonly number[];
  readonly choices: readonly number[];
} {
  return { logprobs: scores.flatMap((score) => score.logprobs), choices: scores.flatMap((score) => score.choices) };
}

function meanSquare(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, value, at) => sum + (value - (b[at] as number)) ** 2, 0) / a.length;
}

function perplexity({ logprobs }: { readonly logprobs: readonly number[] }): number {
  return Math.exp(-logprobs.reduce((sum, value) => sum + value, 0) / logprobs.length);
}

/** The demo adapters over `texts`, in every storage over the reference and the fastest base. */
export async function scoreAdapters(texts: readonly string[]): Promise<readonly AdapterScore[]> {
  const found: AdapterScore[] = [];
  const exact = new Map<string, number>();
  for (const base of BASES) {
    const own = new Map<string, ReturnType<typeof pooled>>();
    let plain: ReturnType<typeof pooled> | null = null;
    for (const dtype of DTYPES) {
      console.log(`${base}, adapters ${dtype}: ${ADAPTERS.join(', ')}`);
      const engine = await DirectEngine.open({
        model: await demoModel(base),
        adapterRoots: [DEMO_ADAPTERS],
        adapterDtype: dtype,
        maxModelLen: WINDOW + 1,
      });
      plain ??= pooled(await scoreTexts(engine, texts));
      for (const adapter of ADAPTERS) {
        const score = pooled(await scoreTexts(engine, texts, adapter));
        if (dtype === 'file') own.set(adapter, score);
        const reference = own.get(adapter) ?? score;
        const value = perplexity(score);
        if (!exact.has(adapter)) exact.set(adapter, value);
        found.push({
          ...{ base, dtype, adapter, perplexity: value },
          change: (value / (exact.get(adapter) ?? value) - 1) * 100,
          changeOverBase: (value / perplexity(reference) - 1) * 100,
          sameChoice:
            score.choices.filter((choice, at) => choice === reference.choices[at]).length / score.choices.length,
          ofEffect: Math.sqrt(
            meanSquare(score.logprobs, reference.logprobs) / meanSquare(reference.logprobs, plain.logprobs),
          ),
        });
      }
      await engine.close();
    }
  }
  return found;
}
