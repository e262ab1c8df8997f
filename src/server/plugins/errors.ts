import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { LoramuxError } from '../../core/errors.js';

/** A finished error reply. */
export interface ErrorReply {
  readonly status: number;
  readonly body: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** How one surface words its errors. */
export interface ErrorWording {
  /** A failure of ours, or an exception that nobody expected. */
  failure(thrown: unknown): ErrorReply;
  /** What the HTTP framework refuses: not JSON, too large, wrong type, unknown path, wrong method. */
  refusal(status: number, message: string): ErrorReply;
}

/** What is said about routes that clients know and this server does not have, by their paths. */
export type LeftOut = Readonly<Record<string, ErrorReply>>;

/** Seconds after which a refused client may try again. */
const RETRY_AFTER_S = '1';

const FRAMEWORK_MESSAGES: Readonly<Record<string, string>> = {
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'Expected request with `Content-Type: application/json`',
  FST_ERR_CTP_BODY_TOO_LARGE: 'Failed to buffer the request body: length limit exceeded',
};

function replyTo(thrown: FastifyError, wording: ErrorWording): ErrorReply {
  const status = thrown.statusCode ?? 500;
  if (thrown instanceof LoramuxError || status >= 500) return wording.failure(thrown);
  return wording.refusal(status, FRAMEWORK_MESSAGES[thrown.code] ?? thrown.message);
}

function send(reply: FastifyReply, { status, body, headers = {} }: ErrorReply): FastifyReply {
  if (status === 429 || status === 503) reply.header('retry-after', RETRY_AFTER_S);
  if (status === 401) reply.header('www-authenticate', 'Bearer');
  return reply.code(status).headers(headers).type('application/json').send(body);
}

/** Answers every failure of `app` in JSON, unknown paths among them. */
export function registerErrors(app: FastifyInstance, wording: ErrorWording, leftOut: LeftOut = {}): void {
  registerFailures(app, wording);
  app.setNotFoundHandler(({ url }, reply) => {
    const [path = ''] = url.split('?', 1);
    const known = Object.hasOwn(leftOut, path) ? leftOut[path] : undefined;
    return send(reply, known ?? wording.refusal(404, 'no such route'));
  });
}

/** Answers failures of `app`'s routes in JSON, logs those that are our fault, and notes the code for the log line. */
export function registerFailures(app: FastifyInstance, wording: ErrorWording): void {
  app.setErrorHandler((thrown: FastifyError, request: FastifyRequest, reply) => {
    if (thrown instanceof LoramuxError) request.facts.code = thrown.code;
    const answer = replyTo(thrown, wording);
    if (answer.status >= 500 && answer.status !== 503) request.log.error({ err: thrown }, 'request failed');
    return send(reply, answer);
  });
}

/** Answers 405 with `Allow` for the other methods of every route registered so far. Call it last. */
export function registerMethodNotAllowed(
  app: FastifyInstance,
  routes: ReadonlyMap<string, ReadonlySet<string>>,
  wording: ErrorWording,
): void {
  for (const [url, methods] of routes) {
    const allow = [...methods].join(', ');
    const refuse = (_request: FastifyRequest, reply: FastifyReply): FastifyReply =>
      send(reply.header('allow', allow), wording.refusal(405, `method not allowed: use ${allow}`));
    const method = ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'].filter((candidate) => !methods.has(candidate));
    // Refused before the body is looked at, which may be of any type.
    app.route({ method, url, onRequest: async (request, reply) => refuse(request, reply), handler: refuse });
  }
}
