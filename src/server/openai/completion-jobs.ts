import type { GenerationSpec, Prompt } from '../../generation/spec.js';
import type { RequestOrigin } from '../request-origin.js';
import { commonSpec } from './common-spec.js';
import type { CompletionCall, CompletionPrompt } from './completion-body.js';
import type { Job } from './runs.js';

/**
 * The generations that a call needs, prompt by prompt. What would come out the same each time is computed once and
 * repeated: greedy answers, and prompts that are only scored.
 */
export function jobsOf(call: CompletionCall, origin: RequestOrigin): readonly Job[] {
  const { n, bestOf, sampling, maxTokens } = call;
  const same = sampling.greedy || maxTokens === 0;
  const shared = sharedSpec(call, origin);
  return call.prompts.flatMap((prompt, at) => {
    const first = at * n;
    if (same) return [jobOf(call, shared, prompt, 0, range(first, n))];
    return range(0, bestOf).map((choice) => jobOf(call, shared, prompt, choice, [first + choice]));
  });
}

/** With `best_of` the indexes are those of candidates, not of the reply's choices. */
function jobOf(
  call: CompletionCall,
  shared: GenerationSpec,
  prompt: CompletionPrompt,
  choice: number,
  indexes: readonly number[],
): Job {
  const paths = { prompt: prompt.path, maxTokens: 'max_tokens', constraint: call.constraint?.path ?? null };
  return { spec: { ...shared, prompt: promptOf(call, prompt), choice }, indexes, promptCounted: choice > 0, paths };
}

function promptOf({ addSpecialTokens }: CompletionCall, { content }: CompletionPrompt): Prompt {
  return 'ids' in content ? content : { text: content.text, addSpecialTokens: addSpecialTokens ?? true };
}

/** All but prompt and choice. */
function sharedSpec(call: CompletionCall, origin: RequestOrigin): GenerationSpec {
  const { maxTokens, echo, logprobs, bestOf, n } = call;
  const scoresPrompt = maxTokens === 0 || (echo && logprobs !== null);
  // The best are found by their log-probabilities.
  const scoresAnswer = logprobs !== null || bestOf > n;
  return commonSpec(call, origin, {
    prompt: { ids: new Uint32Array() },
    maxNewTokens: maxTokens,
    logprobs: scoresAnswer ? { of: 'raw', top: logprobs ?? 0 } : null,
    promptLogprobs: scoresPrompt ? { top: logprobs ?? 0 } : null,
  });
}

function range(from: number, count: number): number[] {
  const numbers: number[] = [];
  for (let at = from; at < from + count; at += 1) numbers.push(at);
  return numbers;
}
