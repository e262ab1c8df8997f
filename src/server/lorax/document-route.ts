import type { FastifyInstance } from 'fastify';
import { OPENAPI } from '../schemas/operations.js';

/** `GET /api-doc/openapi.json`: where LoRAX has its document. */
export function registerLoraxDocument(app: FastifyInstance): void {
  app.get('/api-doc/openapi.json', { config: { doc: { ...OPENAPI, id: 'lorax_openapi' } } }, (_request, reply) =>
    reply.type('application/json').send(app.openApi()),
  );
}
