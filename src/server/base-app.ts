import { randomBytes } from 'node:crypto';
import Fastify, { type FastifyBaseLogger, type FastifyInstance, type FastifyReply, LogController } from 'fastify';
import { parseJsonBody } from './json-body.js';
import type { Lifecycle } from './lifecycle.js';
import { type AccessByMethod, type AccessRules, registerAccess, registerCallers } from './plugins/access.js';
import { registerCors } from './plugins/cors.js';
import { type ErrorWording, type LeftOut, registerErrors } from './plugins/errors.js';
import { type RequestEndListener, registerRequestEnd } from './plugins/request-end.js';

export interface BaseAppOptions {
  readonly logger: FastifyBaseLogger;
  readonly lifecycle: Lifecycle;
  readonly wording: ErrorWording;
  /** What is said about routes that clients know and this listener does not have. */
  readonly leftOut?: LeftOut;
  /** Where it differs: wordings by the prefix of the paths that they are for. */
  readonly wordingBelow?: Readonly<Record<string, ErrorWording>>;
  readonly access: AccessRules;
  /** What routes of this listener ask for unless they say otherwise. */
  readonly accessByMethod: AccessByMethod;
  readonly onRequestEnd: RequestEndListener;
  /** How long a client may take to send a request; a minute by default. */
  readonly requestTimeoutMs?: number;
  /** Sites whose pages may read replies; `*` = all. None by default. */
  readonly corsOrigins?: readonly string[];
  /** The base model's name, for the log. */
  readonly model: string;
}

/** Largest request body. */
const BODY_LIMIT = 2 * 2 ** 20;
const REQUEST_TIMEOUT_MS = 60_000;
const REQUEST_ID = /^[\w.:-]{1,128}$/;

/** What both listeners share: JSON bodies without lost digits, JSON errors, request ids, one log line a request. */
export function createBaseApp(options: BaseAppOptions): FastifyInstance {
  const { logger, lifecycle, wording, wordingBelow = {}, onRequestEnd, model } = options;
  const { requestTimeoutMs = REQUEST_TIMEOUT_MS } = options;
  // Unlike those of the other app and of earlier runs.
  const prefix = randomBytes(4).toString('hex');
  let count = 0;
  const app = Fastify({
    loggerInstance: logger,
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'req_id' }),
    bodyLimit: BODY_LIMIT,
    requestTimeout: requestTimeoutMs,
    genReqId: ({ headers }) => {
      const given = headers['x-request-id'];
      count += 1;
      return typeof given === 'string' && REQUEST_ID.test(given) ? given : `${prefix}-${count.toString(36)}`;
    },
    // Adapter names of two parts are longer than the default.
    routerOptions: { maxParamLength: 1024 },
    // Before any route, and so before any plugin's own handlers.
    frameworkErrors: (error, { url }, reply: FastifyReply) => {
      const prefix = Object.keys(wordingBelow).find((each) => url.startsWith(`${each}/`));
      const spoken = prefix === undefined ? wording : (wordingBelow[prefix] ?? wording);
      const { status, body } = spoken.refusal(error.statusCode ?? 400, error.message);
      return reply.code(status).type('application/json').send(body);
    },
  });
  registerCallers(app);
  registerRequestEnd(app, model, onRequestEnd);
  registerCors(app, options.corsOrigins ?? []);
  registerErrors(app, wording, options.leftOut);
  registerAccess(app, options.access, options.accessByMethod);
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(/^application\/(?:[\w.-]+\+)?json\b/, { parseAs: 'buffer' }, (_request, body, done) => {
    try {
      // Clients that always name a type also name it where there is no body.
      done(null, body.length === 0 ? undefined : parseJsonBody(body as Buffer));
    } catch (thrown) {
      done(thrown as Error);
    }
  });
  app.addHook('onSend', async (_request, reply) => {
    // Connections do not outlive a drain.
    if (lifecycle.draining) reply.header('connection', 'close');
  });
  return app;
}

/** Collects the routes that `register` adds, with their methods, by their paths below the app's own prefix. */
export function routesOf(app: FastifyInstance, register: () => void): ReadonlyMap<string, ReadonlySet<string>> {
  const routes = new Map<string, Set<string>>();
  app.addHook('onRoute', ({ routePath, method }) => {
    const methods = routes.get(routePath) ?? new Set();
    for (const each of [method].flat()) methods.add(each);
    routes.set(routePath, methods);
  });
  register();
  return new Map(routes);
}
