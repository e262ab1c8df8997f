import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { AdapterInfo } from '../../../src/core/adapter.js';
import { LoramuxError } from '../../../src/core/errors.js';
import { startApp, type TestApp } from '../../helpers/http-app.js';
import { assertError } from './support.js';

/** An adapter as the engine describes it. */
function adapter(name: string, fields: Partial<AdapterInfo> = {}): AdapterInfo {
  return {
    name,
    aliases: [],
    digest: 'd'.repeat(64),
    state: 'ready',
    tier: 'host',
    bytes: 10,
    ranks: { min: 4, max: 8 },
    variant: ['lora'],
    modules: null,
    proof: null,
    baseModel: null,
    text: null,
    source: `dir:/adapters/${name}`,
    pins: { rows: 0, operator: false },
    loadedAt: '2026-01-02T03:04:05.678Z',
    lastUsedAt: null,
    requests: 0,
    failure: null,
    ...fields,
  };
}

/** Lets the engine list and find these adapters. */
function serveAdapters({ engine }: TestApp, adapters: readonly AdapterInfo[]): void {
  engine.onAdmin = (call) => {
    if (call.op === 'list') return { adapters, tiers: [] };
    const name = call.op === 'get' ? call.name : '';
    const found = adapters.find((each) => each.name === name || each.aliases.includes(name));
    if (found === undefined) throw new LoramuxError('ERR_ADAPTER_NOT_FOUND', `no adapter is called ${name}`);
    return found;
  };
}

test('the base first, then adapters and their aliases', async (t) => {
  const server = startApp(t, { openai: { servedNames: ['gpt'] } });
  serveAdapters(server, [
    adapter('a', { aliases: ['a-stable'] }),
    adapter('org/b', { tier: 'disk', digest: null, ranks: null, loadedAt: null }),
    adapter('gone', { state: 'draining' }),
    adapter('bad', { state: 'failed' }),
  ]);
  const reply = await server.app.inject({ url: '/v1/models' });
  assert.equal(reply.headers['content-type'], 'application/json; charset=utf-8');
  const { object, data } = reply.json();
  assert.equal(object, 'list');
  assert.deepEqual(
    data.map(({ id, root, parent }: Record<string, unknown>) => [id, root, parent]),
    [
      ['gpt', 'tiny', null],
      ['tiny', 'tiny', null],
      ['a', 'a', 'gpt'],
      ['a-stable', 'a', 'gpt'],
      ['org/b', 'org/b', 'gpt'],
    ],
  );
  assert.deepEqual(data[2], {
    id: 'a',
    object: 'model',
    created: Date.UTC(2026, 0, 2, 3, 4, 5) / 1_000,
    owned_by: 'loramux',
    root: 'a',
    parent: 'gpt',
    permission: [],
    loramux: { digest: 'd'.repeat(64), tier: 'host', state: 'ready', rank: 8, bytes: 10 },
  });
  assert.equal(data[0].max_model_len, 64);
  assert.ok(Number.isInteger(data[4].created));
});

test('one card by name, alias, base name and version; a slash plain or encoded, decoded once', async (t) => {
  const server = startApp(t);
  serveAdapters(server, [adapter('org/b', { aliases: ['b-stable'] })]);
  const card = (path: string): Promise<{ json(): { id: string } }> => server.app.inject({ url: `/v1/models/${path}` });
  for (const [path, id] of [
    ['tiny', 'tiny'],
    ['org/b', 'org/b'],
    ['org%2Fb', 'org/b'],
    ['b-stable', 'b-stable'],
    ['tiny:org%2Fb', 'org/b'],
    ['tiny%3Aorg/b', 'org/b'],
    [`org%2Fb@sha256:${'d'.repeat(64)}`, 'org/b'],
  ] as const) {
    assert.equal((await card(path)).json().id, id, path);
  }
  for (const path of ['nobody', 'org%252Fb', '..%2Fetc', 'a/b/c', `org/b@sha256:${'e'.repeat(64)}`]) {
    assertError(await server.app.inject({ url: `/v1/models/${path}` }), 404, 'model_not_found', 'model');
  }
});

test('the list is kept until adapters come or go', async (t) => {
  const server = startApp(t);
  const { app, engine } = server;
  serveAdapters(server, [adapter('a')]);
  const ids = async (): Promise<string[]> =>
    (await app.inject({ url: '/v1/models' })).json().data.map(({ id }: { id: string }) => id);
  for (let at = 0; at < 5; at += 1) assert.deepEqual(await ids(), ['tiny', 'a']);
  assert.equal(engine.adminCalls.length, 1);
  serveAdapters(server, [adapter('a'), adapter('b')]);
  const load = { kind: 'adapter-load', name: 'b', source: 'dir', fromHost: false, seconds: 1, bytes: 1 } as const;
  engine.report({ ...load, result: 'ok', code: null });
  assert.deepEqual(await ids(), ['tiny', 'a', 'b']);
  serveAdapters(server, [adapter('b')]);
  engine.report({ kind: 'adapter-evict', tier: 'host', name: 'a', reason: 'admin', bytes: 1 });
  assert.deepEqual(await ids(), ['tiny', 'b']);
});

test('a list that fails is not kept', async (t) => {
  const server = startApp(t);
  server.engine.onAdmin = () => {
    throw new LoramuxError('ERR_ENGINE_FATAL', 'gone');
  };
  assertError(await server.app.inject({ url: '/v1/models' }), 500, 'engine_failed', null);
  serveAdapters(server, []);
  assert.equal((await server.app.inject({ url: '/v1/models' })).json().data.length, 1);
});
