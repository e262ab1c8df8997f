import { type ErrorCode, LoramuxError } from '../../core/errors.js';

/** An error as LoRAX clients read it. */
export interface LoraxError {
  readonly status: number;
  readonly error: string;
  readonly error_type: string;
}

type Shape = Omit<LoraxError, 'error'> & { readonly text: (message: string) => string };

const VALIDATION: Shape = {
  status: 422,
  error_type: 'validation',
  text: (message) => `Input validation error: ${message}`,
};
const GENERATION: Shape = {
  status: 424,
  error_type: 'generation',
  text: (message) => `Request failed during generation: Server error: ${message}`,
};

/** Codes whose answer is not a failed generation, which is what LoRAX makes of everything else. */
const SHAPES: Partial<Record<ErrorCode, Shape>> = {
  ERR_VALIDATION: VALIDATION,
  ERR_PROMPT_TOO_LONG: VALIDATION,
  ERR_TEMPLATE: VALIDATION,
  ERR_TEMPLATE_MISSING: VALIDATION,
  ERR_TOKENIZER: { ...VALIDATION, text: (message) => `Input validation error: tokenizer error ${message}` },
  ERR_BAD_REQUEST: { status: 400, error_type: 'validation', text: (message) => message },
  ERR_UNAUTHORIZED: { status: 401, error_type: 'authentication', text: (message) => message },
  ERR_FORBIDDEN: { status: 403, error_type: 'permission', text: (message) => message },
  ERR_QUEUE_FULL: { status: 429, error_type: 'overloaded', text: () => 'Model is overloaded' },
  ERR_DRAINING: {
    status: 503,
    error_type: 'overloaded',
    text: () => 'Server is shutting down: send the request to another replica',
  },
  ERR_DEADLINE: { status: 504, error_type: 'timeout', text: (message) => message },
  ERR_ABORTED: { status: 499, error_type: 'incomplete_generation', text: (message) => message },
};

/** Translates any failure of a LoRAX route. Unexpected exceptions keep their text to themselves. */
export function toLoraxError(thrown: unknown): LoraxError {
  if (!(thrown instanceof LoramuxError)) return { status: 500, error: 'Internal error', error_type: 'internal' };
  const { status, error_type, text } = SHAPES[thrown.code] ?? GENERATION;
  return { status, error: text(thrown.message), error_type };
}

/** The reply body. */
export function errorBody({ error, error_type }: LoraxError): string {
  return JSON.stringify({ error, error_type });
}
