import { type GenerateRequest, GREEDY_SAMPLING, PLAIN_REQUEST, type SamplingParams } from '../../core/request.js';
import { Random } from './random.js';

/** One prompt with its sampling; every adapter answers every case. */
export interface VerifyCase {
  readonly promptIds: Uint32Array;
  readonly sampling: SamplingParams;
}

/** Tokens that an answer is compared over. */
export const ANSWER_TOKENS = 12;
/** Some end just before a KV block is full, some are longer than a step of the engine that runs them. */
const PROMPT_LENGTHS = [1, 14, 30, 46];
const PROMPT_SEED = 20_240_229;

/** The cases for a vocabulary: the same for every seed, so that answers of one run mean something in another. */
export function verifyCases(tokenCount: number, maxPositions: number): VerifyCase[] {
  const random = new Random(PROMPT_SEED);
  const longest = Math.max(1, maxPositions - ANSWER_TOKENS);
  return PROMPT_LENGTHS.map((wanted, at) => ({
    promptIds: Uint32Array.from({ length: Math.min(wanted, longest) }, () => random.below(tokenCount)),
    sampling:
      at % 2 === 0
        ? GREEDY_SAMPLING
        : {
            ...GREEDY_SAMPLING,
            greedy: false,
            temperature: 0.9,
            topK: 50,
            topP: 0.95,
            repetitionPenalty: 1.1,
            seed: BigInt(at),
          },
  }));
}

/** A request for `tokens` tokens that no stop ends early. It shares KV with requests of the same `cacheSalt`. */
export function requestFor(
  id: number,
  adapter: string,
  { promptIds, sampling }: VerifyCase,
  tokens: number,
  cacheSalt: string,
): GenerateRequest {
  return { id, adapter, promptIds, maxNewTokens: tokens, stopIds: [], sampling, ...PLAIN_REQUEST, cacheSalt };
}
