import type { JsonObject } from '../fields.js';
import { type CommonCall, type FieldContext, MAX_TOKENS, readCommon } from './common-fields.js';
import { FieldError } from './errors.js';
import {
  readArray,
  readBoolean,
  readIntegerIn,
  readObject,
  readString,
  requireField,
  wrongType,
  wrongValue,
} from './fields.js';
import { COMMON_NEUTRAL, COMMON_REFUSED, COMMON_SERVED, checkFieldNames, type FieldTable } from './known-fields.js';

/** Prompts of one request. */
export const MAX_PROMPTS = 128;
/** OpenAI's own limit of new tokens where none is given. */
const DEFAULT_MAX_TOKENS = 16;
const MAX_LOGPROBS = 20;

/** Fields of `POST /v1/completions`. */
export const COMPLETION_FIELDS: FieldTable = {
  served: new Set([...COMMON_SERVED, 'best_of', 'echo', 'logprobs', 'prompt']),
  neutral: { ...COMMON_NEUTRAL, suffix: [''] },
  refused: COMMON_REFUSED,
};

/** A prompt as it came, and the field that it came in. */
export interface CompletionPrompt {
  readonly path: string;
  readonly content: { readonly text: string } | { readonly ids: Uint32Array };
}

export interface CompletionCall extends CommonCall {
  readonly prompts: readonly CompletionPrompt[];
  /** 0 only with `echo`: the prompt is scored, no more. */
  readonly maxTokens: number;
  readonly echo: boolean;
  /** Likeliest tokens beside each; null = no log-probabilities. */
  readonly logprobs: number | null;
  /** Answers made for each prompt, of which `n` are replied. */
  readonly bestOf: number;
}

export interface CompletionContext extends FieldContext {
  /** Largest `best_of`. */
  readonly maxBestOf: number;
}

/** Checks a body of `POST /v1/completions` completely; the first failure wins. Throws as `readCommon`. */
export function readCompletionBody(body: unknown, context: CompletionContext): CompletionCall {
  const fields = readObject('body', body);
  checkFieldNames(fields, COMPLETION_FIELDS);
  const maxTokens = readIntegerIn('max_tokens', fields.max_tokens, 0, MAX_TOKENS) ?? DEFAULT_MAX_TOKENS;
  const common = readCommon(fields, context, maxTokens);
  const echo = readBoolean('echo', fields.echo, false);
  if (maxTokens === 0 && !echo) throw wrongValue('max_tokens', "at least 1, or 0 with 'echo': true", maxTokens);
  return {
    ...common,
    prompts: readPrompts(fields.prompt, context.limits.vocabSize),
    maxTokens,
    echo,
    logprobs: readIntegerIn('logprobs', fields.logprobs, 0, MAX_LOGPROBS),
    bestOf: readBestOf(fields, common, context.maxBestOf),
  };
}

function readBestOf(fields: JsonObject, { n, stream }: CommonCall, max: number): number {
  // 0 is how some clients say that they want none.
  const bestOf = readIntegerIn('best_of', fields.best_of, 0, Math.max(max, n)) ?? 0;
  if (bestOf === 0) return n;
  if (bestOf < n) throw wrongValue('best_of', `at least 'n', which is ${n}`, bestOf);
  if (bestOf > n && stream !== null) {
    throw new FieldError('invalid_value', 'best_of', "'best_of' picks from complete answers: not with 'stream': true");
  }
  return bestOf;
}

/** A string, token ids, or a list of either kind. */
function readPrompts(value: unknown, vocabSize: number): readonly CompletionPrompt[] {
  requireField('prompt', value);
  if (typeof value === 'string') return [{ path: 'prompt', content: readText('prompt', value) }];
  const list = readArray('prompt', value);
  if (list.length === 0) throw wrongValue('prompt', 'a string or a list that is not empty', value);
  if (typeof list[0] === 'number') return [{ path: 'prompt', content: readIds('prompt', list, vocabSize) }];
  if (list.length > MAX_PROMPTS) throw wrongValue('prompt', `at most ${MAX_PROMPTS} prompts`, value);
  const asText = typeof list[0] === 'string';
  return list.map((item, at) => {
    const path = `prompt[${at}]`;
    if (asText ? typeof item !== 'string' : !Array.isArray(item)) {
      throw wrongType(path, asText ? 'a string as the first is' : 'a string or a list of token ids', item);
    }
    return { path, content: asText ? readText(path, item) : readIds(path, item as readonly unknown[], vocabSize) };
  });
}

function readText(path: string, value: unknown): { readonly text: string } {
  const text = readString(path, value);
  if (text === '') throw wrongValue(path, 'a prompt that is not empty', value);
  return { text };
}

function readIds(path: string, list: readonly unknown[], vocabSize: number): { readonly ids: Uint32Array } {
  if (list.length === 0) throw wrongValue(path, 'a prompt that is not empty', list);
  const ids = new Uint32Array(list.length);
  for (const [at, id] of list.entries()) {
    if (typeof id !== 'number' || !Number.isInteger(id)) throw wrongType(`${path}[${at}]`, 'a token id', id);
    if (id < 0 || id >= vocabSize) throw wrongValue(`${path}[${at}]`, `a token id below ${vocabSize}`, id);
    ids[at] = id;
  }
  return { ids };
}

/** True for a request without text: the context of a prompt is all that it asks about. */
export function scoresOnly({ maxTokens }: CompletionCall): boolean {
  return maxTokens === 0;
}

/** Texts among the prompts. */
export function promptTexts({ prompts }: CompletionCall): readonly string[] {
  return prompts.flatMap(({ content }) => ('text' in content ? [content.text] : []));
}
