/**
 * The one table of errors. `status` is the HTTP status on the admin surface; routes of other wire contracts
 * translate by code (see server/lorax-errors.ts). `retryable` says that the same request may succeed later.
 */
const TABLE = {
  ERR_VALIDATION: { status: 422, retryable: false },
  ERR_BAD_REQUEST: { status: 400, retryable: false },
  ERR_UNAUTHORIZED: { status: 401, retryable: false },
  ERR_FORBIDDEN: { status: 403, retryable: false },
  ERR_CONFIG: { status: 500, retryable: false },
  ERR_PROMPT_TOO_LONG: { status: 422, retryable: false },
  ERR_TEMPLATE: { status: 400, retryable: false },
  ERR_TEMPLATE_MISSING: { status: 400, retryable: false },
  ERR_QUEUE_FULL: { status: 429, retryable: true },
  ERR_DRAINING: { status: 503, retryable: true },
  ERR_DEADLINE: { status: 504, retryable: false },
  ERR_ADAPTER_NOT_FOUND: { status: 404, retryable: false },
  ERR_ADAPTER_FORBIDDEN: { status: 403, retryable: false },
  ERR_ADAPTER_INVALID: { status: 422, retryable: false },
  ERR_ADAPTER_SOURCE: { status: 502, retryable: true },
  ERR_ADAPTER_SOURCE_TIMEOUT: { status: 504, retryable: true },
  ERR_ADAPTER_TOO_LARGE: { status: 413, retryable: false },
  ERR_ADAPTER_NO_SPACE: { status: 507, retryable: true },
  ERR_ADAPTER_UNLOADED: { status: 409, retryable: true },
  ERR_MODEL_INVALID: { status: 500, retryable: false },
  ERR_MODEL_UNSUPPORTED: { status: 500, retryable: false },
  ERR_MODEL_NOT_FOUND: { status: 500, retryable: false },
  ERR_CACHE_CORRUPT: { status: 500, retryable: false },
  ERR_TOOL_MISSING: { status: 500, retryable: false },
  ERR_TOKENIZER: { status: 500, retryable: false },
  ERR_NATIVE_LOAD: { status: 500, retryable: false },
  ERR_NATIVE: { status: 500, retryable: false },
  ERR_DEVICE: { status: 500, retryable: false },
  ERR_STEP_FAILED: { status: 500, retryable: true },
  ERR_ENGINE_CLOSED: { status: 500, retryable: false },
  ERR_ENGINE_FATAL: { status: 500, retryable: false },
  ERR_ABORTED: { status: 499, retryable: true },
} as const;

export type ErrorCode = keyof typeof TABLE;

/** One thing that is wrong with an adapter: a tensor or configuration key, what was expected and what was found. */
export interface Offender {
  readonly tensor?: string;
  readonly key?: string;
  readonly expected: string;
  readonly found: string;
}

/** Structured facts beside the message; plain data, so that errors cross threads unchanged. */
export interface ErrorDetails {
  readonly offenders?: readonly Offender[];
  readonly field?: string;
  readonly file?: string;
  readonly bytes?: { readonly needed: number; readonly free: number; readonly evictable: number };
  /** Tokens of a request that is too long; `newTokens` is null when the prompt alone is. */
  readonly context?: { readonly limit: number; readonly promptTokens: number; readonly newTokens: number | null };
}

/** An error as it crosses threads and wires. */
export interface ErrorRecord {
  readonly code: ErrorCode;
  readonly message: string;
  readonly details?: ErrorDetails;
}

/**
 * Every failure this project raises on purpose. The message says what was expected, what came and what to do;
 * the code is stable.
 */
export class LoramuxError extends Error {
  override readonly name = 'LoramuxError';

  constructor(
    readonly code: ErrorCode,
    message: string,
    readonly details?: ErrorDetails,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }

  get status(): number {
    return TABLE[this.code].status;
  }

  get retryable(): boolean {
    return TABLE[this.code].retryable;
  }

  toRecord(): ErrorRecord {
    return {
      code: this.code,
      message: this.message,
      ...(this.details === undefined ? {} : { details: this.details }),
    };
  }

  static fromRecord(record: ErrorRecord): LoramuxError {
    return new LoramuxError(record.code, record.message, record.details);
  }
}

function isErrorCode(code: unknown): code is ErrorCode {
  return typeof code === 'string' && Object.hasOwn(TABLE, code);
}

/**
 * Turns anything thrown into a LoramuxError. Errors of the native addon arrive as plain `Error`s whose `code` is
 * one of ours; everything else gets `fallback`.
 */
export function toLoramuxError(thrown: unknown, fallback: ErrorCode = 'ERR_NATIVE'): LoramuxError {
  if (thrown instanceof LoramuxError) return thrown;
  if (!(thrown instanceof Error)) return new LoramuxError(fallback, String(thrown));
  const code = (thrown as { code?: unknown }).code;
  return new LoramuxError(isErrorCode(code) ? code : fallback, thrown.message, undefined, { cause: thrown });
}
