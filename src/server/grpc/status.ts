import { Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { type ErrorCode, LoramuxError } from '../../core/errors.js';
import { encodeErrorDetails } from './error-details.js';

/** The gRPC status of each code that is not INTERNAL. */
const STATUS: Partial<Record<ErrorCode, status>> = {
  ERR_VALIDATION: status.INVALID_ARGUMENT,
  ERR_BAD_REQUEST: status.INVALID_ARGUMENT,
  ERR_PROMPT_TOO_LONG: status.INVALID_ARGUMENT,
  ERR_TOKENIZER: status.INVALID_ARGUMENT,
  ERR_UNAUTHORIZED: status.UNAUTHENTICATED,
  ERR_FORBIDDEN: status.PERMISSION_DENIED,
  ERR_ADAPTER_FORBIDDEN: status.PERMISSION_DENIED,
  ERR_ADAPTER_NOT_FOUND: status.NOT_FOUND,
  ERR_ADAPTER_INVALID: status.FAILED_PRECONDITION,
  ERR_ADAPTER_TOO_LARGE: status.FAILED_PRECONDITION,
  ERR_ADAPTER_UNLOADED: status.ABORTED,
  ERR_ADAPTER_NO_SPACE: status.RESOURCE_EXHAUSTED,
  ERR_QUEUE_FULL: status.RESOURCE_EXHAUSTED,
  ERR_ADAPTER_SOURCE: status.UNAVAILABLE,
  ERR_ADAPTER_SOURCE_TIMEOUT: status.UNAVAILABLE,
  ERR_DRAINING: status.UNAVAILABLE,
  ERR_ENGINE_CLOSED: status.UNAVAILABLE,
  ERR_ABORTED: status.CANCELLED,
};

const RETRY_AFTER_MS = 1_000;

/**
 * A failure as clients of gRPC read it: status, message, and google.rpc details (ErrorInfo with our code, the field's
 * violation, when to try again). Unexpected exceptions keep their text to themselves.
 */
export function toServiceError(thrown: unknown): ServiceError {
  const error =
    thrown instanceof LoramuxError ? thrown : new LoramuxError('ERR_NATIVE', 'the server failed: see its log');
  const code = STATUS[error.code] ?? status.INTERNAL;
  const retryAfterMs = error.retryable && code !== status.CANCELLED ? RETRY_AFTER_MS : null;
  const metadata = new Metadata();
  const { message, details } = error;
  metadata.set(
    'grpc-status-details-bin',
    encodeErrorDetails({ status: code, message, reason: error.code, field: details?.field ?? null, retryAfterMs }),
  );
  if (retryAfterMs !== null) metadata.set('retry-after-ms', String(retryAfterMs));
  return Object.assign(new Error(message), { code, details: message, metadata });
}
