import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startApp } from '../../helpers/http-app.js';
import { assertError, complete } from './support.js';

test('with adapter_source a model is a repository or an address', async (t) => {
  const { app, engine } = startApp(t);
  const ask = async (fields: object) => {
    const reply = await complete(app, fields);
    assert.equal(reply.statusCode, 200, reply.body);
    const { adapter, adapterSources, composition } = engine.calls.at(-1)?.request ?? {};
    return { reply, adapter, composition, sources: adapterSources && Object.fromEntries(adapterSources) };
  };
  const hub = await ask({ model: 'org/name@v2', adapter_source: 'HUB', api_token: 'hf_secret' });
  assert.equal(hub.adapter, 'org/name@v2');
  const source = { type: 'hub', location: 'org/name', revision: 'v2', token: 'hf_secret' };
  assert.deepEqual(hub.sources, { 'org/name@v2': source });
  assert.equal(hub.reply.json().model, 'org/name@v2');
  assert.equal(hub.reply.headers['x-adapter-source'], 'hub');
  assert.ok(!hub.reply.body.includes('hf_secret'));
  const s3 = await ask({ model: 's3://bucket/some/key/', adapter_source: 's3' });
  assert.deepEqual(s3.sources, { 's3://bucket/some/key': { type: 's3', location: 's3://bucket/some/key' } });
  const below = await ask({ model: 'tiny:org/name', adapter_source: 'hub' });
  assert.deepEqual([below.adapter, Object.keys(below.sources ?? {})], ['org/name', ['org/name']]);
  const sum = await ask({ model: 'tiny', adapters: [{ id: 'a/b' }, { id: 'c/d', weight: 2 }], adapter_source: 'hub' });
  assert.deepEqual(Object.keys(sum.sources ?? {}), ['a/b', 'c/d']);
  assert.equal(sum.composition?.kind, 'sum');
  for (const model of ['tiny', '']) {
    const base = await ask({ model, adapter_source: 'hub' });
    assert.deepEqual([base.adapter, base.sources], ['__base__', undefined]);
  }
  const own = await ask({ model: 'sql', adapter_source: 'local', api_token: '' });
  assert.deepEqual([own.adapter, own.sources], ['sql', undefined]);
});

const REFUSED: readonly (readonly [object, string, string])[] = [
  [{ model: 'a/b', adapter_source: 'pbase' }, 'invalid_value', 'adapter_source'],
  [{ model: 'a/b', adapter_source: 5 }, 'invalid_type', 'adapter_source'],
  [{ model: 'name', adapter_source: 'hub' }, 'invalid_value', 'model'],
  [{ model: '../../etc', adapter_source: 'hub' }, 'invalid_value', 'model'],
  [{ model: 's3://b,c/d', adapter_source: 's3' }, 'invalid_value', 'model'],
  [{ model: 'tiny', adapters: [{ id: 'x' }], adapter_source: 'hub' }, 'invalid_value', 'adapters[0].id'],
  [{ model: 'sql', api_token: 't' }, 'invalid_value', 'api_token'],
  [{ model: 'a/b', adapter_source: 'hub', api_token: 'a b' }, 'invalid_value', 'api_token'],
  [{ model: 'a/b', adapter_source: 'hub', api_token: 7 }, 'invalid_type', 'api_token'],
];

for (const [fields, code, param] of REFUSED) {
  test(`${JSON.stringify(fields)} is refused`, async (t) => {
    const { app, engine } = startApp(t);
    assertError(await complete(app, fields), 400, code, param);
    assert.equal(engine.calls.length, 0);
  });
}

test('sources that the operator does not allow are refused', async (t) => {
  const { app } = startApp(t, { requestSources: [] });
  assertError(await complete(app, { model: 'a/b', adapter_source: 'hub' }), 400, 'invalid_value', 'adapter_source');
});
