import type { Constraint } from '../../core/constraint.js';
import {
  invalidField,
  type JsonObject,
  readBoolean,
  readInteger,
  readNumber,
  readStrings,
  readUint64,
} from '../fields.js';
import { readResponseFormat } from './response-format.js';

/** Stop strings of one request. */
export const MAX_STOP_SEQUENCES = 10;
/** Alternatives reported beside one token. */
export const MAX_ALTERNATIVES = 128;

const MAX_INT32 = 2 ** 31 - 1;
const MAX_UINT32 = 2 ** 32 - 1;

/** `parameters` of a generate call as far as they shape one generation; null = not given. */
export interface GenerateParameters {
  readonly bestOf: number | null;
  readonly doSample: boolean;
  readonly temperature: number | null;
  readonly topK: number | null;
  readonly topP: number | null;
  readonly typicalP: number | null;
  readonly repetitionPenalty: number | null;
  readonly frequencyPenalty: number | null;
  readonly presencePenalty: number | null;
  readonly seed: bigint | null;
  readonly stop: readonly string[];
  readonly maxNewTokens: number | null;
  readonly ignoreEosToken: boolean;
  readonly details: boolean;
  readonly decoderInputDetails: boolean;
  /** `return_k_alternatives`. */
  readonly alternatives: number | null;
  readonly returnFullText: boolean;
  readonly truncate: number | null;
  readonly constraint: Constraint | null;
}

/** Reads the fields by their types only. Throws ERR_VALIDATION. */
export function readParameters(fields: JsonObject): GenerateParameters {
  return {
    bestOf: readInteger('best_of', fields.best_of, MAX_UINT32),
    doSample: readBoolean('do_sample', fields.do_sample, false),
    temperature: readNumber('temperature', fields.temperature),
    topK: readInteger('top_k', fields.top_k, MAX_INT32),
    topP: readNumber('top_p', fields.top_p),
    typicalP: readNumber('typical_p', fields.typical_p),
    repetitionPenalty: readNumber('repetition_penalty', fields.repetition_penalty),
    frequencyPenalty: readNumber('frequency_penalty', fields.frequency_penalty),
    presencePenalty: readNumber('presence_penalty', fields.presence_penalty),
    seed: readUint64('seed', fields.seed),
    stop: fields.stop === undefined ? [] : readStrings('stop', fields.stop),
    maxNewTokens: readInteger('max_new_tokens', fields.max_new_tokens, MAX_UINT32),
    ignoreEosToken: readBoolean('ignore_eos_token', fields.ignore_eos_token, false),
    details: readBoolean('details', fields.details, false),
    decoderInputDetails: readBoolean('decoder_input_details', fields.decoder_input_details, false),
    alternatives: readInteger('return_k_alternatives', fields.return_k_alternatives, MAX_INT32),
    returnFullText:
      fields.return_full_text === null ? false : readBoolean('return_full_text', fields.return_full_text, false),
    truncate: readInteger('truncate', fields.truncate, MAX_UINT32),
    constraint: readResponseFormat(fields.response_format),
  };
}

/** Which of LoRAX's rules apply to a call. */
export interface CallRules {
  readonly streaming: boolean;
  readonly maxBestOf: number;
}

/** LoRAX's first checks, which its routes make before all others. */
export function checkRoute({ bestOf, decoderInputDetails }: GenerateParameters, rules: CallRules): void {
  const { streaming, maxBestOf } = rules;
  if (bestOf !== null && (streaming ? bestOf !== 1 : bestOf < 0 || bestOf > maxBestOf)) {
    if (streaming) throw invalidField('best_of', '`best_of` != 1 is not supported when streaming tokens');
    if (maxBestOf === 1) throw invalidField('best_of', '`best_of` != 1 is not allowed for this endpoint');
    throw invalidField('best_of', `\`best_of\` must be > 0 and <= ${maxBestOf}. Given: ${bestOf}`);
  }
  if (streaming && decoderInputDetails) {
    throw invalidField(
      'decoder_input_details',
      '`decoder_input_details` == true is not supported when streaming tokens',
    );
  }
}

/** One bound: the field, whether it is broken, and LoRAX's message. */
type Bound = readonly [field: string, broken: boolean, message: string];

/** Every bound of LoRAX in its order; the first that is broken is thrown. */
export function checkBounds(parameters: GenerateParameters): void {
  const broken = boundsOf(parameters).find(([, isBroken]) => isBroken);
  if (broken !== undefined) throw invalidField(broken[0], broken[2]);
}

function boundsOf(parameters: GenerateParameters): readonly Bound[] {
  const { temperature, repetitionPenalty, topP, topK, typicalP, maxNewTokens, stop, alternatives } = parameters;
  const { frequencyPenalty, presencePenalty } = parameters;
  const manyRuns = (parameters.bestOf ?? 1) > 1;
  const sampled = parameters.doSample || temperature !== null || topK !== null || topP !== null || typicalP !== null;
  return [
    ['best_of', manyRuns && !sampled, 'you must use sampling when `best_of` is > 1'],
    ['temperature', (temperature ?? 0) < 0, '`temperature` must be non-negative'],
    ['repetition_penalty', (repetitionPenalty ?? 1) <= 0, '`repetition_penalty` must be strictly positive'],
    ['frequency_penalty', Math.abs(frequencyPenalty ?? 0) > 2, '`frequency_penalty` must be >= -2.0 and <= 2.0'],
    ['presence_penalty', Math.abs(presencePenalty ?? 0) > 2, '`presence_penalty` must be >= -2.0 and <= 2.0'],
    ['top_p', topP !== null && (topP <= 0 || topP > 1), '`top_p` must be > 0.0 and < 1.0'],
    ['typical_p', typicalP !== null && (typicalP <= 0 || typicalP >= 1), '`typical_p` must be > 0.0 and < 1.0'],
    ['top_k', (topK ?? 1) <= 0, '`top_k` must be strictly positive'],
    ['return_k_alternatives', (alternatives ?? 1) <= 0, '`return_k_alternatives` must be strictly positive'],
    [
      'return_k_alternatives',
      (alternatives ?? 1) > MAX_ALTERNATIVES,
      `\`return_k_alternatives\` must be <= ${MAX_ALTERNATIVES}. Given: ${alternatives}`,
    ],
    ['max_new_tokens', (maxNewTokens ?? 1) <= 0, '`max_new_tokens` must be strictly positive'],
    [
      'stop',
      stop.length > MAX_STOP_SEQUENCES,
      `\`stop\` supports up to ${MAX_STOP_SEQUENCES} stop sequences. Given: ${stop.length}`,
    ],
    ['stop', stop.includes(''), '`stop` must not hold an empty string'],
    ['seed', manyRuns && parameters.seed !== null, '`seed` must not be set when `best_of` > 1'],
  ];
}
