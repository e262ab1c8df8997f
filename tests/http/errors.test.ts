import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ErrorCode } from '../../src/core/errors.js';
import { startApp } from '../helpers/http-app.js';

/** Codes that are a failed generation to LoRAX clients. */
const GENERATION: readonly ErrorCode[] = [
  'ERR_ADAPTER_NOT_FOUND',
  'ERR_ADAPTER_FORBIDDEN',
  'ERR_ADAPTER_INVALID',
  'ERR_ADAPTER_SOURCE',
  'ERR_ADAPTER_SOURCE_TIMEOUT',
  'ERR_ADAPTER_TOO_LARGE',
  'ERR_ADAPTER_NO_SPACE',
  'ERR_ADAPTER_UNLOADED',
  'ERR_MODEL_INVALID',
  'ERR_CACHE_CORRUPT',
  'ERR_NATIVE',
  'ERR_STEP_FAILED',
  'ERR_ENGINE_CLOSED',
  'ERR_ENGINE_FATAL',
];

/** Codes that the engine may end a request with, and what clients get. */
const CODES: readonly (readonly [ErrorCode, number, string, string])[] = [
  ['ERR_VALIDATION', 422, 'validation', 'Input validation error: why'],
  ['ERR_TEMPLATE', 422, 'validation', 'Input validation error: why'],
  ['ERR_TEMPLATE_MISSING', 422, 'validation', 'Input validation error: why'],
  ['ERR_PROMPT_TOO_LONG', 422, 'validation', 'Input validation error: why'],
  ['ERR_TOKENIZER', 422, 'validation', 'Input validation error: tokenizer error why'],
  ['ERR_BAD_REQUEST', 400, 'validation', 'why'],
  ['ERR_FORBIDDEN', 403, 'permission', 'why'],
  ['ERR_QUEUE_FULL', 429, 'overloaded', 'Model is overloaded'],
  ['ERR_DRAINING', 503, 'overloaded', 'Server is shutting down: send the request to another replica'],
  ['ERR_ABORTED', 499, 'incomplete_generation', 'why'],
  ...GENERATION.map(
    (code) => [code, 424, 'generation', 'Request failed during generation: Server error: why'] as const,
  ),
];

for (const [code, status, error_type, error] of CODES) {
  for (const url of ['/generate', '/generate_stream']) {
    test(`${url} answers ${code} with ${status} ${error_type}`, async (t) => {
      const { app, engine, metrics } = startApp(t);
      engine.onSubmit = (call) => call.fail(code, 'why');
      const reply = await app.inject({ method: 'POST', url, payload: { inputs: 'hi' } });
      assert.equal(reply.statusCode, status);
      assert.deepEqual(reply.json(), { error, error_type });
      assert.equal(reply.headers['x-model-id'], undefined);
      assert.equal(reply.headers['retry-after'], status === 429 || status === 503 ? '1' : undefined);
      assert.equal(metrics.generations.length, 1);
      assert.equal(metrics.requests[0]?.facts.code, code);
    });
  }
}

test('an engine that finishes without a token is a failed generation', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = (call) => call.admit().finish('length');
  const reply = await app.inject({ method: 'POST', url: '/generate', payload: { inputs: 'hi' } });
  assert.equal(reply.statusCode, 424);
  assert.match(reply.json().error, /finished without a last token/);
});

test('an exception nobody expected is a 500 that keeps its text to itself', async (t) => {
  const { app, lines } = startApp(t);
  app.get('/boom', () => {
    throw new TypeError('secret');
  });
  const reply = await app.inject({ url: '/boom' });
  assert.equal(reply.statusCode, 500);
  assert.deepEqual(reply.json(), { error: 'Internal error', error_type: 'internal' });
  assert.ok(lines.some((line) => line.includes('secret')));
});

test('what the framework refuses is JSON too', async (t) => {
  const { app } = startApp(t);
  const json = { 'content-type': 'application/json' };
  const text = { 'content-type': 'text/plain' };
  const big = JSON.stringify({ inputs: 'x'.repeat(2 * 2 ** 20) });
  const cases = [
    [
      { method: 'POST', url: '/generate', headers: json, payload: '{"inputs":' },
      400,
      /^Failed to parse the request body as JSON: /,
    ],
    [{ method: 'POST', url: '/generate', headers: json, payload: '{"a":1111111111111111,}' }, 400, /^Failed to parse/],
    [{ method: 'POST', url: '/generate', headers: json, payload: `1234567890123456${'['.repeat(9e4)}` }, 400, /./],
    [
      { method: 'POST', url: '/generate', headers: json, payload: `[1234567890123456,${'['.repeat(9e4)}` },
      400,
      /deeply/,
    ],
    [
      { method: 'POST', url: '/generate', headers: json, payload: Buffer.from([0x22, 0xff, 0x22]) },
      400,
      /^Failed to parse/,
    ],
    [{ method: 'POST', url: '/generate', headers: json, payload: '' }, 400, /it is empty/],
    [
      { method: 'POST', url: '/generate', headers: text, payload: 'hi' },
      415,
      /^Expected request with `Content-Type: application\/json`$/,
    ],
    [
      { method: 'POST', url: '/generate', headers: json, payload: big },
      413,
      /^Failed to buffer the request body: length limit exceeded$/,
    ],
    [{ method: 'GET', url: '/generate' }, 405, /use POST/],
    [{ method: 'POST', url: '/health', headers: text, payload: 'x' }, 405, /use GET/],
    [{ method: 'GET', url: '/nowhere' }, 404, /no such route/],
    [{ method: 'GET', url: '/%zz' }, 400, /./],
  ] as const;
  for (const [request, status, message] of cases) {
    const reply = await app.inject(request);
    assert.equal(reply.statusCode, status, `${request.method} ${request.url}: ${reply.body}`);
    assert.match(String(reply.headers['content-type']), /^application\/json/);
    assert.match(reply.json().error, message);
    assert.equal(reply.json().error_type, 'validation');
    if (status === 405) assert.ok(String(reply.headers.allow).length > 0);
  }
});

test('routes of LoRAX that are left out say so, and its client makes a NotFoundError of it', async (t) => {
  const { app } = startApp(t);
  for (const url of ['/embed', '/classify', '/classify_batch']) {
    const reply = await app.inject({ method: 'POST', url, payload: { inputs: 'hi', parameters: null, stream: false } });
    assert.equal(reply.statusCode, 404);
    assert.equal(reply.json().error_type, 'not_supported');
    assert.match(reply.json().error, /this server generates text and .*: ask a server that does/);
  }
});
