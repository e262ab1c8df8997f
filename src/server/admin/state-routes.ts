import type { FastifyInstance } from 'fastify';
import type { EngineClient } from '../../core/engine-client.js';
import type { Lifecycle } from '../lifecycle.js';
import { DRAIN, GET_STATE } from '../schemas/admin.js';

export interface StateRouteDeps {
  readonly engine: EngineClient;
  readonly lifecycle: Lifecycle;
  readonly version: string;
}

/** `GET /state` and `POST /drain`. */
export function registerStateRoutes(app: FastifyInstance, { engine, lifecycle, version }: StateRouteDeps): void {
  app.get('/state', { config: { doc: GET_STATE } }, async () => ({
    ...(await engine.admin({ op: 'state' })),
    draining: lifecycle.draining,
    version,
    node: process.version,
    model: engine.limits.modelId,
  }));

  app.post('/drain', { config: { doc: DRAIN } }, (_request, reply) => {
    lifecycle.beginDrain();
    return reply.code(202).send({ draining: true });
  });
}
