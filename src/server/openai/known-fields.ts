import { isDeepStrictEqual } from 'node:util';
import type { JsonObject } from '../fields.js';
import { FieldError } from './errors.js';
import { isAbsent } from './fields.js';

/** The fields of one route's body. */
export interface FieldTable {
  /** Fields that act. */
  readonly served: ReadonlySet<string>;
  /** Fields with one value only: what this server does anyway. */
  readonly neutral: Readonly<Record<string, readonly unknown[]>>;
  /** Fields that are known and not carried out, with what to say about them. */
  readonly refused: Readonly<Record<string, string>>;
}

/** Served by every route that generates. */
export const COMMON_SERVED = [
  'adapter_source',
  'adapters',
  'add_special_tokens',
  'api_token',
  'cache_salt',
  'frequency_penalty',
  'guided_choice',
  'guided_grammar',
  'guided_json',
  'guided_regex',
  'ignore_eos',
  'ignore_eos_token',
  'include_stop_str_in_output',
  'logit_bias',
  'max_tokens',
  'min_p',
  'min_tokens',
  'model',
  'n',
  'presence_penalty',
  'repetition_penalty',
  'request_id',
  'return_token_ids',
  'return_tokens_as_token_ids',
  'seed',
  'skip_special_tokens',
  'stop',
  'stop_token_ids',
  'stream',
  'stream_options',
  'structured_outputs',
  'temperature',
  'top_k',
  'top_p',
  'truncate_prompt_tokens',
  'truncation_side',
  'typical_p',
  'user',
] as const;

export const COMMON_NEUTRAL: FieldTable['neutral'] = {
  length_penalty: [1],
  priority: [0],
  spaces_between_special_tokens: [true],
  use_beam_search: [false],
};

const OTHER_SAMPLING = 'it is not part of this server';

export const COMMON_REFUSED: FieldTable['refused'] = {
  allowed_token_ids: 'use logit_bias or structured_outputs',
  bad_words: 'use logit_bias',
  documents: OTHER_SAMPLING,
  kv_transfer_params: OTHER_SAMPLING,
  logprob_token_ids: 'use logprobs',
  media_io_kwargs: OTHER_SAMPLING,
  mm_processor_kwargs: OTHER_SAMPLING,
  prompt_embeds: 'send text or token ids',
  prompt_logprobs: 'use echo with logprobs on /v1/completions',
  repetition_detection: OTHER_SAMPLING,
  stream_interval: OTHER_SAMPLING,
  thinking_token_budget: OTHER_SAMPLING,
  vllm_xargs: OTHER_SAMPLING,
};

/** Refuses every field that is neither served nor asking for what is done anyway. Nothing is accepted and ignored. */
export function checkFieldNames(body: JsonObject, { served, neutral, refused }: FieldTable): void {
  for (const [name, value] of Object.entries(body)) {
    if (served.has(name)) continue;
    const values = Object.hasOwn(neutral, name) ? neutral[name] : undefined;
    const advice = Object.hasOwn(refused, name) ? refused[name] : undefined;
    if (values === undefined && advice === undefined) {
      throw new FieldError('unknown_parameter', name, `Unknown parameter: '${name}': remove it`);
    }
    if (isAbsent(value) || values?.some((candidate) => isDeepStrictEqual(candidate, value)) === true) continue;
    const only = values?.map((candidate) => JSON.stringify(candidate)).join(' or ');
    const message =
      only === undefined
        ? `'${name}' is not supported: ${advice}`
        : `'${name}' is supported with the value ${only} only: leave it out`;
    throw new FieldError('unsupported_parameter', name, message);
  }
}
