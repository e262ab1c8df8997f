import { STATUS_CODES } from 'node:http';
import type { FastifyInstance } from 'fastify';
import { OPENAPI } from '../schemas/operations.js';
import { ADAPTER_NAME, type ErrorSchema, type JsonSchema, json, type RouteDoc, ref } from '../schemas/route-doc.js';
import type { Access, AccessByMethod } from './access.js';

/** What a listener's document says beside its routes. */
export interface ApiInfo {
  readonly title: string;
  readonly version: string;
  readonly components: Readonly<Record<string, JsonSchema>>;
  readonly accessByMethod: AccessByMethod;
  /** Statuses that any route of the listener may answer with. */
  readonly errors: readonly number[];
  readonly errorSchema: ErrorSchema;
}

interface Operation {
  readonly method: string;
  readonly path: string;
  readonly doc: RouteDoc;
  readonly access: Access;
}

/**
 * Collects the documented routes that are registered from now on, and serves them as an OpenAPI 3.1 document:
 * `GET /openapi.json`.
 */
export function registerOpenApi(app: FastifyInstance, info: ApiInfo): void {
  const operations: Operation[] = [];
  app.addHook('onRoute', ({ url, method, config }) => {
    const doc = config?.doc;
    if (doc === undefined) return;
    for (const each of [method].flat().filter((name) => name !== 'HEAD')) {
      const access = config?.access ?? info.accessByMethod(each);
      operations.push({ method: each.toLowerCase(), path: pathOf(url, doc), doc, access });
    }
  });
  let text: string | null = null;
  app.decorate('openApi', () => {
    text ??= JSON.stringify(documentOf(operations, info));
    return text;
  });
  app.get('/openapi.json', { config: { access: 'key', doc: OPENAPI } }, (_request, reply) =>
    reply.type('application/json').send(app.openApi()),
  );
}

declare module 'fastify' {
  interface FastifyInstance {
    /** The OpenAPI document as JSON text, once all routes are there. */
    openApi(): string;
  }
}

/** `/adapters/:name` as `/adapters/{name}`; a wildcard has the name of the route's own parameter. */
function pathOf(url: string, { params = {} }: RouteDoc): string {
  const [wildcard = '*'] = Object.keys(params);
  return url.replace(/:(\w+)/g, '{$1}').replace('*', `{${wildcard}}`);
}

function documentOf(operations: readonly Operation[], info: ApiInfo): JsonSchema {
  const paths: Record<string, Record<string, JsonSchema>> = {};
  for (const operation of operations) {
    paths[operation.path] = { ...paths[operation.path], [operation.method]: operationOf(operation, info) };
  }
  return {
    openapi: '3.1.0',
    info: { title: info.title, version: info.version, license: { name: 'Apache-2.0', identifier: 'Apache-2.0' } },
    // No key is needed where none are configured.
    security: [{}, { apiKey: [] }],
    paths,
    components: {
      schemas: info.components,
      securitySchemes: { apiKey: { type: 'http', scheme: 'bearer', description: 'An API key; see docs/api.md' } },
    },
  };
}

function operationOf({ path, doc, access }: Operation, info: ApiInfo): JsonSchema {
  const parameters = [
    ...[...path.matchAll(/\{(\w+)\}/g)].map(([, name = '']) => ({
      name,
      in: 'path',
      required: true,
      schema: doc.params?.[name] ?? ADAPTER_NAME,
    })),
    ...Object.entries(doc.query ?? {}).map(([name, schema]) => ({ name, in: 'query', schema })),
  ];
  return {
    operationId: doc.id,
    tags: [doc.tag],
    summary: doc.summary,
    ...(access === 'open' ? { security: [] } : { description: `API key: ${scopeText(access)}.` }),
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(doc.body === undefined ? {} : { requestBody: { required: true, content: contentOf(doc.body) } }),
    responses: responsesOf(doc, access, info),
  };
}

function scopeText(access: Access): string {
  return access === 'key' ? 'any' : `scope ${access}`;
}

function responsesOf(doc: RouteDoc, access: Access, info: ApiInfo): JsonSchema {
  const errors = new Set([...doc.errors, ...info.errors]);
  if (access !== 'open') for (const status of [401, 403]) errors.add(status);
  if (doc.body !== undefined) for (const status of [400, 413, 415]) errors.add(status);
  const content = contentOf(json(ref(doc.errorSchema ?? info.errorSchema)));
  const responses: Record<number, JsonSchema> = {};
  for (const status of errors) responses[status] = { description: STATUS_CODES[status] ?? 'The client left', content };
  for (const [status, { text, content: of }] of Object.entries(doc.replies)) {
    responses[Number(status)] = { description: text, ...(of === undefined ? {} : { content: contentOf(of) }) };
  }
  return responses;
}

function contentOf(content: Readonly<Record<string, JsonSchema>>): JsonSchema {
  return Object.fromEntries(Object.entries(content).map(([type, schema]) => [type, { schema }]));
}
