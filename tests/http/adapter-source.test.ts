import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { FastifyInstance, LightMyRequestResponse as Response } from 'fastify';
import { startApp } from '../helpers/http-app.js';

function post(app: FastifyInstance, parameters: object, headers: Record<string, string> = {}): Promise<Response> {
  return app.inject({ method: 'POST', url: '/', headers, payload: { inputs: 'hi', parameters } });
}

test('adapter_source hub names a repository, shown as it was asked for', async (t) => {
  const { app, engine } = startApp(t);
  const reply = await post(app, { adapter_id: 'org/name@v2', adapter_source: 'HUB', api_token: 'hf_secret' });
  assert.equal(reply.statusCode, 200, reply.body);
  assert.equal(reply.headers['x-adapter-id'], 'org/name@v2');
  assert.equal(reply.headers['x-adapter-source'], 'hub');
  const { adapter, adapterSources } = engine.calls[0]?.request ?? {};
  assert.equal(adapter, 'org/name@v2');
  const source = { type: 'hub', location: 'org/name', revision: 'v2', token: 'hf_secret' };
  assert.deepEqual([...(adapterSources ?? [])], [['org/name@v2', source]]);
});

test('all adapters of a merge come from the source; the base needs none', async (t) => {
  const { app, engine } = startApp(t);
  const merged_adapters = { ids: ['a/b', 'c/d'], weights: [1, 1], density: 0.5 };
  await post(app, { merged_adapters, adapter_source: 'hub' });
  assert.deepEqual([...(engine.calls[0]?.request.adapterSources?.keys() ?? [])], ['a/b', 'c/d']);
  await post(app, { adapter_source: 'hub' });
  assert.equal(engine.calls[1]?.request.adapterSources, undefined);
  await post(app, { adapter_id: 'bucket/some/key/', adapter_source: 's3' });
  assert.deepEqual([...(engine.calls[2]?.request.adapterSources ?? [])][0], [
    's3://bucket/some/key',
    { type: 's3', location: 's3://bucket/some/key' },
  ]);
});

test('a bearer key never becomes a token of the hub', async (t) => {
  const { app, engine, lines } = startApp(t);
  await post(app, { adapter_id: 'org/name', adapter_source: 'hub' }, { authorization: 'Bearer our-own-key' });
  const [source] = [...(engine.calls[0]?.request.adapterSources?.values() ?? [])];
  assert.deepEqual(source, { type: 'hub', location: 'org/name', revision: 'main', token: null });
  await post(app, { adapter_id: 'org/name', adapter_source: 'hub', api_token: 'hf_secret' });
  assert.ok(!lines.join('').includes('hf_secret'));
});

const REFUSED: readonly (readonly [object, RegExp])[] = [
  [{ adapter_source: 'pbase' }, /`adapter_source` must be one of local, hub, s3 or null on this server/],
  [{ adapter_id: 'name', adapter_source: 'hub' }, /`adapter_id` must be ORG\/NAME, optionally with @REVISION/],
  [{ adapter_id: '../../etc', adapter_source: 'hub' }, /`adapter_id` must be ORG\/NAME/],
  [{ adapter_id: 's3://b,c/d', adapter_source: 's3' }, /`adapter_id` must be s3:\/\/BUCKET\/PREFIX/],
  [{ merged_adapters: { ids: ['x'], weights: [1] }, adapter_source: 'hub' }, /`ids\[0\]` must be ORG\/NAME/],
  [{ adapter_id: 'a', api_token: 't' }, /`api_token` opens repositories of a hub/],
  [{ adapter_id: 'a/b', adapter_source: 's3', api_token: 't' }, /`api_token` opens repositories of a hub/],
  [{ adapter_id: 'a/b', adapter_source: 'hub', api_token: 'a b' }, /`api_token` must be printable ASCII/],
  [{ api_token: 5 }, /`api_token` must be a string, got 5/],
];

for (const [parameters, message] of REFUSED) {
  test(`422 for ${JSON.stringify(parameters)}`, async (t) => {
    const { app, engine } = startApp(t);
    const reply = await post(app, parameters);
    assert.equal(reply.statusCode, 422, reply.body);
    assert.match(reply.json().error, message);
    assert.equal(engine.calls.length, 0);
  });
}

test('a server may allow no sources at all', async (t) => {
  const { app } = startApp(t, { requestSources: [] });
  const reply = await post(app, { adapter_id: 'a/b', adapter_source: 'hub' });
  assert.match(reply.json().error, /`adapter_source` must be one of local or null on this server/);
});
