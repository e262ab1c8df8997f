import type { FastifyInstance } from 'fastify';
import type { EngineClient } from '../../core/engine-client.js';
import { FORGET_ALIAS, LIST_ALIASES, POINT_ALIAS } from '../schemas/admin.js';
import { readAliasTarget, readName } from './requests.js';

type ByName = { Params: { name: string } };

/** List, point and forget second names of adapters. */
export function registerAliasRoutes(app: FastifyInstance, engine: EngineClient): void {
  app.get('/aliases', { config: { doc: LIST_ALIASES } }, async () => engine.admin({ op: 'aliases' }));

  app.put<ByName>('/aliases/:name', { config: { doc: POINT_ALIAS } }, async (request, reply) => {
    const name = readName(request.params.name);
    const { alias, replaced } = await engine.admin({ op: 'alias', name, target: readAliasTarget(request.body) });
    return reply.code(replaced === null ? 201 : 200).send({ ...alias, ...(replaced === null ? {} : { replaced }) });
  });

  app.delete<ByName>('/aliases/:name', { config: { doc: FORGET_ALIAS } }, async (request) =>
    engine.admin({ op: 'unalias', name: readName(request.params.name) }),
  );
}
