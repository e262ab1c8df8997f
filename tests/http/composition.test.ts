import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startApp, type TestApp } from '../helpers/http-app.js';

async function generate({ app }: TestApp, parameters: object, url = '/generate') {
  return app.inject({ method: 'POST', url, payload: { inputs: 'hi', parameters } });
}

const TWO = [
  { id: 'a', weight: 0.5 },
  { id: 'org/b', weight: -2 },
];

test('a list of adapters reaches the engine with its weights, and the reply names all of them', async (t) => {
  const served = startApp(t);
  served.engine.onSubmit = (call) => {
    call.admit({ digest: 'd1,d2' }).tokens('ok').finish('length');
  };
  const reply = await generate(served, { adapters: TWO, max_new_tokens: 2 });
  assert.equal(reply.statusCode, 200, reply.body);
  const { adapter, composition } = served.engine.calls[0]?.request ?? assert.fail();
  assert.equal(adapter, 'a,org/b');
  assert.deepEqual(composition, {
    kind: 'sum',
    members: [
      { name: 'a', weight: 0.5 },
      { name: 'org/b', weight: -2 },
    ],
  });
  assert.equal(reply.headers['x-adapter-id'], 'a,org/b');
  assert.equal(reply.headers['x-loramux-adapter-digest'], 'd1,d2');
  assert.equal(served.metrics.generations[0]?.adapter, 'a,org/b');

  const stream = await generate(served, { adapters: TWO, max_new_tokens: 2 }, '/generate_stream');
  assert.equal(stream.headers['x-adapter-id'], 'a,org/b');
});

test('one adapter at weight 1 is that adapter; at another weight it is a list of one', async (t) => {
  const served = startApp(t);
  for (const adapters of [[{ id: 'a' }], [{ id: 'a', weight: 1 }], [{ id: 'a', weight: null }]]) {
    await generate(served, { adapters });
    const request = served.engine.calls.at(-1)?.request;
    assert.equal(request?.adapter, 'a');
    assert.equal(request?.composition, undefined);
  }
  await generate(served, { adapters: [{ id: 'a', weight: 0.5 }] });
  const request = served.engine.calls.at(-1)?.request;
  assert.deepEqual(request?.composition, { kind: 'sum', members: [{ name: 'a', weight: 0.5 }] });
});

const REFUSED: readonly (readonly [object, RegExp])[] = [
  [{ adapters: [] }, /`adapters` must be a list of 1 to 8 objects \{id, weight\}, got 0/],
  [{ adapters: Array.from({ length: 9 }, (_, at) => ({ id: `a${at}` })) }, /got 9/],
  [{ adapters: { id: 'a' } }, /must be a list of 1 to 8/],
  [{ adapters: ['a'] }, /`adapters\[0\]` must be an object/],
  [{ adapters: [{ weight: 1 }] }, /`adapters\[0\].id` must be a string/],
  [{ adapters: [{ id: '../a' }] }, /`adapters\[0\].id` must be an adapter name/],
  [{ adapters: [{ id: '' }] }, /`adapters\[0\].id` must name an adapter: the base is/],
  [{ adapters: [{ id: 'a' }, { id: '__base__' }] }, /`adapters\[1\].id` must name an adapter/],
  [{ adapters: [{ id: 'a', weight: '1' }] }, /`adapters\[0\].weight` must be a number/],
  [{ adapters: [{ id: 'a', weight: 1e39 }] }, /`adapters\[0\].weight` must be finite in float32, got 1e\+39/],
  [{ adapters: [{ id: 'a', scale: 1 }] }, /unknown field `adapters\[0\].scale`/],
  [{ adapters: [{ id: 'a' }, { id: 'a' }] }, /must name each adapter once, got a twice/],
  [{ adapters: TWO, adapter_id: 'a' }, /at most one of `adapter_id` or `adapters` may be provided/],
  [{ adapters: TWO, adapter_names: ['a'] }, /at most one of `adapter_names` or `adapters` may be provided/],
];

for (const [parameters, message] of REFUSED) {
  test(`${JSON.stringify(parameters).slice(0, 90)} is refused`, async (t) => {
    const served = startApp(t);
    const reply = await generate(served, parameters);
    assert.equal(reply.statusCode, 422, reply.body);
    assert.equal(reply.json().error_type, 'validation');
    assert.match(reply.json().error, message);
    assert.equal(served.engine.calls.length, 0);
  });
}
