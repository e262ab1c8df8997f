import { LoramuxError } from '../core/errors.js';
import type { GenerateRequest, SamplingParams } from '../core/request.js';

const MAX_UINT32 = 2 ** 32 - 1;

/** What a value must be, in words, and whether it is. */
type Rule = readonly [expected: string, holds: (value: number) => boolean];

/** Judged as float32, which the sampler computes with: what underflows to 0 there would divide by it. */
const POSITIVE: Rule = ['a finite float32 above 0', (value) => Math.fround(value) > 0 && isFloat32(value)];
const SHARE: Rule = ['a float32 above 0 and at most 1', (value) => Math.fround(value) > 0 && value <= 1];
const SHARE_OR_ZERO: Rule = ['from 0 to 1', (value) => value >= 0 && value <= 1];
const FINITE: Rule = ['a finite number', Number.isFinite];
const COUNT: Rule = ['a whole number from 0 on', (value) => isBelow(value, MAX_UINT32 + 1)];

const RULES: Readonly<Partial<Record<keyof SamplingParams, Rule>>> = {
  temperature: POSITIVE,
  topK: COUNT,
  topP: SHARE,
  minP: SHARE_OR_ZERO,
  typicalP: SHARE,
  repetitionPenalty: POSITIVE,
  presencePenalty: FINITE,
  frequencyPenalty: FINITE,
};

/**
 * Refuses what the native sampler would refuse, which would fail every request of the step.
 * Errors: ERR_VALIDATION names the field, what it must be and what came.
 */
export function checkSampling(request: GenerateRequest, vocabSize: number): void {
  const { sampling, logprobs, promptLogprobs } = request;
  for (const [name, rule] of Object.entries(RULES)) {
    check(name, sampling[name as keyof SamplingParams] as number, rule);
  }
  const token: Rule = [`an id below ${vocabSize}`, (id) => isBelow(id, vocabSize)];
  for (const [id, bias] of sampling.logitBias) {
    check('logitBias', id, token);
    check('logitBias', bias, ['a finite float32', isFloat32]);
  }
  if (sampling.seed < 0n || sampling.seed >= 2n ** 64n)
    throw refused('seed', 'an unsigned 64-bit number', sampling.seed);
  check('choice', request.choice, COUNT);
  const most = request.maxNewTokens;
  check('minNewTokens', request.minNewTokens, [
    `from 0 to maxNewTokens (${most})`,
    (count) => isBelow(count, most + 1),
  ]);
  for (const id of request.stopIds) check('stopIds', id, COUNT);
  const alternatives: Rule = [`from 0 to ${vocabSize}`, (count) => isBelow(count, vocabSize + 1)];
  check('logprobs.top', logprobs?.top ?? 0, alternatives);
  check('promptLogprobs.top', promptLogprobs?.top ?? 0, alternatives);
}

function check(field: string, value: number, [expected, holds]: Rule): void {
  if (!holds(value)) throw refused(field, expected, value);
}

function refused(field: string, expected: string, value: number | bigint): LoramuxError {
  return new LoramuxError('ERR_VALIDATION', `expected ${field} to be ${expected}, got ${value}: change it`, { field });
}

function isFloat32(value: number): boolean {
  return Number.isFinite(Math.fround(value));
}

function isBelow(value: number, limit: number): boolean {
  return Number.isSafeInteger(value) && value >= 0 && value < limit;
}
