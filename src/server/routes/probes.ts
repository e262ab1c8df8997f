import type { FastifyInstance, FastifyReply } from 'fastify';
import type { Health } from '../health.js';

/** Probes ask for no key: what polls them has none. */
const OPEN = { config: { access: 'open' } } as const;

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
  app.get('/livez', OPEN, (_request, reply) => answer(reply, health.alive()));
  app.get('/startupz', OPEN, (_request, reply) => answer(reply, health.started()));
  app.get<{ Querystring: { verbose?: string } }>('/readyz', OPEN, (request, reply) => {
    if (request.query.verbose === undefined) return answer(reply, health.ready());
    return reply.code(health.ready() ? 200 : 503).send({ ready: health.ready(), checks: health.checks() });
  });
  app.get('/health', OPEN, (_request, reply) => answerHealth(reply, health));
  app.get('/ping', OPEN, (_request, reply) => answerHealth(reply, health));
  app.get('/version', { config: { access: 'key' } }, () => ({ version }));
}
