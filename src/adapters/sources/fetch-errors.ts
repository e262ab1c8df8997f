import { LoramuxError } from '../../core/errors.js';

/** One try of a step failed for a reason that lies with the source or the way to it. */
export class AttemptFailure extends Error {
  constructor(
    message: string,
    readonly kind: 'failed' | 'timeout',
    /** Another try may fare better. */
    readonly mayPass: boolean,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** Codes of sockets, resolvers, Node's HTTP parser (`HPE_`) and its fetch (`UND_ERR_`) that say nothing final. */
const PASSING =
  /^(?:ECONN(?:RESET|REFUSED|ABORTED)|EPIPE|ETIMEDOUT|EAI_AGAIN|E(?:NET|HOST)UNREACH|HPE_\w+|UND_ERR_\w+)$/;
const TIMEOUTS = /TIMEDOUT|TIMEOUT/;

interface Coded {
  readonly code?: unknown;
  readonly cause?: unknown;
  readonly message?: unknown;
}

/** The failure behind anything that a client library threw; errors of this project pass unchanged. */
export function failureOf(thrown: unknown): AttemptFailure | LoramuxError {
  if (thrown instanceof AttemptFailure || thrown instanceof LoramuxError) return thrown;
  const { code, cause, message } = (typeof thrown === 'object' && thrown !== null ? thrown : {}) as Coded;
  if (typeof code === 'string' && PASSING.test(code)) {
    return new AttemptFailure(wordsFor(code), TIMEOUTS.test(code) ? 'timeout' : 'failed', true, { cause: thrown });
  }
  if (cause !== undefined && cause !== null) return failureOf(cause);
  // Node's fetch ends a body that was cut off with this one word.
  if (message === 'terminated') return new AttemptFailure('the connection was cut', 'failed', true, { cause: thrown });
  const words = typeof code === 'string' ? code : typeof message === 'string' ? withoutUrls(message) : String(thrown);
  return new AttemptFailure(words, 'failed', false, { cause: thrown });
}

/** Addresses in foreign messages may be signed. */
function withoutUrls(message: string): string {
  return message.replace(/\bhttps?:\/\/\S+/g, '(address)');
}

function wordsFor(code: string): string {
  if (code === 'ECONNRESET' || code === 'EPIPE' || code === 'UND_ERR_SOCKET') return 'the connection was cut';
  if (code.startsWith('HPE_')) return 'the reply is malformed';
  return code;
}

/** What an HTTP status that is no success means for the try. */
export function statusFailure(status: number): AttemptFailure {
  const mayPass = status >= 500 || status === 408 || status === 425 || status === 429;
  const kind = status === 408 || status === 504 ? 'timeout' : 'failed';
  const advice = status === 401 || status === 403 ? ': give a token that may read it' : '';
  return new AttemptFailure(`it answered ${status}${advice}`, kind, mayPass);
}

/** ERR_ADAPTER_SOURCE or ERR_ADAPTER_SOURCE_TIMEOUT for a source that failed for good; `label` holds no secret. */
export function sourceFailure(label: string, { kind, message }: AttemptFailure, cause?: unknown): LoramuxError {
  const code = kind === 'timeout' ? 'ERR_ADAPTER_SOURCE_TIMEOUT' : 'ERR_ADAPTER_SOURCE';
  return new LoramuxError(
    code,
    `${label} could not be fetched: ${message}; check the source and load again`,
    { file: label },
    { cause },
  );
}

/** ERR_ADAPTER_NOT_FOUND: the source answers, but has no adapter there. */
export function noAdapterAt(label: string, missing: string): LoramuxError {
  return new LoramuxError(
    'ERR_ADAPTER_NOT_FOUND',
    `${label}: expected an adapter with ${missing}, found none: check the address and the revision`,
    { file: label },
  );
}

/** ERR_ADAPTER_TOO_LARGE. */
export function tooLarge(label: string, maxBytes: number): LoramuxError {
  return new LoramuxError(
    'ERR_ADAPTER_TOO_LARGE',
    `${label}: expected at most ${maxBytes} bytes, found more: raise --max-adapter-size or --adapter-disk if it is meant to be so large`,
    { file: label },
  );
}
