import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { FastifyInstance } from 'fastify';
import { adapterInfo } from '../helpers/adapter-info.js';
import { startApp, type TestApp } from '../helpers/http-app.js';
import { type OpenApiDocument, type OpenApiOperation, validatorOf } from '../helpers/openapi.js';
import { ROOT } from '../helpers/paths.js';

const LISTENERS = [
  ['public', 'app', 'openapi.json'],
  ['admin', 'admin', 'openapi-admin.json'],
] as const;

function start(t: TestContext): TestApp {
  const apps = startApp(t, { openai: { vllmLoraApi: 'on' } });
  apps.engine.onAdmin = (call) => {
    const adapter = adapterInfo('sql', { aliases: ['prod'] });
    switch (call.op) {
      case 'list':
        return { adapters: [adapter], tiers: [{ tier: 'host', bytes: 1, capacity: 2, pinned: 0 }] };
      case 'load':
        return { outcome: 'replaced', replaced: 'e'.repeat(64), adapter };
      case 'unload':
        return { drained: 1, rowsCut: 0 };
      case 'aliases':
        return { aliases: [{ name: 'prod', digest: 'd'.repeat(64), adapter: null }] };
      case 'alias':
        return { replaced: null, alias: { name: 'prod', digest: 'd'.repeat(64), adapter: 'sql' } };
      case 'unalias':
        return { name: 'prod', digest: 'd'.repeat(64), adapter: 'sql' };
      case 'state':
        return apps.engine.state();
      default:
        return adapter;
    }
  };
  return apps;
}

async function documentOf(app: FastifyInstance): Promise<OpenApiDocument> {
  const reply = await app.inject('/openapi.json');
  assert.equal(reply.statusCode, 200);
  return reply.json();
}

function operationsOf({ paths }: OpenApiDocument): Map<string, OpenApiOperation> {
  return new Map(
    Object.entries(paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]) => [`${method.toUpperCase()} ${path}`, operation] as const),
    ),
  );
}

for (const [listener, key, file] of LISTENERS) {
  test(`docs/${file} is what the ${listener} listener serves`, async (t) => {
    const served = await documentOf(start(t)[key]);
    assert.equal(served.openapi, '3.1.0');
    const text = `${JSON.stringify(served, null, 1)}\n`;
    const path = join(ROOT, 'docs', file);
    if (process.env.UPDATE_OPENAPI !== undefined) writeFileSync(path, text);
    assert.equal(readFileSync(path, 'utf8'), text, 'write it anew: npm run openapi');
  });

  test(`every route of the ${listener} listener is in its document`, async (t) => {
    const [, section = ''] = readFileSync(join(ROOT, 'docs', 'api.md'), 'utf8').split('\n## Routes\n');
    const rows = [...(section.split('\n## ')[0] ?? '').matchAll(/^\| `([A-Z]+ \S+)` \| (\w+) \|/gm)];
    const wanted = rows.filter(([, , where]) => where === listener || where === 'both').map(([, route]) => route);
    assert.ok(wanted.length > 10);
    const operations = operationsOf(await documentOf(start(t)[key]));
    assert.deepEqual([...operations.keys()].sort(), wanted.sort());
    const ids = new Set([...operations.values()].map(({ operationId }) => operationId));
    assert.equal(ids.size, operations.size);
  });

  test(`every schema of the ${listener} listener is strict JSON Schema`, async (t) => {
    const document = await documentOf(start(t)[key]);
    for (const schema of Object.values(document.components.schemas)) validatorOf(document, schema);
    for (const [route, { requestBody, responses }] of operationsOf(document)) {
      const contents = [requestBody?.content, ...Object.values(responses).map(({ content }) => content)];
      for (const { schema } of contents.flatMap((content) => Object.values(content ?? {}))) {
        assert.doesNotThrow(() => validatorOf(document, schema), route);
      }
    }
  });
}

test('LoRAX finds the same document where it looks for one', async (t) => {
  const { app } = start(t);
  assert.deepEqual((await app.inject('/api-doc/openapi.json')).json(), await documentOf(app));
});

test('probes are open in the document too, everything else asks for a key', async (t) => {
  const { app } = start(t);
  for (const [route, { security, responses }] of operationsOf(await documentOf(app))) {
    const open = ['/livez', '/readyz', '/startupz', '/health', '/ping'].some((path) => route === `GET ${path}`);
    assert.deepEqual(security, open ? [] : undefined, route);
    assert.equal('401' in responses && '403' in responses, !open, route);
  }
});

/** A request for each reply worth checking: route, status, body, and the path where it is not the route's own. */
type Sample = readonly ['app' | 'admin', string, number, (object | undefined)?, (string | undefined)?, object?];
const REQUESTS: readonly Sample[] = [
  ['app', 'POST /generate', 200, { inputs: 'hi' }],
  ['app', 'POST /generate', 200, { inputs: 'hi', parameters: { details: true, decoder_input_details: true } }],
  ['app', 'POST /generate', 200, { inputs: 'hi', parameters: { details: true, do_sample: true, best_of: 2 } }],
  ['app', 'POST /generate', 200, { inputs: ['a', 'b'], parameters: { adapter_names: ['sql', ''], details: true } }],
  ['app', 'POST /generate', 422, { inputs: 'hi', parameters: { top_k: -1 } }],
  ['app', 'POST /generate_stream', 200, { inputs: 'hi' }],
  ['app', 'POST /', 200, { inputs: 'hi' }],
  ['app', 'POST /invocations', 200, { inputs: 'hi', parameters: { details: true } }],
  ['app', 'POST /tokenize', 200, { inputs: 'hé' }],
  ['app', 'POST /tokenize', 422, { inputs: 5 }],
  ['app', 'GET /', 200],
  ['app', 'GET /startup', 200],
  ['app', 'GET /info', 200],
  ['app', 'GET /docs', 200],
  ['app', 'GET /docs/{file}', 200, undefined, '/docs/start.js'],
  ['app', 'GET /docs/{file}', 200, undefined, '/docs/swagger-ui.css'],
  ['app', 'GET /docs/{file}', 302, undefined, '/docs/'],
  ['app', 'GET /docs/{file}', 404, undefined, '/docs/index.html'],
  ['app', 'GET /metrics', 200],
  ['app', 'GET /metrics', 200, undefined, undefined, { accept: 'application/json' }],
  ['app', 'GET /metrics/router', 200],
  ['app', 'GET /version', 200],
  ['app', 'GET /readyz', 200],
  ['app', 'GET /readyz', 200, undefined, '/readyz?verbose'],
  ['app', 'GET /livez', 200],
  ['app', 'GET /startupz', 200],
  ['app', 'GET /health', 200],
  ['app', 'GET /ping', 200],
  [
    'app',
    'POST /v1/completions',
    200,
    { model: 'tiny', prompt: 'hi', logprobs: 2, echo: true, return_token_ids: true },
  ],
  ['app', 'POST /v1/completions', 200, { model: 'sql', prompt: ['a', 'b'], n: 2, stop: 'k' }],
  ['app', 'POST /v1/completions', 200, { model: 'sql', prompt: 'a', stream: true }],
  ['app', 'POST /v1/completions', 200, { model: 'sql', prompt: 'a' }, undefined, { 'x-loramux-details': '1' }],
  ['app', 'POST /v1/completions', 404, { model: 'a b', prompt: 'a' }],
  ['app', 'GET /v1/models', 200],
  ['app', 'GET /v1/models/{id}', 200, undefined, '/v1/models/prod'],
  ['app', 'GET /v1/models/{id}', 404, undefined, '/v1/models/a%20b'],
  ['app', 'POST /v1/load_lora_adapter', 200, { lora_name: 'sql', lora_path: '/x' }],
  ['app', 'POST /v1/load_lora_adapter', 400, { lora_name: 'sql' }],
  ['app', 'POST /v1/unload_lora_adapter', 200, { lora_name: 'sql' }],
  ['app', 'POST /v1/unload_lora_adapter', 400],
  ['admin', 'GET /adapters', 200],
  ['admin', 'GET /adapters', 400, undefined, '/adapters?state=none'],
  ['admin', 'GET /adapters/{name}', 200, undefined, '/adapters/sql'],
  ['admin', 'POST /adapters', 200, { name: 'sql', source: 'dir:/x' }],
  ['admin', 'POST /adapters', 400, { name: '', source: 'dir:/x' }],
  ['admin', 'DELETE /adapters/{name}', 200, undefined, '/adapters/sql?force'],
  ['admin', 'POST /adapters/{name}/pin', 200, undefined, '/adapters/sql/pin'],
  ['admin', 'DELETE /adapters/{name}/pin', 200, undefined, '/adapters/sql/pin'],
  ['admin', 'PUT /adapters/{name}', 415, undefined, '/adapters/sql'],
  ['admin', 'GET /aliases', 200],
  ['admin', 'PUT /aliases/{name}', 201, { adapter: 'sql' }, '/aliases/prod'],
  ['admin', 'DELETE /aliases/{name}', 200, undefined, '/aliases/prod'],
  ['admin', 'GET /state', 200],
  ['admin', 'POST /drain', 202],
  ['app', 'GET /readyz', 503],
  ['app', 'GET /health', 503],
  ['app', 'POST /generate', 503, { inputs: 'hi' }],
  ['app', 'POST /v1/completions', 503, { model: 'tiny', prompt: 'hi' }],
  ['admin', 'POST /adapters', 503, { name: 'sql', source: 'dir:/x' }],
];

/** A body as its schema sees it; of events the first. */
function documentedValue(type: string, body: string): unknown {
  if (type === 'application/json') return JSON.parse(body);
  return type === 'text/event-stream' ? { data: /^data: (.+)$/m.exec(body)?.[1] } : body;
}

test('replies are what the document says', async (t) => {
  const apps = start(t);
  const documents = { app: await documentOf(apps.app), admin: await documentOf(apps.admin) };
  for (const [key, route, status, payload, path, headers] of REQUESTS) {
    const [method = '', own = ''] = route.split(' ');
    const request = { method: method as 'GET', url: path ?? own, headers: { ...headers } };
    const reply = await apps[key].inject(payload === undefined ? request : { ...request, payload });
    const what = `${route} ${JSON.stringify(payload)}: ${reply.body}`;
    assert.equal(reply.statusCode, status, what);
    const documented = operationsOf(documents[key]).get(route)?.responses[status];
    assert.ok(documented !== undefined, what);
    const type = String(reply.headers['content-type'] ?? '').split(';')[0] ?? '';
    if (documented.content === undefined) {
      assert.equal(reply.body, '', what);
      continue;
    }
    const content = documented.content[type];
    assert.ok(content !== undefined, `${what} has the type ${type}`);
    const validate = validatorOf(documents[key], content.schema);
    const value = documentedValue(type, reply.body);
    assert.ok(validate(value), `${what}: ${JSON.stringify(validate.errors)}`);
  }
});
