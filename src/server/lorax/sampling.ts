import { GREEDY_SAMPLING, type SamplingParams } from '../../core/request.js';
import type { GenerateParameters } from './parameters.js';

/** Draws a seed below 2^53, so that clients which read JSON numbers as doubles get it back unchanged. */
export type SeedSource = () => bigint;

/**
 * LoRAX's rule: sampling happens when it is asked for, or when a temperature other than 0 and 1, `top_k`, or a `top_p`
 * or `typical_p` below 1 is given. Temperature 0 always means greedy. Neutral values are filled in, and a seed is drawn if needed.
 */
export function samplingOf(parameters: GenerateParameters, drawSeed: SeedSource): SamplingParams {
  const { doSample, temperature, topK, topP, typicalP, repetitionPenalty, seed } = parameters;
  const warmed = temperature !== null && temperature !== 1;
  const wanted = doSample || warmed || topK !== null || (topP ?? 1) < 1 || (typicalP ?? 1) < 1;
  // A temperature that float32 rounds to zero would divide by zero.
  const greedy = !wanted || (temperature !== null && Math.fround(temperature) === 0);
  return {
    ...GREEDY_SAMPLING,
    greedy,
    temperature: greedy ? 1 : (temperature ?? 1),
    topK: greedy ? 0 : (topK ?? 0),
    topP: greedy ? 1 : (topP ?? 1),
    typicalP: greedy ? 1 : (typicalP ?? 1),
    repetitionPenalty: repetitionPenalty ?? 1,
    frequencyPenalty: parameters.frequencyPenalty ?? 0,
    presencePenalty: parameters.presencePenalty ?? 0,
    penaltyScope: 'sequence',
    seed: greedy ? 0n : (seed ?? drawSeed()),
  };
}
