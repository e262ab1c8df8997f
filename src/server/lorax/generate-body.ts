import {
  invalidField,
  type JsonObject,
  readBoolean,
  readInteger,
  readNumber,
  readObject,
  readOptionalString,
  readString,
  readStrings,
  readUint64,
} from '../fields.js';
import { readAdapterChoice, refuseSeveralChoices } from './adapter-choice.js';
import { type AdapterChoice, readAdapterName } from './adapter-members.js';
import { refuseUnknownFields } from './unsupported.js';

/** Stop strings of one request. */
export const MAX_STOP_SEQUENCES = 10;
/** Prompts of one call with `adapter_names`. */
export const MAX_INPUTS = 256;

const MAX_INT32 = 2 ** 31 - 1;
const MAX_UINT32 = 2 ** 32 - 1;

const BODY_FIELDS: ReadonlySet<string> = new Set(['inputs', 'parameters', 'stream']);
const PARAMETER_FIELDS: ReadonlySet<string> = new Set([
  'adapter_id',
  'adapter_names',
  'adapter_source',
  'adapters',
  'details',
  'do_sample',
  'ignore_eos_token',
  'max_new_tokens',
  'merged_adapters',
  'repetition_penalty',
  'return_full_text',
  'seed',
  'stop',
  'temperature',
  'top_k',
  'top_p',
  'truncate',
]);

/** `parameters` of a generate call, checked; null = not given. */
export interface GenerateParameters {
  readonly doSample: boolean;
  readonly temperature: number | null;
  readonly topK: number | null;
  readonly topP: number | null;
  readonly repetitionPenalty: number | null;
  readonly seed: bigint | null;
  readonly stop: readonly string[];
  readonly maxNewTokens: number | null;
  readonly ignoreEosToken: boolean;
  readonly details: boolean;
  readonly returnFullText: boolean;
  readonly truncate: number | null;
}

/** A prompt and the adapters it is for. */
export interface Prompt extends AdapterChoice {
  readonly text: string;
}

export interface GenerateCall {
  readonly streaming: boolean;
  readonly prompts: readonly Prompt[];
  /** `adapter_names` was used: the reply is a list. */
  readonly list: boolean;
  readonly parameters: GenerateParameters;
}

/** Which route the body came to. */
export interface BodyContext {
  /** What the route does; null where `stream` of the body decides. */
  readonly streaming: boolean | null;
  /** Longest prompt in tokens, for the message about `truncate`. */
  readonly maxInputLength: number;
}

/**
 * Checks a LoRAX GenerateRequest completely, in LoRAX's order and with its messages (first failure wins). Throws
 * ERR_VALIDATION naming the field.
 */
export function parseGenerateBody(body: unknown, context: BodyContext): GenerateCall {
  const object = readObject('body', body);
  refuseUnknownFields(object, BODY_FIELDS, '');
  const streaming = readStreamFlag(object.stream, context.streaming);
  const fields = object.parameters === undefined ? {} : readObject('parameters', object.parameters);
  refuseUnknownFields(fields, PARAMETER_FIELDS, 'parameters');
  refuseForeignSource(fields.adapter_source);
  refuseSeveralChoices(fields);
  const choice = readAdapterChoice(fields);
  const parameters = readParameters(fields);
  const prompts = readPrompts(object.inputs, fields, choice, streaming);
  if (parameters.truncate !== null && (parameters.truncate < 1 || parameters.truncate > context.maxInputLength)) {
    throw invalidField(
      'truncate',
      `\`truncate\` must be strictly positive and less than ${context.maxInputLength}. Given: ${parameters.truncate}`,
    );
  }
  return { streaming, prompts, list: Array.isArray(object.inputs), parameters };
}

/** Where the route itself says what happens, `stream` may only say the same. */
function readStreamFlag(value: unknown, streaming: boolean | null): boolean {
  if (streaming === null) return readBoolean('stream', value, false);
  if (value === undefined || value === null || value === streaming) return streaming;
  const route = streaming ? '/generate' : '/generate_stream';
  throw invalidField('stream', `\`stream\` must be ${streaming} on this route: use ${route} instead`);
}

function refuseForeignSource(value: unknown): void {
  const source = readOptionalString('adapter_source', value);
  if (source === null || source.toLowerCase() === 'local') return;
  throw invalidField(
    'adapter_source',
    `\`adapter_source\` must be local or null: adapters from elsewhere are not supported by this server`,
  );
}

function readParameters(fields: JsonObject): GenerateParameters {
  const parameters = {
    doSample: readBoolean('do_sample', fields.do_sample, false),
    temperature: readNumber('temperature', fields.temperature),
    topK: readInteger('top_k', fields.top_k, MAX_INT32),
    topP: readNumber('top_p', fields.top_p),
    repetitionPenalty: readNumber('repetition_penalty', fields.repetition_penalty),
    seed: readUint64('seed', fields.seed),
    stop: fields.stop === undefined ? [] : readStrings('stop', fields.stop),
    maxNewTokens: readInteger('max_new_tokens', fields.max_new_tokens, MAX_UINT32),
    ignoreEosToken: readBoolean('ignore_eos_token', fields.ignore_eos_token, false),
    details: readBoolean('details', fields.details, false),
    returnFullText:
      fields.return_full_text === null ? false : readBoolean('return_full_text', fields.return_full_text, false),
    truncate: readInteger('truncate', fields.truncate, MAX_UINT32),
  };
  checkBounds(parameters);
  return parameters;
}

function checkBounds(parameters: GenerateParameters): void {
  const { temperature, repetitionPenalty, topP, topK, maxNewTokens, stop } = parameters;
  if (temperature !== null && temperature < 0) {
    throw invalidField('temperature', '`temperature` must be non-negative');
  }
  if (repetitionPenalty !== null && repetitionPenalty <= 0) {
    throw invalidField('repetition_penalty', '`repetition_penalty` must be strictly positive');
  }
  if (topP !== null && (topP <= 0 || topP > 1)) {
    throw invalidField('top_p', '`top_p` must be > 0.0 and < 1.0');
  }
  if (topK !== null && topK <= 0) throw invalidField('top_k', '`top_k` must be strictly positive');
  if (maxNewTokens !== null && maxNewTokens <= 0)
    throw invalidField('max_new_tokens', '`max_new_tokens` must be strictly positive');
  if (stop.length > MAX_STOP_SEQUENCES) {
    throw invalidField('stop', `\`stop\` supports up to ${MAX_STOP_SEQUENCES} stop sequences. Given: ${stop.length}`);
  }
  if (stop.includes('')) throw invalidField('stop', '`stop` must not hold an empty string');
}

function readPrompts(
  inputs: unknown,
  fields: JsonObject,
  choice: AdapterChoice,
  streaming: boolean,
): readonly Prompt[] {
  const names = fields.adapter_names;
  if (names !== undefined && names !== null) {
    if (streaming) throw invalidField('adapter_names', '`adapter_names` is not supported when streaming tokens');
    return pair(readStrings('inputs', inputs), readStrings('adapter_names', names));
  }
  if (Array.isArray(inputs)) {
    throw invalidField('inputs', 'a list of `inputs` needs `parameters.adapter_names` with one name for each');
  }
  return [readPrompt('inputs', readString('inputs', inputs), choice)];
}

function pair(inputs: readonly string[], names: readonly string[]): readonly Prompt[] {
  if (inputs.length !== names.length) {
    throw invalidField(
      'adapter_names',
      `number of \`adapter_names\` must match number of \`inputs\`. Given: ${names.length} and ${inputs.length}`,
    );
  }
  if (inputs.length === 0) throw invalidField('inputs', '`inputs` cannot be empty');
  if (inputs.length > MAX_INPUTS) {
    throw invalidField('inputs', `\`inputs\` supports up to ${MAX_INPUTS} prompts. Given: ${inputs.length}`);
  }
  return inputs.map((text, at) =>
    readPrompt(`inputs[${at}]`, text, { adapter: readAdapterName(`adapter_names[${at}]`, names[at] ?? '') }),
  );
}

function readPrompt(field: string, text: string, choice: AdapterChoice): Prompt {
  if (text === '') throw invalidField(field, `\`${field}\` cannot be empty`);
  return { text, ...choice };
}
