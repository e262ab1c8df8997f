import { LoramuxError } from '../../core/errors.js';
import { retryHeaders, toOpenAiError } from '../openai/errors.js';

/** Why a stream ended that did not fail in the engine. */
export type StreamEnd = 'cancelled' | 'slow_consumer' | 'deadline_exceeded' | 'draining';

/** An `error` message's object. */
export interface StreamError {
  readonly message: string;
  readonly type: string;
  readonly param: string | null;
  readonly code: string;
  readonly status: number;
  readonly retry_after_ms?: number;
}

const ENDS: Readonly<Record<StreamEnd, Pick<StreamError, 'message' | 'type' | 'status'>>> = {
  cancelled: { message: 'the client cancelled it', type: 'invalid_request_error', status: 499 },
  slow_consumer: {
    message: 'the client left too much unread: read faster, or ask for less at a time',
    type: 'invalid_request_error',
    status: 499,
  },
  deadline_exceeded: { message: 'deadline_ms passed before the end', type: 'server_error', status: 504 },
  draining: { message: 'the server is going down: open a stream at another', type: 'server_error', status: 503 },
};

export function endError(end: StreamEnd): StreamError {
  return { ...ENDS[end], param: null, code: end };
}

/** A mistake in the socket's own protocol. */
export function protocolError(code: string, status: number, message: string, param: string | null = null): StreamError {
  return { message, type: status === 429 ? 'rate_limit_error' : 'invalid_request_error', param, code, status };
}

/** Any failure of a stream, in the words of OpenAI's routes. */
export function failureError(thrown: unknown): StreamError {
  const failure = toOpenAiError(thrown);
  const { message, type, param, code, status } = failure;
  const slow = thrown instanceof LoramuxError && thrown.code === 'ERR_ABORTED';
  if (slow) return endError('slow_consumer');
  const after = Number(retryHeaders(failure)['retry-after-ms']);
  return { message, type, param, code, status, ...(Number.isNaN(after) ? {} : { retry_after_ms: after }) };
}
