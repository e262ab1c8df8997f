import type { FastifyInstance, FastifyReply } from 'fastify';
import type { Health } from '../health.js';
import { healthDoc, LIVEZ, READYZ, STARTUPZ, VERSION } from '../schemas/operations.js';
import type { RouteDoc } from '../schemas/route-doc.js';

/** Probes ask for no key: what polls them has none. */
function open(doc: RouteDoc) {
  return { config: { access: 'open', doc } } as const;
}

function answer(reply: FastifyReply, ok: boolean): FastifyReply {
  return reply
    .code(ok ? 200 : 503)
    .type('text/plain; charset=utf-8')
    .send(ok ? 'ok\n' : 'unavailable\n');
}

/** `/health`, `/ping` and LoRAX's other names for the same: nothing but the status when all is well. */
export function answerHealth(reply: FastifyReply, health: Health): FastifyReply {
  if (health.ready()) return reply.code(200).send();
  return reply.code(503).send({ error: 'unhealthy', error_type: 'healthcheck' });
}

/** `/livez`, `/readyz` (with `?verbose`), `/startupz`, `/health`, `/ping` and `/version`: answered from cached state. */
export function registerProbes(app: FastifyInstance, health: Health, version: string): void {
  app.get('/livez', open(LIVEZ), (_request, reply) => answer(reply, health.alive()));
  app.get('/startupz', open(STARTUPZ), (_request, reply) => answer(reply, health.started()));
  app.get<{ Querystring: { verbose?: string } }>('/readyz', open(READYZ), (request, reply) => {
    if (request.query.verbose === undefined) return answer(reply, health.ready());
    return reply.code(health.ready() ? 200 : 503).send({ ready: health.ready(), checks: health.checks() });
  });
  app.get('/health', open(healthDoc('health')), (_request, reply) => answerHealth(reply, health));
  app.get('/ping', open(healthDoc('ping')), (_request, reply) => answerHealth(reply, health));
  app.get('/version', { config: { access: 'key', doc: VERSION } }, () => ({ version }));
}
