import { BASE_NAME } from '../../src/core/names.js';
import type { DirectEngine } from '../../tests/helpers/direct-engine.js';

/** Tokens that are read together; each but the first of them is predicted. */
export const WINDOW = 512;

/** What a model makes of a text, window by window. */
export interface TextScore {
  /** Predicted tokens. */
  readonly count: number;
  /** Mean −ln p(token), nats. */
  readonly loss: number;
  /** Of each predicted token, ln p(token). [count] */
  readonly logprobs: readonly number[];
  /** Of each predicted token, what the model held for the likeliest. [count] */
  readonly choices: readonly number[];
}

/** Scores texts as prompts: the probabilities that a server reports for `prompt_logprobs`. */
export async function scoreTexts(
  engine: DirectEngine,
  texts: readonly string[],
  adapter = BASE_NAME,
): Promise<readonly TextScore[]> {
  const scores: TextScore[] = [];
  for (const text of texts) {
    const ids = [...(await engine.tokenizer.encode(text, false))];
    const logprobs: number[] = [];
    const choices: number[] = [];
    for (let first = 0; first + 1 < ids.length; first += WINDOW) {
      const request = engine.request(adapter, ids.slice(first, first + WINDOW), 1);
      const [outcome] = await engine.run([{ ...request, promptLogprobs: { top: 1 } }]);
      const prompt = outcome?.prompt;
      if (prompt?.top == null) throw new Error('the engine reported no prompt scores');
      for (let at = 1; at < prompt.logprobs.length; at++) {
        logprobs.push(prompt.logprobs[at] as number);
        choices.push(prompt.top[at]?.ids[0] as number);
      }
    }
    const loss = -logprobs.reduce((sum, logprob) => sum + logprob, 0) / logprobs.length;
    scores.push({ count: choices.length, loss, logprobs, choices });
  }
  return scores;
}
