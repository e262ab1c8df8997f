import { MAX_MEMBERS } from '../../core/composition.js';
import { CHAT_FIELDS } from '../openai/chat-body.js';
import { COMPLETION_FIELDS } from '../openai/completion-body.js';
import type { FieldTable } from '../openai/known-fields.js';
import {
  ADAPTER_NAME,
  array,
  BOOLEAN,
  COUNT,
  DIGEST,
  described,
  eventsOf,
  type JsonSchema,
  json,
  NUMBER,
  nullable,
  object,
  type RouteDoc,
  ref,
  STRING,
} from './route-doc.js';

const TEXT = { type: 'string', minLength: 1 } as const;
const between = (minimum: number, maximum: number): JsonSchema => ({ type: 'number', minimum, maximum });
const integer = (minimum: number, maximum: number): JsonSchema => ({ type: 'integer', minimum, maximum });
const IDS = described('Token ids below the vocabulary size', array(COUNT));
const MAX_INT32 = 2 ** 31 - 1;
const SCHEMA: JsonSchema = { anyOf: [{ type: 'object' }, described('The same as text', STRING)] };
const CHOICES = array(TEXT, { minItems: 1, maxItems: 1_024 });

const STRUCTURED = described(
  'Exactly one of the kinds',
  object(
    {
      json: nullable(SCHEMA),
      regex: nullable(TEXT),
      choice: nullable(CHOICES),
      grammar: nullable(TEXT),
      json_object: nullable(BOOLEAN),
      disable_any_whitespace: { enum: [false, null] },
      disable_additional_properties: { enum: [false, null] },
      disable_fallback: { enum: [false, null] },
      whitespace_pattern: { type: 'null' },
      structural_tag: { type: 'null' },
    },
    [],
  ),
);

/** Fields of every route that generates, by name; null is as if a field were not there. */
const COMMON: Readonly<Record<string, JsonSchema>> = {
  adapter_source: described('What adapter names mean; others than local as --request-sources says', {
    enum: ['local', 'hub', 's3'],
    default: 'local',
  }),
  adapters: described(
    'The sum of these adapters, each times its weight, with a `model` that names the base',
    array(object({ id: ADAPTER_NAME, weight: nullable({ ...NUMBER, default: 1 }) }, ['id']), {
      minItems: 1,
      maxItems: MAX_MEMBERS,
    }),
  ),
  add_special_tokens: BOOLEAN,
  api_token: described('Of private repositories, with `adapter_source` hub', { type: 'string' }),
  cache_salt: { type: 'string', pattern: '^[^@/\\\\\\0]{1,128}$' },
  frequency_penalty: between(-2, 2),
  guided_choice: CHOICES,
  guided_grammar: TEXT,
  guided_json: SCHEMA,
  guided_regex: TEXT,
  ignore_eos: BOOLEAN,
  ignore_eos_token: described('The same as `ignore_eos`', BOOLEAN),
  include_stop_str_in_output: BOOLEAN,
  logit_bias: described('Amounts by token id', {
    type: 'object',
    propertyNames: { pattern: '^\\d{1,10}$' },
    additionalProperties: between(-100, 100),
    maxProperties: 1_024,
  }),
  max_tokens: integer(0, MAX_INT32),
  min_p: between(0, 1),
  min_tokens: described('At most `max_tokens`', integer(0, MAX_INT32)),
  n: described('At most --max-choices', { type: 'integer', minimum: 1 }),
  presence_penalty: between(-2, 2),
  repetition_penalty: { type: 'number', exclusiveMinimum: 0 },
  request_id: { type: 'string', pattern: '^[A-Za-z0-9_.-]{1,128}$' },
  return_token_ids: BOOLEAN,
  return_tokens_as_token_ids: BOOLEAN,
  seed: described('64 bits, signed or unsigned', { type: 'integer' }),
  skip_special_tokens: BOOLEAN,
  stop: { anyOf: [TEXT, array(TEXT, { maxItems: 16 })] },
  stop_token_ids: { ...IDS, maxItems: 256 },
  stream: BOOLEAN,
  stream_options: described(
    'With `"stream": true` only',
    object(
      {
        include_usage: nullable(BOOLEAN),
        continuous_usage_stats: nullable(BOOLEAN),
        include_obfuscation: { enum: [false, null] },
      },
      [],
    ),
  ),
  structured_outputs: STRUCTURED,
  temperature: between(0, 2),
  top_k: integer(-1, MAX_INT32),
  top_p: between(0, 1),
  truncate_prompt_tokens: described('Less than the model length; -1: what leaves room for the answer', {
    anyOf: [{ const: -1 }, { type: 'integer', minimum: 1 }],
  }),
  truncation_side: { enum: ['left', 'right'] },
  typical_p: { type: 'number', exclusiveMinimum: 0, maximum: 1 },
  user: STRING,
};

/** The schemas of a table's fields: of served ones from `served`; of others what the table says. All may be null. */
function fieldsOf(table: FieldTable, served: Readonly<Record<string, JsonSchema>>): Record<string, JsonSchema> {
  const fields: Record<string, JsonSchema> = {};
  for (const [name, schema] of Object.entries(served)) fields[name] = nullable(schema);
  for (const [name, values] of Object.entries(table.neutral)) fields[name] = { enum: [...values, null] };
  for (const [name, advice] of Object.entries(table.refused)) {
    fields[name] = described(`Not supported: ${advice}`, { type: 'null' });
  }
  return fields;
}

const MODEL = described('The base, an adapter or alias, `base:adapter`, or `name@sha256:…`', STRING);
const PROMPT: JsonSchema = {
  anyOf: [
    TEXT,
    array(TEXT, { minItems: 1, maxItems: 128 }),
    { ...IDS, minItems: 1 },
    array({ ...IDS, minItems: 1 }, { minItems: 1, maxItems: 128 }),
  ],
};

/** Fields of `POST /v1/completions`, by name. */
export const COMPLETION: Readonly<Record<string, JsonSchema>> = {
  ...fieldsOf(COMPLETION_FIELDS, {
    ...COMMON,
    best_of: described('0, or from `n` to the larger of it and --max-best-of', COUNT),
    echo: BOOLEAN,
    logprobs: integer(0, 20),
  }),
  model: MODEL,
  prompt: PROMPT,
};

const PART = object({ type: { const: 'text' }, text: STRING });
const CALL = object({
  id: STRING,
  type: { const: 'function' },
  function: object({ name: STRING, arguments: described('JSON text', STRING) }),
});
const MESSAGE = object(
  {
    role: { enum: ['system', 'developer', 'user', 'assistant', 'tool'] },
    content: { anyOf: [STRING, array(PART), { type: 'null' }] },
    name: STRING,
    tool_calls: array({ type: 'object' }),
    tool_call_id: STRING,
    parsed: described("Added by OpenAI's packages to replies that are sent back: what `content` holds", {}),
  },
  ['role'],
);

/** Fields of `POST /v1/chat/completions`, by name. */
const CHAT: Readonly<Record<string, JsonSchema>> = {
  ...fieldsOf(CHAT_FIELDS, {
    ...COMMON,
    add_generation_prompt: BOOLEAN,
    chat_template_kwargs: { type: 'object' },
    continue_final_message: BOOLEAN,
    logprobs: BOOLEAN,
    max_completion_tokens: integer(1, MAX_INT32),
    max_tokens: integer(1, MAX_INT32),
    metadata: { type: 'object', additionalProperties: STRING, maxProperties: 16 },
    parallel_tool_calls: BOOLEAN,
    response_format: described('`type` is text, json_object or json_schema', { type: 'object' }),
    safety_identifier: { type: 'string', maxLength: 64 },
    service_tier: { enum: ['auto', 'default'] },
    tool_choice: { anyOf: [{ enum: ['none', 'auto', 'required'] }, { type: 'object' }] },
    tools: array({ type: 'object' }, { minItems: 1, maxItems: 128 }),
    top_logprobs: described('With `"logprobs": true` only', integer(0, 20)),
  }),
  model: MODEL,
  messages: array(MESSAGE, { minItems: 1 }),
};

const FINISH = nullable({ enum: ['stop', 'length'] });
const LOGPROBS = object({
  tokens: array(STRING),
  token_logprobs: array(nullable(NUMBER)),
  top_logprobs: array(nullable({ type: 'object', additionalProperties: NUMBER })),
  text_offset: array(COUNT),
});
const CHOICE = object(
  {
    index: COUNT,
    text: STRING,
    logprobs: nullable(LOGPROBS),
    finish_reason: FINISH,
    stop_reason: { type: ['string', 'integer', 'null'] },
    prompt_token_ids: array(COUNT),
    token_ids: array(COUNT),
  },
  ['index', 'text', 'logprobs', 'finish_reason', 'stop_reason'],
);
const CHAT_CHOICE = object(
  {
    index: COUNT,
    message: object(
      {
        role: { const: 'assistant' },
        content: nullable(STRING),
        refusal: { type: 'null' },
        tool_calls: array(CALL),
      },
      ['role', 'content'],
    ),
    logprobs: nullable({ type: 'object' }),
    finish_reason: nullable({ enum: ['stop', 'length', 'tool_calls'] }),
    stop_reason: { type: ['string', 'integer', 'null'] },
    prompt_token_ids: array(COUNT),
    token_ids: array(COUNT),
  },
  ['index', 'message', 'logprobs', 'finish_reason', 'stop_reason'],
);
const DETAILS = object({
  adapter: STRING,
  digest: nullable(STRING),
  tier: nullable(STRING),
  queue_ms: NUMBER,
  ttft_ms: NUMBER,
});
const CARD = object(
  {
    id: STRING,
    object: { const: 'model' },
    created: COUNT,
    owned_by: STRING,
    root: STRING,
    parent: nullable(STRING),
    max_model_len: COUNT,
    permission: array({}, { maxItems: 0 }),
    loramux: object({
      digest: nullable(DIGEST),
      tier: STRING,
      state: STRING,
      rank: nullable(COUNT),
      bytes: COUNT,
    }),
  },
  ['id', 'object', 'created', 'owned_by', 'root', 'parent', 'permission'],
);

/** Shared by the routes below `/v1`. */
export const OPENAI_COMPONENTS: Readonly<Record<string, JsonSchema>> = {
  OpenAiError: object({
    error: object({ message: STRING, type: STRING, param: nullable(STRING), code: STRING }),
  }),
  Usage: object(
    {
      prompt_tokens: COUNT,
      completion_tokens: COUNT,
      total_tokens: COUNT,
      prompt_tokens_details: object({ cached_tokens: COUNT }),
    },
    ['prompt_tokens', 'completion_tokens', 'total_tokens'],
  ),
  Model: CARD,
  ChatRequest: object(CHAT, ['model', 'messages']),
  Chat: object(
    {
      id: STRING,
      object: { const: 'chat.completion' },
      created: COUNT,
      model: STRING,
      system_fingerprint: STRING,
      choices: array(CHAT_CHOICE),
      usage: ref('Usage'),
      service_tier: STRING,
      metadata: { type: 'object' },
      loramux: DETAILS,
    },
    ['id', 'object', 'created', 'model', 'choices', 'usage'],
  ),
  CompletionRequest: object(COMPLETION, ['model', 'prompt']),
  Completion: object(
    {
      id: STRING,
      object: { const: 'text_completion' },
      created: COUNT,
      model: STRING,
      system_fingerprint: STRING,
      choices: array(CHOICE),
      usage: ref('Usage'),
      loramux: DETAILS,
    },
    ['id', 'object', 'created', 'model', 'choices', 'usage'],
  ),
};

export const COMPLETIONS: RouteDoc = {
  id: 'completions',
  tag: 'openai',
  summary: "OpenAI's completions",
  body: json(ref('CompletionRequest')),
  replies: {
    200: {
      text: 'the completion, or with `"stream": true` its chunks',
      content: {
        ...json(ref('Completion')),
        ...eventsOf('Data of each event: a chunk, OpenAiError, or [DONE] as the last'),
      },
    },
  },
  errors: [404, 429, 499, 500, 503, 504],
  errorSchema: 'OpenAiError',
};

export const CHATS: RouteDoc = {
  id: 'chatCompletions',
  tag: 'openai',
  summary: "OpenAI's chat completions",
  body: json(ref('ChatRequest')),
  replies: {
    200: {
      text: 'the completion, or with `"stream": true` its chunks',
      content: {
        ...json(ref('Chat')),
        ...eventsOf('Data of each event: a chunk, OpenAiError, or [DONE] as the last'),
      },
    },
  },
  errors: [404, 429, 499, 500, 503, 504],
  errorSchema: 'OpenAiError',
};

export const STREAM: RouteDoc = {
  id: 'stream',
  tag: 'openai',
  summary: 'A WebSocket of the protocol loramux.v1 for many generations at once',
  replies: { 101: { text: 'the connection is a WebSocket from here on' } },
  errors: [400, 426, 503],
  errorSchema: 'OpenAiError',
};

export const MODELS: RouteDoc = {
  id: 'models',
  tag: 'openai',
  summary: 'The base, the adapters and their aliases, as far as the key may use them',
  replies: {
    200: { text: 'the list', content: json(object({ object: { const: 'list' }, data: array(ref('Model')) })) },
  },
  errors: [500],
  errorSchema: 'OpenAiError',
};

export const MODEL_BY_ID: RouteDoc = {
  id: 'model',
  tag: 'openai',
  summary: 'One model',
  params: { id: described('It may hold a slash', STRING) },
  replies: { 200: { text: 'the model', content: json(ref('Model')) } },
  errors: [400, 403, 404, 500],
  errorSchema: 'OpenAiError',
};
