import { array, BOOLEAN, json, object, type RouteDoc, STRING, TEXT_TYPE } from './route-doc.js';

const UNHEALTHY = object({ error: { const: 'unhealthy' }, error_type: { const: 'healthcheck' } });
const TEXT = { [TEXT_TYPE]: STRING };

function probe(id: string, summary: string): RouteDoc {
  const replies = { 200: { text: 'yes', content: TEXT }, 503: { text: 'no', content: TEXT } };
  return { id, tag: 'operations', summary, replies, errors: [] };
}

export const LIVEZ = probe('livez', 'Whether the process is worth keeping');
export const STARTUPZ = probe('startupz', 'Whether the model was loaded once');

const CHECKS = object({
  ready: BOOLEAN,
  checks: { type: 'object', additionalProperties: BOOLEAN },
});
export const READYZ: RouteDoc = {
  ...probe('readyz', 'Whether new requests are welcome'),
  query: { verbose: { type: 'string', description: 'With any value: each check, as JSON' } },
  replies: {
    200: { text: 'yes', content: { ...TEXT, ...json(CHECKS) } },
    503: { text: 'no', content: { ...TEXT, ...json(CHECKS) } },
  },
};

/** `/health` and its other names. */
export function healthDoc(id: string): RouteDoc {
  const replies = { 200: { text: 'yes' }, 503: { text: 'no', content: json(UNHEALTHY) } };
  return { ...probe(id, 'Ready or not, in the form of LoRAX'), replies };
}

export const VERSION: RouteDoc = {
  id: 'version',
  tag: 'operations',
  summary: "The server's version",
  replies: { 200: { text: 'the version', content: json(object({ version: STRING })) } },
  errors: [],
};

const FAMILY = object({
  type: STRING,
  data: array(object({ key: STRING, value: { type: ['number', 'null'] } })),
});
export const METRICS: RouteDoc = {
  id: 'metrics',
  tag: 'operations',
  summary: 'Metrics as Prometheus text or, for clients that accept JSON, in the form of LoRAX',
  replies: {
    200: { text: 'all families', content: { ...TEXT, ...json({ type: 'object', additionalProperties: FAMILY }) } },
  },
  errors: [500],
};

export const ROUTER_METRICS: RouteDoc = {
  id: 'router_metrics',
  tag: 'operations',
  summary: 'The few metrics that gateways poll',
  replies: { 200: { text: 'Prometheus text', content: TEXT } },
  errors: [500],
};

export const OPENAPI: RouteDoc = {
  id: 'openapi',
  tag: 'operations',
  summary: 'This document',
  replies: { 200: { text: 'OpenAPI 3.1', content: json({ type: 'object' }) } },
  errors: [],
};

export const DOCS_PAGE: RouteDoc = {
  id: 'docs',
  tag: 'operations',
  summary: 'This document as a page to try the routes on',
  replies: { 200: { text: 'the page', content: { 'text/html': STRING } } },
  errors: [],
};

const TYPES = ['text/javascript', 'text/css'];
export const DOCS_ASSET: RouteDoc = {
  id: 'docs_asset',
  tag: 'operations',
  summary: 'Scripts and styles of that page; without a name, the way to it',
  params: { file: { enum: ['', 'start.js', 'swagger-ui-bundle.js', 'swagger-ui.css'] } },
  replies: {
    200: { text: 'the file', content: Object.fromEntries(TYPES.map((type) => [type, STRING])) },
    302: { text: 'the page is at /docs' },
  },
  errors: [404],
};
