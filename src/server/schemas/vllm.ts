import {
  ADAPTER_NAME,
  BOOLEAN,
  described,
  type JsonSchema,
  json,
  nullable,
  object,
  type RouteDoc,
  ref,
  STRING,
  TEXT_TYPE,
} from './route-doc.js';

const FIELDS = { message: STRING, type: STRING, param: nullable(STRING), code: { type: 'integer' } };

/** Shared by vLLM's routes: its own errors, in both of its forms at once, and those of every route below `/v1`. */
export const VLLM_COMPONENTS: Readonly<Record<string, JsonSchema>> = {
  VllmError: {
    anyOf: [object({ error: object(FIELDS), object: { const: 'error' }, ...FIELDS }), ref('OpenAiError')],
  },
};

/** Fields of `POST /v1/load_lora_adapter`, by name. */
export const LOAD_LORA: Readonly<Record<string, JsonSchema>> = {
  lora_name: ADAPTER_NAME,
  lora_path: described('A directory of this machine, or a repository of the hub', { type: 'string', minLength: 1 }),
  load_inplace: described('The name may move to other files', nullable(BOOLEAN)),
  base_model_name: described('A name of the base, or empty', nullable(STRING)),
  is_3d_lora_weight: { enum: [false, null] },
  lora_int_id: { type: 'null' },
};

const COMMON = { tag: 'vllm', errors: [404, 499, 500, 503], errorSchema: 'VllmError' } as const;
const DONE = { [TEXT_TYPE]: STRING };

export const LOAD_LORA_ADAPTER: RouteDoc = {
  ...COMMON,
  id: 'load_lora_adapter',
  summary: 'Load an adapter, as vLLM does; with --vllm-lora-api only',
  body: json(object(LOAD_LORA, ['lora_name', 'lora_path'])),
  replies: { 200: { text: 'loaded', content: DONE } },
};

export const UNLOAD_LORA_ADAPTER: RouteDoc = {
  ...COMMON,
  id: 'unload_lora_adapter',
  summary: 'Unload an adapter, as vLLM does; with --vllm-lora-api only',
  body: json(object({ lora_name: { type: 'string', minLength: 1 }, lora_int_id: { type: 'null' } }, ['lora_name'])),
  replies: { 200: { text: 'unloaded', content: DONE } },
};
