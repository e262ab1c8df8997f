import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { KeyRing } from '../../src/auth/key-ring.js';
import { eventually, type Overrides, startApp, type TestApp } from '../helpers/http-app.js';
import { makeKey } from '../unit/auth/support.js';

const PAGE = 'https://app.example';
const STRANGER = 'https://other.example';
const KEY = makeKey('page', ['infer:*', 'metrics']);
const KEYED = { access: { keys: new KeyRing([KEY.record]), publicMetrics: false } };

interface Site extends TestApp {
  readonly url: string;
}

/** A listening server: what browsers see is what is on the wire. */
async function listen(t: TestContext, corsOrigins: readonly string[], overrides: Overrides = {}): Promise<Site> {
  const apps = startApp(t, { ...overrides, corsOrigins });
  return { ...apps, url: await apps.app.listen({ port: 0, host: '127.0.0.1' }) };
}

/** The request that a browser sends before a POST with a key. */
function preflight(url: string, origin: string): Promise<Response> {
  return fetch(url, {
    method: 'OPTIONS',
    headers: {
      origin,
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'authorization,content-type',
    },
  });
}

function post(url: string, body: object, headers: Record<string, string>): Promise<Response> {
  const all = { 'content-type': 'application/json', authorization: `Bearer ${KEY.token}`, ...headers };
  return fetch(url, { method: 'POST', headers: all, body: JSON.stringify(body) });
}

const ROUTES: readonly (readonly [string, object])[] = [
  ['/generate', { inputs: 'hi', parameters: { adapter_id: 'sql' } }],
  ['/generate_stream', { inputs: 'hi', parameters: { adapter_id: 'sql' } }],
  ['/tokenize', { inputs: 'hi' }],
  ['/v1/completions', { model: 'sql', prompt: 'hi' }],
  ['/v1/completions', { model: 'sql', prompt: 'hi', stream: true }],
];

test('a page of an allowed site may ask first without a key, and read every header of the reply', async (t) => {
  const { url, engine } = await listen(t, ['https://first.example', PAGE], KEYED);
  for (const [path, body] of ROUTES) {
    const asked = await preflight(url + path, PAGE);
    assert.equal(asked.status, 204, path);
    assert.equal(asked.headers.get('access-control-allow-origin'), PAGE);
    assert.match(asked.headers.get('access-control-allow-methods') ?? '', /POST/);
    assert.equal(asked.headers.get('access-control-allow-headers'), 'authorization,content-type');
    assert.equal(asked.headers.get('access-control-max-age'), '600');
    const reply = await post(url + path, body, { origin: PAGE });
    assert.equal(reply.status, 200, path);
    assert.equal(reply.headers.get('access-control-allow-origin'), PAGE, path);
    assert.match(reply.headers.get('vary') ?? '', /origin/i);
    const exposed = new Set((reply.headers.get('access-control-expose-headers') ?? '').split(', '));
    const ours = [...reply.headers.keys()].filter((name) => /^(x-(?!accel)|openai-)/.test(name));
    assert.ok(ours.includes('x-request-id'));
    assert.deepEqual(
      ours.filter((name) => !exposed.has(name)),
      [],
      path,
    );
    await reply.text();
  }
  assert.equal(engine.calls.length, 4);
});

test('refusals of every kind can be read too, with the headers that retries go by', async (t) => {
  const { url, lifecycle } = await listen(t, [PAGE], KEYED);
  const bad = { model: 'sql', prompt: 'hi', max_tokens: -1 };
  const replies = [
    await post(`${url}/v1/completions`, bad, { origin: PAGE }),
    await post(`${url}/v1/completions`, bad, { origin: PAGE, authorization: '' }),
    await post(`${url}/generate`, {}, { origin: PAGE }),
    await post(`${url}/nowhere`, {}, { origin: PAGE }),
    await fetch(`${url}/generate`, { headers: { origin: PAGE, authorization: `Bearer ${KEY.token}` } }),
  ];
  assert.deepEqual(
    replies.map(({ status }) => status),
    [400, 401, 422, 404, 405],
  );
  lifecycle.beginDrain();
  const draining = await post(`${url}/v1/completions`, bad, { origin: PAGE });
  assert.equal(draining.status, 503);
  const exposed = draining.headers.get('access-control-expose-headers') ?? '';
  for (const name of ['retry-after', 'retry-after-ms', 'x-should-retry', 'x-loramux-adapter-digest']) {
    assert.ok(exposed.split(', ').includes(name), name);
  }
  for (const reply of [...replies, draining]) {
    assert.equal(reply.headers.get('access-control-allow-origin'), PAGE, String(reply.status));
  }
});

test('a page of another site is answered without the headers that would let it read', async (t) => {
  const { url } = await listen(t, [PAGE]);
  for (const origin of [STRANGER, 'null', 'http://app.example', `${PAGE}:8443`, `${PAGE}.evil.example`]) {
    const asked = await preflight(`${url}/generate`, origin);
    const reply = await post(`${url}/generate`, { inputs: 'hi' }, { origin });
    for (const { headers } of [asked, reply]) assert.equal(headers.get('access-control-allow-origin'), null, origin);
  }
  const plain = await post(`${url}/generate`, { inputs: 'hi' }, {});
  assert.equal(plain.headers.get('access-control-allow-origin'), null);
});

test('with * every page may read', async (t) => {
  const { url } = await listen(t, ['*']);
  const reply = await post(`${url}/generate`, { inputs: 'hi' }, { origin: STRANGER });
  assert.equal(reply.headers.get('access-control-allow-origin'), '*');
  assert.equal(reply.headers.get('access-control-allow-credentials'), null);
  assert.equal((await preflight(`${url}/generate`, STRANGER)).headers.get('access-control-allow-origin'), '*');
});

test('OPTIONS that is no preflight is a route that is not there, and wants its key', async (t) => {
  const { url, metrics } = await listen(t, [PAGE], KEYED);
  const options = (headers: Record<string, string>): Promise<Response> =>
    fetch(`${url}/generate`, { method: 'OPTIONS', headers });
  assert.equal((await options({})).status, 401);
  assert.equal((await options({ origin: PAGE })).status, 401);
  const reply = await options({ authorization: `Bearer ${KEY.token}` });
  assert.equal(reply.status, 404);
  assert.equal(((await reply.json()) as { error_type: string }).error_type, 'validation');
  await eventually(() => metrics.requests.length === 3, 'three requests in the metrics');
});

test('by default no page may read, and never one of the admin listener', async (t) => {
  const { url, admin } = await listen(t, []);
  const reply = await post(`${url}/generate`, { inputs: 'hi' }, { origin: PAGE });
  assert.equal(reply.headers.get('access-control-allow-origin'), null);
  assert.equal((await preflight(`${url}/generate`, PAGE)).status, 404);
  const open = startApp(t, { corsOrigins: ['*'] });
  for (const server of [admin, open.admin]) {
    const asked = await server.inject({
      method: 'OPTIONS',
      url: '/adapters',
      headers: { origin: PAGE, 'access-control-request-method': 'POST' },
    });
    assert.equal(asked.statusCode, 403);
    assert.equal(asked.headers['access-control-allow-origin'], undefined);
  }
});
