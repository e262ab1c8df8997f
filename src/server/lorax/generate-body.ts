import { invalidField, type JsonObject, readBoolean, readObject, readString, readStrings } from '../fields.js';
import { readAdapterChoice, refuseSeveralChoices } from './adapter-choice.js';
import type { AdapterChoice } from './adapter-members.js';
import { type AdapterOrigin, type RequestSource, readAdapterName, readOrigin } from './adapter-origin.js';
import { type CallRules, checkBounds, checkRoute, type GenerateParameters, readParameters } from './parameters.js';
import { refuseUnknownFields } from './unsupported.js';

/** Prompts of one call with `adapter_names`. */
export const MAX_INPUTS = 256;

const BODY_FIELDS: ReadonlySet<string> = new Set(['inputs', 'parameters', 'stream']);
/** Fields of `parameters` that act. */
export const PARAMETER_FIELDS: ReadonlySet<string> = new Set([
  'adapter_id',
  'adapter_names',
  'adapter_source',
  'adapters',
  'api_token',
  'best_of',
  'decoder_input_details',
  'details',
  'do_sample',
  'frequency_penalty',
  'ignore_eos_token',
  'max_new_tokens',
  'merged_adapters',
  'presence_penalty',
  'repetition_penalty',
  'response_format',
  'return_full_text',
  'return_k_alternatives',
  'seed',
  'stop',
  'temperature',
  'top_k',
  'top_p',
  'truncate',
  'typical_p',
]);

/** A prompt and the adapters it is for. */
export interface Prompt extends AdapterChoice {
  readonly text: string;
}

export interface GenerateCall {
  readonly streaming: boolean;
  readonly prompts: readonly Prompt[];
  /** `adapter_names` was used: the reply is a list. */
  readonly list: boolean;
  readonly origin: AdapterOrigin;
  readonly parameters: GenerateParameters;
}

/** Which route the body came to, and what this server allows. */
export interface BodyContext extends Pick<CallRules, 'maxBestOf'> {
  /** What the route does; null where `stream` of the body decides. */
  readonly streaming: boolean | null;
  readonly requestSources: readonly RequestSource[];
  /** Longest prompt in tokens, for the message about `truncate`. */
  readonly maxInputLength: number;
}

/**
 * Checks a LoRAX GenerateRequest completely: the types of all fields, then LoRAX's rules in its order and with its
 * messages (first failure wins). Throws ERR_VALIDATION naming the field.
 */
export function parseGenerateBody(body: unknown, context: BodyContext): GenerateCall {
  const object = readObject('body', body);
  refuseUnknownFields(object, BODY_FIELDS, '');
  const streaming = readStreamFlag(object.stream, context.streaming);
  const fields = object.parameters === undefined ? {} : readObject('parameters', object.parameters);
  refuseUnknownFields(fields, PARAMETER_FIELDS, 'parameters');
  const origin = readOrigin(fields, context.requestSources);
  const parameters = readParameters(fields);
  const inputs = readInputs(object.inputs, fields, streaming);
  checkRoute(parameters, { streaming, maxBestOf: context.maxBestOf });
  refuseSeveralChoices(fields);
  const choice = readAdapterChoice(fields, origin);
  checkBounds(parameters);
  const prompts = 'names' in inputs ? pair(inputs, origin) : [readPrompt('inputs', inputs.text, choice)];
  if (parameters.truncate !== null && (parameters.truncate < 1 || parameters.truncate > context.maxInputLength)) {
    throw invalidField(
      'truncate',
      `\`truncate\` must be strictly positive and less than ${context.maxInputLength}. Given: ${parameters.truncate}`,
    );
  }
  return { streaming, prompts, list: 'names' in inputs, origin, parameters };
}

/** Where the route itself says what happens, `stream` may only say the same. */
function readStreamFlag(value: unknown, streaming: boolean | null): boolean {
  if (streaming === null) return readBoolean('stream', value, false);
  if (value === undefined || value === null || value === streaming) return streaming;
  const route = streaming ? '/generate' : '/generate_stream';
  throw invalidField('stream', `\`stream\` must be ${streaming} on this route: use ${route} instead`);
}

/** `inputs` by its type: one text, or with `adapter_names` a list of them. */
type Inputs = { readonly text: string } | { readonly texts: readonly string[]; readonly names: readonly string[] };

function readInputs(inputs: unknown, fields: JsonObject, streaming: boolean): Inputs {
  const names = fields.adapter_names;
  if (names !== undefined && names !== null) {
    refuseSeveralChoices(fields);
    if (streaming) throw invalidField('adapter_names', '`adapter_names` is not supported when streaming tokens');
    return { texts: readStrings('inputs', inputs), names: readStrings('adapter_names', names) };
  }
  if (Array.isArray(inputs)) {
    throw invalidField('inputs', 'a list of `inputs` needs `parameters.adapter_names` with one name for each');
  }
  return { text: readString('inputs', inputs) };
}

function pair({ texts, names }: Extract<Inputs, { names: unknown }>, origin: AdapterOrigin): readonly Prompt[] {
  if (texts.length !== names.length) {
    throw invalidField(
      'adapter_names',
      `number of \`adapter_names\` must match number of \`inputs\`. Given: ${names.length} and ${texts.length}`,
    );
  }
  if (texts.length === 0) throw invalidField('inputs', '`inputs` cannot be empty');
  if (texts.length > MAX_INPUTS) {
    throw invalidField('inputs', `\`inputs\` supports up to ${MAX_INPUTS} prompts. Given: ${texts.length}`);
  }
  return texts.map((text, at) =>
    readPrompt(`inputs[${at}]`, text, { adapter: readAdapterName(`adapter_names[${at}]`, names[at] ?? '', origin) }),
  );
}

function readPrompt(field: string, text: string, choice: AdapterChoice): Prompt {
  if (text === '') throw invalidField(field, `\`${field}\` cannot be empty`);
  return { text, ...choice };
}
