import type { FastifyInstance } from 'fastify';
import type { EngineClient } from '../../core/engine-client.js';
import { LoramuxError } from '../../core/errors.js';
import type { JsonObject } from '../fields.js';
import type { Lifecycle } from '../lifecycle.js';
import {
  GET_ADAPTER,
  LIST_ADAPTERS,
  LOAD_ADAPTER,
  PIN_ADAPTER,
  UNLOAD_ADAPTER,
  UNPIN_ADAPTER,
} from '../schemas/admin.js';
import { adapterView } from './adapter-view.js';
import { carryOutLoad } from './load-reply.js';
import { pageOf, readForce, readListRequest, readLoadRequest, readName } from './requests.js';

const PAGE_SIZE = 100;

export interface AdapterRouteDeps {
  readonly engine: EngineClient;
  readonly lifecycle: Lifecycle;
}

type ByName = { Params: { name: string }; Querystring: JsonObject };

/** List, show, load, unload and pin adapters. The engine worker does the work. */
export function registerAdapterRoutes(app: FastifyInstance, { engine, lifecycle }: AdapterRouteDeps): void {
  app.get<{ Querystring: JsonObject }>('/adapters', { config: { doc: LIST_ADAPTERS } }, async (request) => {
    const list = readListRequest(request.query);
    const { adapters, tiers } = await engine.admin({ op: 'list' });
    const page = pageOf(adapters, list, PAGE_SIZE);
    return { adapters: page.adapters.map(adapterView), next: page.next, tiers };
  });

  app.get<ByName>('/adapters/:name', { config: { doc: GET_ADAPTER } }, async (request) =>
    adapterView(await engine.admin({ op: 'get', name: readName(request.params.name) })),
  );

  app.post('/adapters', { config: { doc: LOAD_ADAPTER } }, async (request, reply) => {
    const load = readLoadRequest(request.body);
    if (lifecycle.draining) throw new LoramuxError('ERR_DRAINING', 'the server is draining: load on another replica');
    const { status, body } = await carryOutLoad(engine, load);
    return reply.code(status).send(body);
  });

  app.delete<ByName>('/adapters/:name', { config: { doc: UNLOAD_ADAPTER } }, async (request) =>
    engine.admin({ op: 'unload', name: readName(request.params.name), force: readForce(request.query) }),
  );

  app.post<ByName>('/adapters/:name/pin', { config: { doc: PIN_ADAPTER } }, async (request) =>
    adapterView(await engine.admin({ op: 'pin', name: readName(request.params.name), pinned: true })),
  );

  app.delete<ByName>('/adapters/:name/pin', { config: { doc: UNPIN_ADAPTER } }, async (request) =>
    adapterView(await engine.admin({ op: 'pin', name: readName(request.params.name), pinned: false })),
  );
}
