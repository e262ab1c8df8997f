import type { SamplingParams } from '../core/request.js';
import type { RowPenalties, RowSampling } from '../core/step.js';
import type { Sequence } from './sequence.js';

/** How the next token of a sequence is chosen, and the slot that remembers it. */
export function rowSampling(sequence: Sequence, slot: number): RowSampling {
  const { sampling, choice, minNewTokens, logprobs } = sequence.request;
  const { greedy, temperature, topK, topP, minP, typicalP, seed } = sampling;
  return {
    greedy,
    temperature,
    topK,
    topP,
    minP,
    typicalP,
    penalties: penalises(sampling) ? rowPenalties(sequence) : null,
    bias: sequence.bias,
    banned: sequence.generated < minNewTokens ? sequence.stopIds : null,
    seed,
    choice,
    position: sequence.length,
    logprobs,
    slot,
    constraint: sequence.constraint,
  };
}

/** Whether what was there before matters. */
export function penalises({ repetitionPenalty, presencePenalty, frequencyPenalty }: SamplingParams): boolean {
  return repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0;
}

function rowPenalties(sequence: Sequence): RowPenalties {
  const { repetitionPenalty, presencePenalty, frequencyPenalty, penaltyScope } = sequence.request.sampling;
  return {
    repetition: repetitionPenalty,
    presence: presencePenalty,
    frequency: frequencyPenalty,
    scope: penaltyScope,
    history: sequence.tokens(),
    promptLength: sequence.request.promptIds.length,
  };
}
