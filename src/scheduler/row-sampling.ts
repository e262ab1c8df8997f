import type { SamplingParams } from '../core/request.js';
import { NOT_GUESSED, type RowPenalties, type RowSampling } from '../core/step.js';
import type { Sequence } from './sequence.js';

/**
 * How a token of a sequence is chosen, and the slot that remembers it: the next one, or the one after `guessed` of the
 * drafts, which is chosen as it will be once they are known to be right.
 */
export function rowSampling(
  sequence: Sequence,
  slot: number,
  drafts: readonly number[] = [],
  guessed = 0,
): RowSampling {
  const { sampling, choice, promptIds, minNewTokens, logprobs } = sequence.request;
  const { greedy, temperature, topK, topP, minP, typicalP, seed } = sampling;
  return {
    greedy,
    temperature,
    topK,
    topP,
    minP,
    typicalP,
    penalties: penalises(sampling) ? rowPenalties(sequence, drafts.slice(0, guessed)) : null,
    bias: sequence.bias,
    banned: sequence.end - promptIds.length + guessed < minNewTokens ? sequence.stopIds : null,
    seed,
    choice,
    position: sequence.end + guessed,
    logprobs,
    slot,
    constraint: sequence.constraint,
    follows: guessed === 0 ? NOT_GUESSED : (drafts[guessed - 1] as number),
  };
}

/** Whether what was there before matters. */
export function penalises({ repetitionPenalty, presencePenalty, frequencyPenalty }: SamplingParams): boolean {
  return repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0;
}

function rowPenalties(sequence: Sequence, drafts: readonly number[]): RowPenalties {
  const { repetitionPenalty, presencePenalty, frequencyPenalty, penaltyScope } = sequence.request.sampling;
  return {
    repetition: repetitionPenalty,
    presence: presencePenalty,
    frequency: frequencyPenalty,
    scope: penaltyScope,
    history: followedBy(sequence.tokens(), drafts),
    promptLength: sequence.request.promptIds.length,
  };
}

function followedBy(tokens: Uint32Array, drafts: readonly number[]): Uint32Array {
  if (drafts.length === 0) return tokens;
  const history = new Uint32Array(tokens.length + drafts.length);
  history.set(tokens);
  history.set(drafts, tokens.length);
  return history;
}
