import type { GenerationSpec } from '../../generation/spec.js';
import type { RequestOrigin } from '../request-origin.js';
import { type CommonSpec, commonSpec } from './common-spec.js';
import type { CompletionCall, CompletionPrompt } from './completion-body.js';
import type { Job } from './runs.js';

/**
 * The generations that a call needs, prompt by prompt. What would come out the same each time is computed once and
 * repeated: greedy answers, and prompts that are only scored.
 */
export function jobsOf(call: CompletionCall, origin: RequestOrigin): readonly Job[] {
  const common = commonSpec(call, origin);
  const same = call.sampling.greedy || call.maxTokens === 0;
  return call.prompts.flatMap((prompt, at) => {
    const first = at * call.n;
    if (same) return [jobOf(call, common, prompt, 0, range(first, call.n))];
    return range(0, call.bestOf).map((choice) => jobOf(call, common, prompt, choice, [first + choice]));
  });
}

/** With `best_of` the indexes are those of candidates, not of the reply's choices. */
function jobOf(
  call: CompletionCall,
  common: CommonSpec,
  prompt: CompletionPrompt,
  choice: number,
  indexes: readonly number[],
): Job {
  const paths = { prompt: prompt.path, maxTokens: 'max_tokens', constraint: call.constraint?.path ?? null };
  return { spec: specOf(call, common, prompt, choice), indexes, promptCounted: choice > 0, paths };
}

function specOf(
  call: CompletionCall,
  common: CommonSpec,
  { content }: CompletionPrompt,
  choice: number,
): GenerationSpec {
  const { maxTokens, echo, logprobs, bestOf, n } = call;
  const scoresPrompt = maxTokens === 0 || (echo && logprobs !== null);
  // The best are found by their log-probabilities.
  const scoresAnswer = logprobs !== null || bestOf > n;
  return {
    ...common,
    prompt: 'ids' in content ? content : { ...content, addSpecialTokens: call.addSpecialTokens ?? true },
    maxNewTokens: maxTokens,
    choice,
    logprobs: scoresAnswer ? { of: 'raw', top: logprobs ?? 0 } : null,
    promptLogprobs: scoresPrompt ? { top: logprobs ?? 0 } : null,
  };
}

function range(from: number, count: number): number[] {
  return Array.from({ length: count }, (_, at) => from + at);
}
