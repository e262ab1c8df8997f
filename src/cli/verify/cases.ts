import type { Composition } from '../../core/composition.js';
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
/** Activated adapters whose calls get cases of their own. */
const MOST_CALLS = 2;

/**
 * The cases for a vocabulary: the same for every seed, so that answers of one run mean something in another. Each of
 * `calls`, the tokens that call an activated adapter, stands in the middle of two more prompts.
 */
export function verifyCases(
  tokenCount: number,
  maxPositions: number,
  calls: readonly (readonly number[])[] = [],
): VerifyCase[] {
  const random = new Random(PROMPT_SEED);
  const longest = Math.max(1, maxPositions - ANSWER_TOKENS);
  const prompts = PROMPT_LENGTHS.map((wanted) =>
    Uint32Array.from({ length: Math.min(wanted, longest) }, () => random.below(tokenCount)),
  );
  const called = calls.slice(0, MOST_CALLS).flatMap((call) => prompts.slice(-2).flatMap((ids) => calling(ids, call)));
  return [...prompts, ...called].map((promptIds, at) => ({
    promptIds,
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

/** The prompt with the call in its middle; nothing where it is too short for one. */
function calling(promptIds: Uint32Array, call: readonly number[]): Uint32Array[] {
  if (call.length > promptIds.length) return [];
  const copy = promptIds.slice();
  copy.set(call, Math.floor((promptIds.length - call.length) / 2));
  return [copy];
}

/** What a request runs under: an adapter by name, or several combined under a label. */
export interface Target {
  readonly adapter: string;
  readonly composition: Composition | null;
}

/** A request for `tokens` tokens that no stop ends early. It shares KV with requests of the same `cacheSalt`. */
export function requestFor(
  id: number,
  { adapter, composition }: Target,
  { promptIds, sampling }: VerifyCase,
  tokens: number,
  cacheSalt: string,
): GenerateRequest {
  return {
    id,
    adapter,
    promptIds,
    maxNewTokens: tokens,
    stopIds: [],
    sampling,
    ...PLAIN_REQUEST,
    cacheSalt,
    ...(composition === null ? {} : { composition }),
  };
}
