import type { Chat } from '../../chat/chat-template.js';
import type { ToolFormat } from '../../chat/tools/tool-format.js';
import type { JsonObject } from '../fields.js';
import { readMessages } from './chat-messages.js';
import { readTools, type ToolChoice } from './chat-tools.js';
import { type CommonCall, type FieldContext, MAX_TOKENS, readCommon } from './common-fields.js';
import { type FieldConstraint, plainBigInts, severalConstraints } from './constraint.js';
import { FieldError } from './errors.js';
import {
  isAbsent,
  readBoolean,
  readIntegerIn,
  readObject,
  readOptionalString,
  readString,
  wrongValue,
} from './fields.js';
import { COMMON_NEUTRAL, COMMON_REFUSED, COMMON_SERVED, checkFieldNames, type FieldTable } from './known-fields.js';
import { readResponseFormat } from './response-format.js';

const MAX_TOP_LOGPROBS = 20;
const MAX_METADATA = 16;
const NOT_HERE = 'it is not part of this server';

/** Fields of `POST /v1/chat/completions`. */
export const CHAT_FIELDS: FieldTable = {
  served: new Set([
    ...COMMON_SERVED,
    'add_generation_prompt',
    'chat_template_kwargs',
    'continue_final_message',
    'logprobs',
    'max_completion_tokens',
    'messages',
    'metadata',
    'parallel_tool_calls',
    'response_format',
    'safety_identifier',
    'service_tier',
    'tool_choice',
    'tools',
    'top_logprobs',
  ]),
  neutral: {
    ...COMMON_NEUTRAL,
    echo: [false],
    modalities: [['text']],
    reasoning_effort: ['none'],
    store: [false],
    verbosity: ['medium'],
  },
  refused: {
    ...COMMON_REFUSED,
    audio: NOT_HERE,
    best_of: 'use n',
    chat_template: 'templates come with models and adapters, never with requests',
    function_call: "use 'tool_choice'",
    functions: "use 'tools'",
    moderation: NOT_HERE,
    prediction: NOT_HERE,
    prompt_cache_key: "use 'cache_salt'",
    prompt_cache_options: NOT_HERE,
    prompt_cache_retention: NOT_HERE,
    web_search_options: NOT_HERE,
  },
};

export interface ChatCall extends CommonCall {
  readonly chat: Chat;
  readonly tools: ToolChoice;
  /** null = what the model length leaves. */
  readonly maxTokens: number | null;
  /** The field that says so. */
  readonly maxTokensField: string;
  /** Likeliest tokens beside each; null = no log-probabilities. */
  readonly logprobs: number | null;
  /** Fields of the request that its reply repeats. */
  readonly echoed: Readonly<Record<string, unknown>>;
}

export interface ChatContext extends FieldContext {
  /** How calls are found in answers, as the operator says. */
  readonly toolCallFormat: ToolFormat | 'auto' | 'none';
}

/** Checks a body of `POST /v1/chat/completions` completely; the first failure wins. Throws as `readCommon`. */
export function readChatBody(body: unknown, context: ChatContext): ChatCall {
  const fields = readObject('body', body);
  checkFieldNames(fields, CHAT_FIELDS);
  const { maxTokens, maxTokensField } = readMaxTokens(fields);
  const common = readCommon(fields, context, maxTokens);
  const tools = readTools(fields, context.toolCallFormat);
  return {
    ...common,
    constraint: onlyOne([common.constraint, readResponseFormat(fields), tools.constraint]),
    user: common.user ?? readSafetyIdentifier(fields.safety_identifier),
    chat: readChat(fields, tools),
    tools,
    maxTokens,
    maxTokensField,
    logprobs: readLogprobs(fields),
    echoed: { ...readServiceTier(fields.service_tier), ...readMetadata(fields.metadata) },
  };
}

/** The smaller of both bounds holds. */
function readMaxTokens(fields: JsonObject): Pick<ChatCall, 'maxTokens' | 'maxTokensField'> {
  const newer = readIntegerIn('max_completion_tokens', fields.max_completion_tokens, 1, MAX_TOKENS);
  const older = readIntegerIn('max_tokens', fields.max_tokens, 1, MAX_TOKENS);
  if (older !== null && (newer === null || older < newer)) return { maxTokens: older, maxTokensField: 'max_tokens' };
  return { maxTokens: newer, maxTokensField: 'max_completion_tokens' };
}

function onlyOne(constraints: readonly (FieldConstraint | null)[]): FieldConstraint | null {
  const [first = null, second] = constraints.filter((each) => each !== null);
  if (second === undefined) return first;
  throw severalConstraints(second.path);
}

function readChat(fields: JsonObject, { use, shown }: ToolChoice): Chat {
  const messages = readMessages(fields.messages);
  const continueFinalMessage = readBoolean('continue_final_message', fields.continue_final_message, false);
  const addGenerationPrompt = readBoolean('add_generation_prompt', fields.add_generation_prompt, true);
  if (continueFinalMessage && addGenerationPrompt && !isAbsent(fields.add_generation_prompt)) {
    const message = "'continue_final_message' goes without 'add_generation_prompt': set one of them to false";
    throw new FieldError('invalid_value', 'continue_final_message', message);
  }
  const kwargs = isAbsent(fields.chat_template_kwargs)
    ? {}
    : readObject('chat_template_kwargs', fields.chat_template_kwargs);
  return {
    messages,
    tools: shown,
    toolFormat: use.kind === 'auto' ? use.format : null,
    addGenerationPrompt: addGenerationPrompt && !continueFinalMessage,
    continueFinalMessage,
    kwargs: JSON.parse(JSON.stringify(kwargs, plainBigInts)),
  };
}

function readLogprobs(fields: JsonObject): number | null {
  const wanted = readBoolean('logprobs', fields.logprobs, false);
  const top = readIntegerIn('top_logprobs', fields.top_logprobs, 0, MAX_TOP_LOGPROBS);
  if (wanted) return top ?? 0;
  if (top === null || top === 0) return null;
  throw new FieldError('invalid_value', 'top_logprobs', "'top_logprobs' goes with 'logprobs': true only");
}

function readSafetyIdentifier(value: unknown): string | null {
  const identifier = readOptionalString('safety_identifier', value);
  if (identifier === null || identifier.length <= 64) return identifier;
  throw wrongValue('safety_identifier', 'at most 64 characters', value);
}

function readServiceTier(value: unknown): object {
  const tier = readOptionalString('service_tier', value);
  if (tier === null) return {};
  if (tier === 'auto' || tier === 'default') return { service_tier: 'default' };
  const message = "'service_tier' is supported with the value auto or default only: leave it out";
  throw new FieldError('unsupported_parameter', 'service_tier', message);
}

function readMetadata(value: unknown): object {
  if (isAbsent(value)) return {};
  const entries = Object.entries(readObject('metadata', value));
  if (entries.length > MAX_METADATA) throw wrongValue('metadata', `an object of at most ${MAX_METADATA} pairs`, value);
  for (const [key, item] of entries) {
    if (key.length > 64) throw wrongValue('metadata', 'an object with keys of at most 64 characters', key);
    const text = readString(`metadata.${key}`, item);
    if (text.length > 512) throw wrongValue(`metadata.${key}`, 'at most 512 characters', text);
  }
  return { metadata: Object.fromEntries(entries) };
}
