import { randomBytes } from 'node:crypto';
import { Metadata, type ServerUnaryCall, type ServerWritableStream, type ServiceError } from '@grpc/grpc-js';
import type { FastifyBaseLogger } from 'fastify';
import { type KeyRing, requireScope } from '../../auth/key-ring.js';
import type { Scope } from '../../auth/scopes.js';
import { ANYONE, type Caller } from '../../core/caller.js';
import { LoramuxError } from '../../core/errors.js';
import { logFields, type RequestEndListener } from '../plugins/request-end.js';
import { newFacts, type RequestFacts } from '../request-facts.js';
import { toServiceError } from './status.js';

/** One call: who makes it, under which id, and what becomes of it. */
export interface CallScope {
  /** `/loramux.v1.Generation/Generate`: label of metrics and logs. */
  readonly route: string;
  readonly requestId: string;
  readonly caller: Caller;
  readonly facts: RequestFacts;
}

/** What all calls have in common. */
export interface CallDeps {
  /** null = everything is open to everyone. */
  readonly keys: KeyRing | null;
  readonly logger: FastifyBaseLogger;
  readonly onEnd: RequestEndListener;
  /** The base model's name, for the log. */
  readonly model: string;
}

type Call = ServerUnaryCall<unknown, unknown> | ServerWritableStream<unknown, unknown>;

const REQUEST_ID = /^[\w.:-]{1,128}$/;
/** HTTP statuses of gRPC's, for the metric of requests that all surfaces share. Source: google/rpc/code.proto. */
const HTTP_STATUS = [200, 499, 500, 400, 504, 404, 400, 403, 429, 422, 409, 400, 501, 500, 503, 500, 401];

/**
 * Runs one call: asks for the key's scope, sends the request's id, and settles the call with what `work` comes to.
 * Writes one `request.end` line and tells the metrics.
 */
export async function inScope(
  call: Call,
  access: Scope,
  deps: CallDeps,
  work: (scope: CallScope) => Promise<void>,
): Promise<ServiceError | null> {
  const given = call.metadata.get('x-request-id')[0];
  const requestId = typeof given === 'string' && REQUEST_ID.test(given) ? given : randomBytes(8).toString('hex');
  const facts = newFacts();
  const route = call.getPath();
  let caller: Caller = ANYONE;
  let failure: ServiceError | null = null;
  try {
    const initial = new Metadata();
    initial.set('x-request-id', requestId);
    call.sendMetadata(initial);
    caller = callerOf(call, access, deps.keys);
    await work({ route, requestId, caller, facts });
  } catch (thrown) {
    facts.code = thrown instanceof LoramuxError ? thrown.code : null;
    failure = toServiceError(thrown);
    if (!(thrown instanceof LoramuxError)) deps.logger.error({ err: thrown, req_id: requestId }, 'call failed');
  }
  const seconds = (performance.now() - facts.arrivedMs) / 1_000;
  const end = { route, status: call.cancelled ? 499 : (HTTP_STATUS[failure?.code ?? 0] ?? 500), seconds, facts };
  deps.onEnd(end);
  deps.logger.info(
    {
      req_id: requestId,
      ...logFields(end, deps.model, 'grpc'),
      key: caller.name ?? undefined,
      client_ip: call.getPeer(),
    },
    'request end',
  );
  return failure;
}

function callerOf(call: Call, access: Scope, keys: KeyRing | null): Caller {
  if (keys === null) return ANYONE;
  const [authorization] = call.metadata.get('authorization');
  const holder = keys.authenticate(typeof authorization === 'string' ? authorization : undefined);
  requireScope(holder, access);
  return holder.caller;
}
