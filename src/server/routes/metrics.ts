import type { FastifyInstance } from 'fastify';
import type { Metrics } from '../../metrics/metrics.js';

/** `GET /metrics`: Prometheus text, or LoRAX's JSON form when `Accept` asks for JSON. */
export function registerMetrics(app: FastifyInstance, metrics: Metrics): void {
  app.get('/metrics', { config: { access: 'metrics' } }, async (request, reply) => {
    if (request.headers.accept?.includes('application/json') === true) return metrics.renderJson();
    return reply.type(metrics.contentType).send(await metrics.render());
  });
}
