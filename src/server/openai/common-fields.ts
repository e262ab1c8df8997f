import type { EngineLimits } from '../../core/engine-client.js';
import type { SamplingParams } from '../../core/request.js';
import type { JsonObject } from '../fields.js';
import type { RequestSource } from '../lorax/adapter-origin.js';
import { type FieldConstraint, readConstraint } from './constraint.js';
import { FieldError } from './errors.js';
import {
  isAbsent,
  readArray,
  readBoolean,
  readIntegerIn,
  readObject,
  readOptionalString,
  readString,
  refuseOthers,
  wrongValue,
} from './fields.js';
import { type BaseNames, type ModelChoice, readModelAndAdapters } from './model-name.js';
import { readSampling, type SeedSource } from './sampling.js';

/** Stop strings of one request. */
const MAX_STOP = 16;
const MAX_STOP_TOKENS = 256;
export const MAX_TOKENS = 2 ** 31 - 1;

/** What the fields are checked against. */
export interface FieldContext {
  readonly limits: EngineLimits;
  readonly base: BaseNames;
  /** Largest `n`. */
  readonly maxChoices: number;
  readonly drawSeed: SeedSource;
  /** Where requests may have adapters loaded from. */
  readonly requestSources: readonly RequestSource[];
}

export interface StreamOptions {
  /** A last chunk with the usage, and `usage: null` on the others. */
  readonly includeUsage: boolean;
  /** The usage so far on every chunk. */
  readonly continuousUsage: boolean;
}

/** The fields that every generating route has, checked. */
export interface CommonCall {
  readonly model: ModelChoice;
  readonly sampling: SamplingParams;
  readonly n: number;
  readonly minTokens: number;
  readonly stop: readonly string[];
  readonly includeStop: boolean;
  readonly ignoreEos: boolean;
  readonly stopTokenIds: readonly number[];
  readonly skipSpecialTokens: boolean;
  /** null = the route's own default. */
  readonly addSpecialTokens: boolean | null;
  /** null = keep the whole prompt. */
  readonly truncate: number | null;
  readonly truncateSide: 'left' | 'right';
  readonly constraint: FieldConstraint | null;
  readonly cacheSalt: string | null;
  /** null = one reply in the end. */
  readonly stream: StreamOptions | null;
  readonly returnTokenIds: boolean;
  /** Texts of tokens in log-probabilities are `token_id:N`. */
  readonly tokensAsIds: boolean;
  readonly requestId: string | null;
  /** Whom the caller works for; for the log only. */
  readonly user: string | null;
}

/**
 * Reads the common fields of a body whose field names were checked. `maxTokens` is the route's limit of new tokens;
 * null = what the model length leaves. Throws FieldError, or ERR_ADAPTER_NOT_FOUND for a `model` that can be none.
 */
export function readCommon(body: JsonObject, context: FieldContext, maxTokens: number | null): CommonCall {
  const { limits, base, maxChoices, drawSeed, requestSources } = context;
  return {
    model: readModelAndAdapters(body, base, requestSources),
    sampling: readSampling(body, limits.vocabSize, drawSeed),
    n: readIntegerIn('n', body.n, 1, maxChoices) ?? 1,
    minTokens: readMinTokens(body.min_tokens, maxTokens),
    stop: readStop(body.stop),
    includeStop: readBoolean('include_stop_str_in_output', body.include_stop_str_in_output, false),
    ignoreEos: readIgnoreEos(body),
    stopTokenIds: readTokenIds('stop_token_ids', body.stop_token_ids, limits.vocabSize),
    skipSpecialTokens: readBoolean('skip_special_tokens', body.skip_special_tokens, true),
    addSpecialTokens: isAbsent(body.add_special_tokens)
      ? null
      : readBoolean('add_special_tokens', body.add_special_tokens, true),
    truncate: readTruncate(body.truncate_prompt_tokens, limits.maxModelLen, maxTokens),
    truncateSide: readSide(body.truncation_side),
    constraint: readConstraint(body),
    cacheSalt: readCacheSalt(body.cache_salt),
    stream: readStream(body),
    returnTokenIds: readBoolean('return_token_ids', body.return_token_ids, false),
    tokensAsIds: readBoolean('return_tokens_as_token_ids', body.return_tokens_as_token_ids, false),
    requestId: readRequestId(body.request_id),
    user: readOptionalString('user', body.user),
  };
}

function readMinTokens(value: unknown, maxTokens: number | null): number {
  const minTokens = readIntegerIn('min_tokens', value, 0, MAX_TOKENS) ?? 0;
  if (maxTokens === null || minTokens <= maxTokens) return minTokens;
  throw wrongValue('min_tokens', `at most the limit of new tokens, ${maxTokens}`, value);
}

function readStop(value: unknown): readonly string[] {
  if (isAbsent(value)) return [];
  const list = typeof value === 'string' ? [value] : readArray('stop', value);
  if (list.length > MAX_STOP) throw wrongValue('stop', `at most ${MAX_STOP} strings`, list);
  return list.map((item, at) => {
    const path = typeof value === 'string' ? 'stop' : `stop[${at}]`;
    const text = readString(path, item);
    if (text === '') throw wrongValue(path, 'a string that is not empty', text);
    return text;
  });
}

/** LoRAX's name for the same field is taken too; both must agree. */
function readIgnoreEos(body: JsonObject): boolean {
  const ours = readBoolean('ignore_eos', body.ignore_eos, false);
  const theirs = readBoolean('ignore_eos_token', body.ignore_eos_token, ours);
  if (isAbsent(body.ignore_eos) || ours === theirs) return theirs;
  throw wrongValue('ignore_eos_token', `what 'ignore_eos' is, ${ours}`, theirs);
}

/** Token ids below the vocabulary's size. */
export function readTokenIds(path: string, value: unknown, vocabSize: number): readonly number[] {
  if (isAbsent(value)) return [];
  const list = readArray(path, value);
  if (list.length > MAX_STOP_TOKENS) throw wrongValue(path, `at most ${MAX_STOP_TOKENS} token ids`, list);
  return list.map((item, at) => {
    const id = readIntegerIn(`${path}[${at}]`, item, 0, vocabSize - 1);
    if (id === null) throw wrongValue(`${path}[${at}]`, 'a token id', item);
    return id;
  });
}

/** -1: as many as leave room for the answer. */
function readTruncate(value: unknown, maxModelLen: number, maxTokens: number | null): number | null {
  const kept = readIntegerIn('truncate_prompt_tokens', value, -1, maxModelLen - 1);
  if (kept === null || kept > 0) return kept;
  if (kept === 0) throw wrongValue('truncate_prompt_tokens', '-1, or at least 1', value);
  return Math.max(1, maxModelLen - Math.max(1, maxTokens ?? 1));
}

function readSide(value: unknown): 'left' | 'right' {
  const side = readOptionalString('truncation_side', value) ?? 'left';
  if (side === 'left' || side === 'right') return side;
  throw wrongValue('truncation_side', 'left or right', value);
}

function readCacheSalt(value: unknown): string | null {
  const salt = readOptionalString('cache_salt', value);
  if (salt === null || /^[^@/\\\0]{1,128}$/.test(salt)) return salt;
  throw wrongValue('cache_salt', '1 to 128 characters other than @ / \\ and NUL', value);
}

function readRequestId(value: unknown): string | null {
  const id = readOptionalString('request_id', value);
  if (id === null || /^[\w.-]{1,128}$/.test(id)) return id;
  throw wrongValue('request_id', '1 to 128 letters, digits, ".", "_" and "-"', value);
}

function readStream(body: JsonObject): StreamOptions | null {
  const stream = readBoolean('stream', body.stream, false);
  const path = 'stream_options';
  if (isAbsent(body.stream_options)) return stream ? { includeUsage: false, continuousUsage: false } : null;
  if (!stream) {
    throw new FieldError('invalid_value', path, `'${path}' goes with 'stream': true only`);
  }
  const options = readObject(path, body.stream_options);
  refuseOthers(path, options, ['include_usage', 'continuous_usage_stats', 'include_obfuscation']);
  if (readBoolean(`${path}.include_obfuscation`, options.include_obfuscation, false)) {
    const message = `'${path}.include_obfuscation' is supported with the value false only: leave it out`;
    throw new FieldError('unsupported_parameter', `${path}.include_obfuscation`, message);
  }
  return {
    includeUsage: readBoolean(`${path}.include_usage`, options.include_usage, false),
    continuousUsage: readBoolean(`${path}.continuous_usage_stats`, options.continuous_usage_stats, false),
  };
}
