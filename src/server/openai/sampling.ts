import { GREEDY_SAMPLING, type SamplingParams } from '../../core/request.js';
import type { JsonObject } from '../fields.js';
import { FieldError } from './errors.js';
import { isAbsent, readIntegerIn, readNumber, readNumberIn, readObject, wrongType, wrongValue } from './fields.js';

/** Draws a seed below 2^53. */
export type SeedSource = () => bigint;

const MAX_INT32 = 2 ** 31 - 1;
const MAX_BIAS_ENTRIES = 1_024;
const MAX_BIAS = 100;

/**
 * OpenAI's and vLLM's sampling fields. Without any of them tokens are drawn at temperature 1; temperature 0 is greedy.
 * A seed is drawn if one is needed. FieldError for what is out of bounds.
 */
export function readSampling(body: JsonObject, vocabSize: number, drawSeed: SeedSource): SamplingParams {
  const temperature = readNumberIn('temperature', body.temperature, 0, 2) ?? 1;
  const topP = readNumberIn('top_p', body.top_p, 0, 1) ?? 1;
  const topK = readTopK(body.top_k);
  const minP = readNumberIn('min_p', body.min_p, 0, 1) ?? 0;
  const typicalP = readTypicalP(body.typical_p);
  const seed = readSeed(body.seed);
  const processors = {
    repetitionPenalty: readRepetitionPenalty(body.repetition_penalty),
    presencePenalty: readNumberIn('presence_penalty', body.presence_penalty, -2, 2) ?? 0,
    frequencyPenalty: readNumberIn('frequency_penalty', body.frequency_penalty, -2, 2) ?? 0,
    penaltyScope: 'output' as const,
    logitBias: readLogitBias(body.logit_bias, vocabSize),
  };
  // A temperature that float32 rounds to zero would divide by zero.
  if (Math.fround(temperature) === 0) return { ...GREEDY_SAMPLING, ...processors };
  // A nucleus of nothing is its likeliest token.
  const nucleus = Math.fround(topP) === 0 ? { topK: 1, topP: 1 } : { topK, topP };
  return { greedy: false, temperature, ...nucleus, minP, typicalP, ...processors, seed: seed ?? drawSeed() };
}

/** 0 and -1 both mean all tokens. */
function readTopK(value: unknown): number {
  return Math.max(0, readIntegerIn('top_k', value, -1, MAX_INT32) ?? 0);
}

function readTypicalP(value: unknown): number {
  const share = readNumberIn('typical_p', value, 0, 1) ?? 1;
  if (Math.fround(share) > 0) return share;
  throw wrongValue('typical_p', 'above 0 and at most 1', value);
}

function readRepetitionPenalty(value: unknown): number {
  const penalty = readNumber('repetition_penalty', value) ?? 1;
  const single = Math.fround(penalty);
  if (single > 0 && Number.isFinite(single)) return penalty;
  throw wrongValue('repetition_penalty', 'above 0', value);
}

/** 64 bits: signed as OpenAI has them, or unsigned; a negative seed is the unsigned one of the same bits. */
function readSeed(value: unknown): bigint | null {
  if (isAbsent(value)) return null;
  const isInteger = typeof value === 'bigint' || (typeof value === 'number' && Number.isInteger(value));
  if (!isInteger) throw wrongType('seed', 'an integer', value);
  const seed = BigInt(value);
  if (seed >= -(2n ** 63n) && seed < 2n ** 64n) return BigInt.asUintN(64, seed);
  throw wrongValue('seed', 'a 64-bit integer', value);
}

/** Token ids as JSON has them: in the keys of an object. */
function readLogitBias(value: unknown, vocabSize: number): ReadonlyMap<number, number> {
  if (isAbsent(value)) return GREEDY_SAMPLING.logitBias;
  const entries = Object.entries(readObject('logit_bias', value));
  if (entries.length > MAX_BIAS_ENTRIES) {
    throw new FieldError(
      'invalid_value',
      'logit_bias',
      `'logit_bias' must have at most ${MAX_BIAS_ENTRIES} entries, got ${entries.length}`,
    );
  }
  const bias = new Map<number, number>();
  for (const [key, each] of entries) {
    const id = /^\d{1,10}$/.test(key) ? Number(key) : Number.NaN;
    if (!(id < vocabSize) || bias.has(id)) {
      throw wrongValue('logit_bias', `an object whose keys are different token ids below ${vocabSize}`, key);
    }
    const path = `logit_bias.${key}`;
    const amount = readNumberIn(path, each, -MAX_BIAS, MAX_BIAS);
    if (amount === null) throw wrongType(path, 'a number', each);
    bias.set(id, amount);
  }
  return bias;
}
