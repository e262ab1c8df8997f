import type { FastifyInstance } from 'fastify';
import type { Metrics } from '../../metrics/metrics.js';
import { METRICS, ROUTER_METRICS } from '../schemas/operations.js';

/**
 * `GET /metrics`: Prometheus text, or LoRAX's JSON form when `Accept` asks for JSON; and `GET /metrics/router`, the few
 * families that gateways poll many times a second.
 */
export function registerMetrics(app: FastifyInstance, metrics: Metrics): void {
  app.get('/metrics', { config: { access: 'metrics', doc: METRICS } }, async (request, reply) => {
    if (request.headers.accept?.includes('application/json') === true) return metrics.renderJson();
    return reply.type(metrics.contentType).send(await metrics.render());
  });
  app.get('/metrics/router', { config: { access: 'metrics', doc: ROUTER_METRICS } }, async (_request, reply) =>
    reply.type(metrics.contentType).send(await metrics.renderForRouter()),
  );
}
