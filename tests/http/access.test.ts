import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import type { FastifyInstance } from 'fastify';
import { KeyRing } from '../../src/auth/key-ring.js';
import { adapterInfo } from '../helpers/adapter-info.js';
import { startApp, type TestApp } from '../helpers/http-app.js';
import { makeKey } from '../unit/auth/support.js';

const KEYS = {
  all: makeKey('all', ['infer:*', 'metrics', 'admin:*']),
  sql: makeKey('sql', ['infer:sql', 'infer:acme/*']),
  base: makeKey('base', ['infer:__base__']),
  scraper: makeKey('scraper', ['metrics']),
  reader: makeKey('reader', ['admin:read']),
  writer: makeKey('writer', ['admin:write']),
};
type KeyName = keyof typeof KEYS;

const PROBES = ['/livez', '/readyz', '/startupz', '/health', '/ping'];

function start(t: TestContext, publicMetrics = false): TestApp {
  const keys = new KeyRing(Object.values(KEYS).map(({ record }) => record));
  return startApp(t, { access: { keys, publicMetrics } });
}

function as(name: KeyName): Record<string, string> {
  return { authorization: `Bearer ${KEYS[name].token}` };
}

/** Every route of an app, from the router itself, as it would be called. */
async function routesOf(app: FastifyInstance): Promise<{ method: string; url: string }[]> {
  await app.ready();
  const routes: { method: string; url: string }[] = [];
  const path: string[] = [];
  for (const line of app.printRoutes({ commonPrefix: false }).split('\n')) {
    const match = /^([│ ]*)[├└]── (\S*) \(([A-Z, ]+)\)$/.exec(line);
    if (match === null) continue;
    const [, indent = '', part = '', methods = ''] = match;
    path.length = indent.length / 4;
    path.push(part);
    for (const method of methods.split(', ')) routes.push({ method, url: path.join('').replace(/:\w+|\*/g, 'x') });
  }
  return routes;
}

test('every route of both listeners asks for a key, whatever its method, but for the probes', async (t) => {
  const { app, admin, engine } = start(t);
  for (const [server, least] of [
    [app, 7],
    [admin, 13],
  ] as const) {
    const routes = await routesOf(server);
    const served = new Set(routes.map(({ url }) => url));
    assert.ok(served.size >= least, `only ${[...served]}`);
    for (const expected of server === app ? ['/generate', '/metrics'] : ['/adapters/x/pin', '/drain']) {
      assert.ok(served.has(expected), `${expected} was not found`);
    }
    for (const { method, url } of [
      ...routes,
      { method: 'GET', url: '/nowhere' },
      { method: 'POST', url: '/nowhere' },
    ]) {
      const open = PROBES.includes(url) && (method === 'GET' || method === 'HEAD');
      for (const headers of [{}, { authorization: 'Bearer lmx_nothing' }]) {
        const reply = await server.inject({ method: method as 'GET', url, headers });
        if (open) assert.equal(reply.statusCode, 200, `${method} ${url}`);
        else {
          assert.equal(reply.statusCode, 401, `${method} ${url}`);
          assert.equal(reply.headers['www-authenticate'], 'Bearer');
        }
      }
      const reply = await server.inject({ method: method as 'GET', url, headers: as('all') });
      assert.ok(![401, 403].includes(reply.statusCode), `${method} ${url} with a key: ${reply.statusCode}`);
    }
  }
  assert.ok(engine.adminCalls.length > 0);
});

test('a refused request reaches neither its body nor the engine', async (t) => {
  const { app, admin, engine } = start(t);
  const malformed = { headers: { 'content-type': 'application/json' }, payload: '{' } as const;
  assert.equal((await app.inject({ method: 'POST', url: '/generate', ...malformed })).statusCode, 401);
  assert.equal((await admin.inject({ method: 'POST', url: '/adapters', ...malformed })).statusCode, 401);
  assert.equal(engine.calls.length + engine.adminCalls.length, 0);
});

test('each surface words a refusal its own way', async (t) => {
  const { app, admin } = start(t);
  const none = 'expected an API key in "Authorization: Bearer KEY", got none';
  const lorax = await app.inject({ method: 'POST', url: '/generate', payload: { inputs: 'hi' } });
  assert.deepEqual(lorax.json(), { error: none, error_type: 'authentication' });
  assert.deepEqual((await admin.inject('/state')).json(), { error: none, code: 'ERR_UNAUTHORIZED' });
  const openai = await app.inject({ method: 'POST', url: '/v1/completions', payload: { model: '', prompt: 'hi' } });
  const error = { message: none, type: 'authentication_error', param: null, code: 'invalid_api_key' };
  assert.deepEqual([openai.statusCode, openai.json()], [401, { error }]);
  assert.equal(openai.headers['www-authenticate'], 'Bearer');
  assert.deepEqual((await app.inject('/v1/nowhere')).json(), { error });
  const scope = await app.inject({
    method: 'POST',
    url: '/generate',
    payload: { inputs: 'hi' },
    headers: as('scraper'),
  });
  assert.equal(scope.statusCode, 403);
  assert.equal(scope.json().error_type, 'permission');
  assert.match(scope.json().error, /scraper lacks the scope infer:PATTERN/);
  const write = await admin.inject({ method: 'POST', url: '/drain', headers: as('reader') });
  assert.equal(write.statusCode, 403);
  assert.match(write.json().error, /reader lacks the scope admin:write/);
});

test('scopes open their part of the server and no other', async (t) => {
  const { app, admin } = start(t);
  const allowed = async (server: FastifyInstance, method: 'GET' | 'POST', url: string): Promise<string[]> => {
    const names: string[] = [];
    for (const name of Object.keys(KEYS) as KeyName[]) {
      const reply = await server.inject({ method, url, headers: as(name) });
      if (reply.statusCode !== 403) names.push(name);
    }
    return names;
  };
  assert.deepEqual(await allowed(app, 'GET', '/metrics'), ['all', 'scraper', 'reader']);
  assert.deepEqual(await allowed(admin, 'GET', '/metrics'), ['all', 'scraper', 'reader']);
  assert.deepEqual(await allowed(app, 'GET', '/version'), Object.keys(KEYS));
  assert.deepEqual(await allowed(app, 'POST', '/generate'), ['all', 'sql', 'base']);
  assert.deepEqual(await allowed(admin, 'GET', '/aliases'), ['all', 'reader']);
  assert.deepEqual(await allowed(admin, 'POST', '/adapters'), ['all', 'writer']);
});

test('metrics are open when the operator says so, and nothing else is', async (t) => {
  const { app, admin } = start(t, true);
  for (const server of [app, admin]) {
    assert.equal((await server.inject('/metrics')).statusCode, 200);
    assert.equal((await server.inject('/version')).statusCode, 401);
  }
});

test('a generation needs every adapter that it names', async (t) => {
  const { app, engine } = start(t);
  const ask = async (key: KeyName, parameters: object, inputs: unknown = 'hi'): Promise<number> => {
    const before = engine.calls.length;
    const reply = await app.inject({
      method: 'POST',
      url: '/generate',
      headers: as(key),
      payload: { inputs, parameters },
    });
    if (reply.statusCode === 403) {
      assert.equal(engine.calls.length - before, Array.isArray(inputs) ? inputs.length - 1 : 0);
      assert.equal(reply.json().error_type, 'permission');
    }
    return reply.statusCode;
  };
  const merge = (...ids: string[]): object => ({ merged_adapters: { ids, weights: ids.map(() => 1) } });
  const cases: readonly (readonly [KeyName, object, number, unknown?])[] = [
    ['sql', { adapter_id: 'sql' }, 200],
    ['sql', { adapter_id: 'acme/any' }, 200],
    ['sql', { adapter_id: 'pirate' }, 403],
    ['sql', {}, 403],
    ['sql', { adapter_id: '__base_model__' }, 403],
    ['base', {}, 200],
    ['base', { adapter_id: 'sql' }, 403],
    ['sql', { adapters: [{ id: 'sql' }, { id: 'acme/b', weight: 2 }] }, 200],
    ['sql', { adapters: [{ id: 'sql' }, { id: 'pirate', weight: 2 }] }, 403],
    ['sql', merge('sql', 'acme/b'), 200],
    ['sql', merge('sql', 'pirate'), 403],
    ['sql', { adapter_names: ['sql', 'acme/b'] }, 200, ['a', 'b']],
    ['sql', { adapter_names: ['sql', 'pirate'] }, 403, ['a', 'b']],
    ['all', { adapter_id: 'pirate' }, 200],
  ];
  for (const [key, parameters, status, inputs] of cases) {
    assert.equal(await ask(key, parameters, inputs), status, `${key} ${JSON.stringify(parameters)}`);
  }
  const stream = await app.inject({
    method: 'POST',
    url: '/generate_stream',
    headers: as('sql'),
    payload: { inputs: 'hi', parameters: { adapter_id: 'pirate' } },
  });
  assert.equal(stream.statusCode, 403);
});

test('completions need every adapter that they name', async (t) => {
  const { app, engine } = start(t);
  const cases: readonly (readonly [KeyName, object, number])[] = [
    ['sql', { model: 'sql' }, 200],
    ['sql', { model: 'tiny:sql' }, 200],
    ['sql', { model: 'tiny:pirate' }, 403],
    ['sql', { model: 'pirate@sha256:0123456789ab' }, 403],
    ['sql', { model: '' }, 403],
    ['sql', { model: '', adapters: [{ id: 'sql' }, { id: 'pirate' }] }, 403],
    ['sql', { model: '', adapters: [{ id: 'sql' }, { id: 'acme/b' }] }, 200],
    ['base', { model: 'tiny' }, 200],
    ['base', { model: 'sql' }, 403],
  ];
  for (const [key, fields, status] of cases) {
    const payload = { prompt: 'hi', max_tokens: 4, ...fields };
    const reply = await app.inject({ method: 'POST', url: '/v1/completions', headers: as(key), payload });
    assert.equal(reply.statusCode, status, `${key} ${JSON.stringify(fields)}: ${reply.body}`);
    if (status !== 403) continue;
    const { type, code, param } = reply.json().error;
    assert.deepEqual([type, code, param], ['permission_error', 'model_not_allowed', 'model']);
  }
  assert.deepEqual(engine.calls.at(-1)?.request.allowed, ['__base__']);
});

test('models are those that a key may use, aliases under both of their names', async (t) => {
  const { app, engine } = start(t);
  const adapters = [
    adapterInfo('sql', { aliases: ['prod', 'acme/sql'] }),
    adapterInfo('pirate', { aliases: ['acme/pirate'] }),
  ];
  engine.onAdmin = (call) => {
    if (call.op === 'list') return { adapters, tiers: [] };
    assert.equal(call.op, 'get');
    return (
      adapters.find(({ name, aliases }) => 'name' in call && [name, ...aliases].includes(call.name)) ?? assert.fail()
    );
  };
  const ids = async (key: KeyName): Promise<string[]> => {
    const reply = await app.inject({ url: '/v1/models', headers: as(key) });
    return reply.json().data.map(({ id }: { id: string }) => id);
  };
  assert.deepEqual(await ids('all'), ['tiny', 'sql', 'prod', 'acme/sql', 'pirate', 'acme/pirate']);
  assert.deepEqual(await ids('sql'), ['sql', 'acme/sql']);
  assert.deepEqual(await ids('base'), ['tiny']);
  assert.deepEqual(await ids('scraper'), []);
  const get = async (id: string): Promise<number> =>
    (await app.inject({ url: `/v1/models/${id}`, headers: as('sql') })).statusCode;
  assert.deepEqual(
    await Promise.all(['sql', 'acme%2Fsql', 'prod', 'acme/pirate', 'pirate', 'tiny'].map(get)),
    [200, 200, 403, 403, 403, 403],
  );
});

test('the engine is told what a key may use, and nothing where there are no keys', async (t) => {
  const { app, engine } = start(t);
  const payload = { inputs: 'hi', parameters: { adapter_id: 'sql' } };
  await app.inject({ method: 'POST', url: '/generate', headers: as('sql'), payload });
  assert.deepEqual(engine.calls[0]?.request.allowed, ['sql', 'acme/*']);
  const open = startApp(t);
  await open.app.inject({ method: 'POST', url: '/generate', payload });
  assert.equal(open.engine.calls[0]?.request.allowed, undefined);
});

test('the log names the key of a request; neither log nor engine ever holds it', async (t) => {
  const { app, admin, engine, lines } = start(t);
  engine.onAdmin = () => ({ aliases: [] });
  await app.inject({ method: 'POST', url: '/generate', headers: as('base'), payload: { inputs: 'hi' } });
  await admin.inject({
    method: 'POST',
    url: '/adapters',
    headers: as('writer'),
    payload: { name: 'x', source: 'hub:a/b' },
  });
  const text = lines.join('\n');
  assert.match(text, /"key":"base"/);
  assert.match(text, /"key":"writer"/);
  const told = JSON.stringify([engine.adminCalls, engine.calls.map(({ request }) => ({ ...request, sampling: null }))]);
  assert.ok(told.includes('a/b'));
  for (const { token } of Object.values(KEYS)) assert.ok(!text.includes(token) && !told.includes(token));
});

test('keys share no cached prompts, whatever salt they name; without keys the salt alone counts', async (t) => {
  const { app, engine } = start(t);
  const ask = async (key: KeyName, fields: object): Promise<string | null | undefined> => {
    const payload = { model: 'sql', prompt: 'hi', ...fields };
    const reply = await app.inject({ method: 'POST', url: '/v1/completions', headers: as(key), payload });
    assert.equal(reply.statusCode, 200);
    return engine.calls.at(-1)?.request.cacheSalt;
  };
  const salts = [
    await ask('sql', {}),
    await ask('all', {}),
    await ask('sql', { cache_salt: 'pepper' }),
    await ask('all', { cache_salt: 'pepper' }),
    await ask('all', { cache_salt: 'sql' }),
    await ask('all', { cache_salt: JSON.stringify(['sql', null]) }),
  ];
  assert.equal(new Set(salts).size, salts.length, JSON.stringify(salts));
  assert.equal(await ask('sql', {}), salts[0]);
  await app.inject({ method: 'POST', url: '/generate', headers: as('base'), payload: { inputs: 'hi' } });
  assert.ok(!salts.includes(engine.calls.at(-1)?.request.cacheSalt));
  const open = startApp(t);
  for (const cache_salt of [undefined, 'pepper']) {
    const payload = { model: 'sql', prompt: 'hi', cache_salt };
    await open.app.inject({ method: 'POST', url: '/v1/completions', payload });
    assert.equal(open.engine.calls.at(-1)?.request.cacheSalt, cache_salt ?? null);
  }
});
