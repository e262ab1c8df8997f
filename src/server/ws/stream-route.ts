import websocket from '@fastify/websocket';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { WebSocket } from 'ws';
import type { KeyRing } from '../../auth/key-ring.js';
import { ANYONE, type Caller } from '../../core/caller.js';
import { LoramuxError } from '../../core/errors.js';
import { authorizationOf } from '../authorization.js';
import type { Lifecycle } from '../lifecycle.js';
import { OPENAI_PREFIX } from '../openai/routes.js';
import { OPENAI_WORDING } from '../openai/wording.js';
import { registerFailures } from '../plugins/errors.js';
import { STREAM } from '../schemas/openai.js';
import { checkOrigin, checkProtocols, PROTOCOL } from './handshake.js';
import { Session, type SessionDeps, type SessionLimits } from './session.js';

export const STREAM_LIMITS: SessionLimits = {
  maxStreams: 64,
  maxMessageBytes: 2 ** 20,
  idleMs: 5 * 60_000,
  slowConsumerMs: 30_000,
  pingMs: 20_000,
  highWaterBytes: 256 * 2 ** 10,
  maxHeldCharacters: 2 ** 20,
};

export interface StreamRouteDeps extends Omit<SessionDeps, 'logger' | 'caller' | 'route'> {
  readonly lifecycle: Lifecycle;
  readonly keys: KeyRing | null;
  /** Sites whose pages may connect, beside the server's own. */
  readonly origins: readonly string[];
  /** Takes what tells how many sockets are open. */
  readonly watch: (count: () => { readonly connections: number; readonly streams: number }) => void;
}

const PATH = '/stream';

/** `GET /v1/stream`: a WebSocket of the protocol `loramux.v1`. Refusals before the upgrade are plain HTTP. */
export function registerStream(app: FastifyInstance, deps: StreamRouteDeps): void {
  void app.register((v1) => streamPlugin(v1, deps), { prefix: OPENAI_PREFIX });
}

async function streamPlugin(app: FastifyInstance, deps: StreamRouteDeps): Promise<void> {
  const { lifecycle, keys, origins, limits } = deps;
  registerFailures(app, OPENAI_WORDING);
  const sessions = new Set<Session>();
  deps.watch(() => {
    let streams = 0;
    for (const session of sessions) streams += session.openStreams;
    return { connections: sessions.size, streams };
  });
  lifecycle.onDrain(() => {
    for (const session of sessions) session.drain();
  });
  await app.register(websocket, {
    errorHandler: onSocketError,
    options: {
      maxPayload: limits.maxMessageBytes,
      perMessageDeflate: false,
      handleProtocols: (offered) => (offered.has(PROTOCOL) ? PROTOCOL : false),
    },
  });
  // A handshake refused before the plugin sees it, as without a key, would keep its connection for ever.
  app.addHook('onResponse', async ({ headers, facts, raw }) => {
    if (headers.upgrade !== undefined && !facts.upgraded) raw.socket.destroySoon();
  });
  app.route({
    method: 'GET',
    url: PATH,
    config: { access: 'infer', doc: STREAM },
    preValidation: async ({ headers }) => {
      checkProtocols(headers);
      checkOrigin(headers, origins);
      if (lifecycle.draining) throw new LoramuxError('ERR_DRAINING', 'the server is draining: connect to another');
    },
    handler: async (_request, reply: FastifyReply) => {
      reply.header('upgrade', 'websocket').code(426);
      return {
        error: {
          message: 'expected a WebSocket handshake',
          type: 'invalid_request_error',
          param: null,
          code: 'upgrade_required',
        },
      };
    },
    wsHandler: (socket, request: FastifyRequest) => {
      const authorization = authorizationOf(request.headers);
      const caller = (): Caller => keys?.authenticate(authorization).caller ?? ANYONE;
      request.facts.upgraded = true;
      const route = `GET ${request.routeOptions.url ?? PATH}`;
      const session = new Session(socket, { ...deps, logger: request.log, caller, route });
      sessions.add(session);
      socket.on('close', () => sessions.delete(session));
    },
  });
}

/** Codes of frames that break the protocol, and of connections that break. */
const CLIENT_FAULT = /^(?:WS_ERR_\w+|E[A-Z]+)$/;

/** What a client or the way to it does wrong is no error of the server's; all else is, and ends the socket. */
function onSocketError(error: Error & { readonly code?: unknown }, socket: WebSocket, request: FastifyRequest): void {
  if (typeof error.code === 'string' && CLIENT_FAULT.test(error.code)) {
    request.log.info({ code: error.code }, 'socket failed');
    return;
  }
  request.log.error(error, 'socket failed');
  socket.terminate();
}
