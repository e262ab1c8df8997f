import { MAX_MEMBERS } from '../../core/composition.js';
import {
  ADAPTER_NAME,
  array,
  BOOLEAN,
  COUNT,
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
const NAME: JsonSchema = { anyOf: [ADAPTER_NAME, { enum: ['', '__base__', '__base_model__'] }] };
const above = (exclusiveMinimum: number): JsonSchema => ({ type: 'number', exclusiveMinimum });
const integer = (minimum: number, maximum: number): JsonSchema => ({ type: 'integer', minimum, maximum });

/** The largest double below 2^64: JSON Schema knows no other numbers. */
const MAX_SEED = 2 ** 64 - 2_048;

const MERGED = object(
  {
    ids: array(ADAPTER_NAME, { minItems: 1, maxItems: MAX_MEMBERS }),
    weights: described('One for each of `ids`', array(NUMBER, { minItems: 1, maxItems: MAX_MEMBERS })),
    merge_strategy: nullable({
      enum: [
        ...['linear', 'ties', 'dare_linear', 'dare_ties'],
        ...['peft_linear', 'peft_ties', 'peft_dare_linear', 'peft_dare_ties', 'peft_cat'],
      ],
      default: 'linear',
    }),
    density: described('For strategies that prune: at least 0, with peft_… above 0 and at most 1', nullable(NUMBER)),
    majority_sign_method: nullable({ enum: ['total', 'frequency'], default: 'total' }),
  },
  ['ids', 'weights'],
);

/** `parameters` of a generate call, by name. Rules between fields are told in words. */
export const PARAMETERS: Readonly<Record<string, JsonSchema>> = {
  adapter_id: nullable(NAME),
  adapter_source: described('What adapter names mean; others than local as --request-sources says', {
    enum: ['local', 'hub', 's3', null],
    default: 'local',
  }),
  api_token: described('Of private repositories, with `adapter_source` hub', nullable(STRING)),
  adapter_names: described('One for each of a list of `inputs`; instead of `adapter_id`', nullable(array(NAME))),
  adapters: described(
    'The sum of these adapters, each times its weight; instead of `adapter_id`',
    nullable(
      array(object({ id: ADAPTER_NAME, weight: nullable({ ...NUMBER, default: 1 }) }, ['id']), {
        minItems: 1,
        maxItems: MAX_MEMBERS,
      }),
    ),
  ),
  merged_adapters: described('These adapters, merged; instead of `adapter_id`', nullable(MERGED)),
  apply_chat_template: described('Not supported', { enum: [false, null] }),
  best_of: described('At most --max-best-of; above 1 with sampling only, and not with a seed', nullable(COUNT)),
  decoder_input_details: described('Not when streaming', { ...BOOLEAN, default: false }),
  details: { ...BOOLEAN, default: false },
  do_sample: { ...BOOLEAN, default: false },
  frequency_penalty: nullable({ type: 'number', minimum: -2, maximum: 2 }),
  ignore_eos_token: { ...BOOLEAN, default: false },
  max_new_tokens: described('Without it: up to the model length', nullable(integer(1, 2 ** 32 - 1))),
  presence_penalty: nullable({ type: 'number', minimum: -2, maximum: 2 }),
  repetition_penalty: nullable(above(0)),
  response_format: nullable(
    object(
      {
        type: { enum: ['text', 'Text', 'json_object', 'JsonObject', 'json_schema', 'JsonSchema'] },
        schema: described('A JSON Schema; not with text', { type: ['object', 'null'] }),
      },
      ['type'],
    ),
  ),
  return_full_text: nullable({ ...BOOLEAN, default: false }),
  return_k_alternatives: nullable(integer(1, 128)),
  seed: described('Unsigned, 64 bits; as text where numbers lose digits', {
    anyOf: [integer(0, MAX_SEED), { type: 'string', pattern: '^\\d{1,19}$' }, { type: 'null' }],
  }),
  stop: array(TEXT, { maxItems: 10 }),
  temperature: nullable({ type: 'number', minimum: 0 }),
  top_k: nullable(integer(1, 2 ** 31 - 1)),
  top_p: nullable({ type: 'number', exclusiveMinimum: 0, maximum: 1 }),
  truncate: described('Less than the model length', nullable(integer(1, 2 ** 32 - 1))),
  typical_p: nullable({ type: 'number', exclusiveMinimum: 0, exclusiveMaximum: 1 }),
  watermark: described('Not supported', { enum: [false, null] }),
};

const BODY = object(
  {
    inputs: { anyOf: [TEXT, array(TEXT, { minItems: 1, maxItems: 256 })] },
    parameters: object(PARAMETERS, []),
    stream: nullable(BOOLEAN),
  },
  ['inputs'],
);

const FINISH = { enum: ['length', 'eos_token', 'stop_sequence'] } as const;
const SEED = nullable({ type: 'integer', minimum: 0 });
const CANDIDATE = { id: COUNT, text: STRING, logprob: nullable(NUMBER) };
const TOKEN = object(
  { ...CANDIDATE, special: BOOLEAN, alternative_tokens: array(object(CANDIDATE)), skipped: BOOLEAN },
  ['id', 'text', 'logprob', 'special', 'skipped'],
);
const LISTS = { prefill: array(object(CANDIDATE)), tokens: array(TOKEN) };
const SERVED_BY = object({ name: STRING, digest: nullable(STRING), tier: nullable(STRING) });
const LOSER = object({ generated_text: STRING, finish_reason: FINISH, generated_tokens: COUNT, seed: SEED, ...LISTS });
const COUNTS = { finish_reason: FINISH, prompt_tokens: COUNT, generated_tokens: COUNT };
const DETAILS = object(
  { ...COUNTS, skipped_tokens: COUNT, seed: SEED, ...LISTS, best_of_sequences: array(LOSER), adapter: SERVED_BY },
  [...Object.keys(COUNTS), 'skipped_tokens', 'seed', ...Object.keys(LISTS)],
);
const ANSWER = object({ generated_text: STRING, details: DETAILS }, ['generated_text']);
const EVENT = object({
  token: TOKEN,
  generated_text: nullable(STRING),
  details: nullable(object({ ...COUNTS, seed: SEED, adapter: SERVED_BY }, [...Object.keys(COUNTS), 'seed'])),
});

/** Shared by the LoRAX routes. */
export const LORAX_COMPONENTS: Readonly<Record<string, JsonSchema>> = {
  LoraxError: object({ error: STRING, error_type: STRING }),
  GenerateRequest: BODY,
  GenerateResponse: ANSWER,
  StreamResponse: EVENT,
};

const GENERATING = {
  tag: 'generation',
  body: json(ref('GenerateRequest')),
  errors: [422, 424, 429, 499, 500, 503, 504],
} as const;
const ANSWERS = array(ref('GenerateResponse'));
const EVENTS = eventsOf('Data of each event: StreamResponse, or LoraxError as the last');

export const GENERATE: RouteDoc = {
  ...GENERATING,
  id: 'generate',
  summary: 'One answer, or with `adapter_names` a list of answers',
  replies: { 200: { text: 'the answer', content: json({ anyOf: [ref('GenerateResponse'), ANSWERS] }) } },
};
export const GENERATE_STREAM: RouteDoc = {
  ...GENERATING,
  id: 'generate_stream',
  summary: 'One answer as server-sent events',
  replies: { 200: { text: 'an event for each token', content: EVENTS } },
};
/** `POST /` and `POST /invocations`. */
export function eitherDoc(id: string): RouteDoc {
  const replies = { 200: { text: 'a list of answers, or events', content: { ...json(ANSWERS), ...EVENTS } } };
  return { ...GENERATING, id, summary: 'As generate or, with `"stream": true`, generate_stream', replies };
}

/** Fields of a tokenize call. */
export const TOKENIZE_FIELDS: Readonly<Record<string, JsonSchema>> = {
  inputs: STRING,
  add_special_tokens: nullable({ ...BOOLEAN, default: true }),
};
const PLACE = described('In Unicode scalar values; start and stop are 0 for what the tokenizer added', COUNT);
export const TOKENIZE: RouteDoc = {
  id: 'tokenize',
  tag: 'generation',
  summary: "The tokens of a text under the base's tokenizer, and where they lie in it",
  body: json(object(TOKENIZE_FIELDS, ['inputs'])),
  replies: {
    200: {
      text: 'the tokens in order, as the vocabulary spells them',
      content: json(array(object({ id: COUNT, text: STRING, start: PLACE, stop: PLACE }))),
    },
  },
  errors: [422, 503],
};

export const STARTUP: RouteDoc = {
  id: 'startup',
  tag: 'operations',
  summary: 'Generates one token',
  replies: { 200: { text: 'it works' } },
  errors: [500],
};

const LIMITS = ['max_concurrent_requests', 'max_best_of', 'max_stop_sequences', 'max_input_length', 'max_total_tokens'];
const FIXED = ['waiting_served_ratio', 'max_batch_total_tokens', 'max_waiting_tokens', 'validation_workers'];
export const INFO: RouteDoc = {
  id: 'info',
  tag: 'operations',
  summary: 'The model and its limits, in the fields of LoRAX; which precision, and why',
  replies: {
    200: {
      text: 'the facts',
      content: json(
        object({
          ...Object.fromEntries(
            [
              'model_id',
              'model_dtype',
              'model_device_type',
              'model_pipeline_tag',
              'version',
              'precision',
              'precision_reason',
            ].map((name) => [name, STRING]),
          ),
          ...Object.fromEntries([...LIMITS, ...FIXED].map((name) => [name, COUNT])),
          ...Object.fromEntries(
            ['model_sha', 'sha', 'docker_label', 'request_logger_url'].map((name) => [name, { type: 'null' }]),
          ),
          eager_prefill: BOOLEAN,
        }),
      ),
    },
  },
  errors: [],
};
