import { type ErrorCode, LoramuxError } from '../../core/errors.js';

/** An error as OpenAI's clients read it. */
export interface OpenAiError {
  readonly status: number;
  readonly type: string;
  readonly code: string;
  readonly message: string;
  /** Dotted path of the field that is to blame; null when none is. */
  readonly param: string | null;
  /** The same request may succeed later. */
  readonly retryable: boolean;
}

/** What is wrong with a field of a request. */
export type FieldFault =
  | 'unknown_parameter'
  | 'unsupported_parameter'
  | 'unsupported_content'
  | 'missing_required_parameter'
  | 'invalid_type'
  | 'invalid_value';

/** A request's field is refused: always a 400, with the field's path. */
export class FieldError extends LoramuxError {
  constructor(
    readonly fault: FieldFault,
    readonly param: string,
    message: string,
  ) {
    super('ERR_VALIDATION', message, { field: param });
  }
}

type Shape = Pick<OpenAiError, 'status' | 'type' | 'code'>;

const INVALID = 'invalid_request_error';
const MODEL_NOT_FOUND: Shape = { status: 404, type: INVALID, code: 'model_not_found' };
const ADAPTER_INVALID: Shape = { status: 400, type: INVALID, code: 'adapter_invalid' };
const ADAPTER_UNAVAILABLE: Shape = { status: 503, type: 'server_error', code: 'adapter_unavailable' };
const INVALID_VALUE: Shape = { status: 400, type: INVALID, code: 'invalid_value' };

/** Codes whose answer is not a failure of the engine. */
const SHAPES: Partial<Record<ErrorCode, Shape>> = {
  ERR_VALIDATION: INVALID_VALUE,
  ERR_TOKENIZER: INVALID_VALUE,
  ERR_BAD_REQUEST: { status: 400, type: INVALID, code: 'invalid_json' },
  ERR_TEMPLATE: INVALID_VALUE,
  ERR_TEMPLATE_MISSING: { status: 400, type: INVALID, code: 'template_missing' },
  ERR_PROMPT_TOO_LONG: { status: 400, type: INVALID, code: 'context_length_exceeded' },
  ERR_UNAUTHORIZED: { status: 401, type: 'authentication_error', code: 'invalid_api_key' },
  ERR_FORBIDDEN: { status: 403, type: 'permission_error', code: 'not_allowed' },
  ERR_ADAPTER_NOT_FOUND: MODEL_NOT_FOUND,
  ERR_ADAPTER_UNLOADED: MODEL_NOT_FOUND,
  ERR_ADAPTER_INVALID: ADAPTER_INVALID,
  ERR_ADAPTER_FORBIDDEN: ADAPTER_INVALID,
  ERR_ADAPTER_TOO_LARGE: ADAPTER_INVALID,
  ERR_ADAPTER_SOURCE: ADAPTER_UNAVAILABLE,
  ERR_ADAPTER_SOURCE_TIMEOUT: ADAPTER_UNAVAILABLE,
  ERR_ADAPTER_NO_SPACE: ADAPTER_UNAVAILABLE,
  ERR_QUEUE_FULL: { status: 429, type: 'rate_limit_error', code: 'queue_full' },
  ERR_DRAINING: { status: 503, type: 'server_error', code: 'draining' },
  ERR_DEADLINE: { status: 504, type: 'server_error', code: 'deadline_exceeded' },
  ERR_ABORTED: { status: 499, type: INVALID, code: 'aborted' },
};
const ENGINE_FAILED: Shape = { status: 500, type: 'server_error', code: 'engine_failed' };

/** What the HTTP framework refuses, by status. */
const REFUSALS: Readonly<Record<number, string>> = {
  404: 'unknown_url',
  405: 'method_not_allowed',
  413: 'request_too_large',
  415: 'unsupported_media_type',
};

/** Translates any failure of an OpenAI route. Unexpected exceptions keep their text to themselves. */
export function toOpenAiError(thrown: unknown): OpenAiError {
  if (!(thrown instanceof LoramuxError)) {
    const message = 'The server failed to answer: see its log for the reason';
    return { status: 500, type: 'server_error', code: 'internal_error', message, param: null, retryable: false };
  }
  const shape = SHAPES[thrown.code] ?? ENGINE_FAILED;
  const code = codeOf(thrown, shape);
  // A model that is being unloaded is not going to come back by itself.
  const retryable = shape.status >= 429 && thrown.retryable;
  return { ...shape, code, message: messageOf(thrown), param: paramOf(thrown, shape), retryable };
}

function codeOf(thrown: LoramuxError, { code }: Shape): string {
  if (thrown instanceof FieldError) return thrown.fault;
  const field = thrown.details?.field;
  if (thrown.code === 'ERR_FORBIDDEN' && field === 'adapter') return 'model_not_allowed';
  // A template that takes no tools is no wrong value of the request's.
  return thrown.code === 'ERR_TEMPLATE' && field === 'tools' ? 'unsupported_parameter' : code;
}

/** Agents and proxies look for the phrase `maximum context length is N tokens`. */
function messageOf({ code, message, details }: LoramuxError): string {
  const context = details?.context;
  if (code !== 'ERR_PROMPT_TOO_LONG' || context === undefined) return message;
  const { limit, promptTokens, newTokens } = context;
  const asked = newTokens === null ? '' : ` and ${newTokens} for the completion`;
  return `This model's maximum context length is ${limit} tokens. You asked for ${promptTokens} in the prompt${asked}: shorten one of them`;
}

function paramOf({ details }: LoramuxError, { code }: Shape): string | null {
  if (code === 'model_not_found' || code === 'adapter_invalid') return 'model';
  // A key that may not use the route at all is refused for no field.
  if (details?.field === 'adapter') return 'model';
  return details?.field ?? null;
}

/** What the HTTP framework refuses: unknown path, wrong method, too large, wrong type, malformed. */
export function refusalError(status: number, message: string): OpenAiError {
  return { status, type: INVALID, code: REFUSALS[status] ?? 'invalid_request', message, param: null, retryable: false };
}

/** A route of OpenAI's that this server does not have. */
export function leftOutError(message: string): OpenAiError {
  return { ...refusalError(404, message), code: 'unsupported_endpoint' };
}

/** The reply body, also the data of an error event. */
export function errorBody({ message, type, param, code }: OpenAiError): string {
  return JSON.stringify({ error: { message, type, param, code } });
}

const RETRY_AFTER_MS = 1_000;

/** What OpenAI's clients go by when they retry: without these they repeat every 429 and 5xx twice. */
export function retryHeaders({ status, retryable }: OpenAiError): Record<string, string> {
  if (!retryable) return status >= 500 ? { 'x-should-retry': 'false' } : {};
  return { 'retry-after': String(RETRY_AFTER_MS / 1_000), 'retry-after-ms': String(RETRY_AFTER_MS) };
}
