import protobuf from 'protobufjs';

/** What a failed call says beside its status. */
export interface ErrorFacts {
  /** Number of the gRPC status. */
  readonly status: number;
  readonly message: string;
  /** The stable code. */
  readonly reason: string;
  /** Path of the field that is to blame. */
  readonly field: string | null;
  readonly retryAfterMs: number | null;
}

const DOMAIN = 'loramux';

const { root } = protobuf.parse(`
  syntax = "proto3";
  package google.rpc;
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; }
  message BadRequest {
    message FieldViolation { string field = 1; string description = 2; }
    repeated FieldViolation field_violations = 1;
  }
  message Duration { int64 seconds = 1; int32 nanos = 2; }
  message RetryInfo { Duration retry_delay = 1; }
`);

function encode(type: string, fields: object): Uint8Array {
  const message = root.lookupType(`google.rpc.${type}`);
  return message.encode(message.create(fields as Record<string, unknown>)).finish();
}

function any(type: string, fields: object): { readonly typeUrl: string; readonly value: Uint8Array } {
  return { typeUrl: `type.googleapis.com/google.rpc.${type}`, value: encode(type, fields) };
}

/** A google.rpc.Status in bytes: the trailer `grpc-status-details-bin`. Source: google/rpc/error_details.proto. */
export function encodeErrorDetails({ status, message, reason, field, retryAfterMs }: ErrorFacts): Buffer {
  const details = [any('ErrorInfo', { reason, domain: DOMAIN })];
  if (field !== null) details.push(any('BadRequest', { fieldViolations: [{ field, description: message }] }));
  if (retryAfterMs !== null) {
    const retryDelay = { seconds: Math.floor(retryAfterMs / 1_000), nanos: (retryAfterMs % 1_000) * 1_000_000 };
    details.push(any('RetryInfo', { retryDelay }));
  }
  return Buffer.from(encode('Status', { code: status, message, details }));
}
