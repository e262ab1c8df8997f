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

const IDS = { ids: ['a', 'b'], weights: [0.5, -2] };

test('merged_adapters reach the engine as a recipe; what a strategy does not use leaves no trace in it', async (t) => {
  const served = startApp(t);
  const members = [
    { name: 'a', weight: 0.5 },
    { name: 'b', weight: -2 },
  ];
  const cases: readonly (readonly [object, object])[] = [
    [{}, { formula: 'lorax', strategy: 'linear', density: 0, majoritySign: 'total' }],
    [
      { merge_strategy: 'LINEAR', density: 0.5, majority_sign_method: 'frequency' },
      { formula: 'lorax', strategy: 'linear', density: 0, majoritySign: 'total' },
    ],
    [{ merge_strategy: 'ties' }, { formula: 'lorax', strategy: 'ties', density: 0, majoritySign: 'total' }],
    [
      { merge_strategy: 'dare_ties', density: 2, majority_sign_method: 'Frequency' },
      { formula: 'lorax', strategy: 'dare_ties', density: 2, majoritySign: 'frequency' },
    ],
    [
      { merge_strategy: 'peft_dare_linear', density: 0.5, majority_sign_method: 'frequency' },
      { formula: 'peft', strategy: 'dare_linear', density: 0.5, majoritySign: 'total' },
    ],
  ];
  for (const [fields, method] of cases) {
    const reply = await generate(served, { merged_adapters: { ...IDS, ...fields } });
    assert.equal(reply.statusCode, 200, reply.body);
    assert.deepEqual(served.engine.calls.at(-1)?.request.composition, { kind: 'merge', members, method });
    assert.equal(reply.headers['x-adapter-id'], 'a,b');
  }
  await generate(served, { merged_adapters: { ...IDS, merge_strategy: 'peft_cat', density: 0.5 } });
  assert.deepEqual(served.engine.calls.at(-1)?.request.composition, { kind: 'sum', members });
});

test('one merged adapter: LoRAX ignores its weight, PEFT applies it', async (t) => {
  const served = startApp(t);
  await generate(served, { merged_adapters: { ids: ['a'], weights: [0.5], merge_strategy: 'ties' } });
  assert.equal(served.engine.calls.at(-1)?.request.adapter, 'a');
  assert.equal(served.engine.calls.at(-1)?.request.composition, undefined);
  await generate(served, { merged_adapters: { ids: ['a'], weights: [0.5], merge_strategy: 'peft_linear' } });
  assert.deepEqual(served.engine.calls.at(-1)?.request.composition, {
    kind: 'sum',
    members: [{ name: 'a', weight: 0.5 }],
  });
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
  [{ merged_adapters: IDS, adapter_id: 'a' }, /^[^:]+: at most one of `adapter_id` or `adapters` may be provided$/],
  [{ merged_adapters: IDS, adapter_id: '' }, /^[^:]+: at most one of `adapter_id` or `adapters` may be provided$/],
  [
    { merged_adapters: { ids: [], weights: [] }, temperature: -1 },
    /^[^:]+: at least one adapter ID must be provided when setting `adapters`$/,
  ],
  [{ merged_adapters: { ids: ['a', 'b'] } }, /^[^:]+: number of adapter IDs must match number of adapter weights$/],
  [{ merged_adapters: { ids: ['a', 'b'], weights: [1] } }, /number of adapter IDs must match/],
  [{ merged_adapters: { weights: [1] } }, /`ids` must be a list of strings/],
  [{ merged_adapters: { ids: ['a', '__base__'], weights: [1, 1] } }, /`ids\[1\]` must name an adapter/],
  [{ merged_adapters: { ids: ['a', 'b'], weights: [1, null] } }, /`weights\[1\]` must be a number, got null/],
  [{ merged_adapters: { ...IDS, merge_strategy: 'svd' } }, /`merge_strategy` must be one of linear, ties, .*peft_cat$/],
  [{ merged_adapters: { ...IDS, majority_sign_method: 'most' } }, /`majority_sign_method` must be total or frequency/],
  [{ merged_adapters: { ...IDS, merge_strategy: 'ties', density: -0.1 } }, /`density` must be >= 0, got -0.1/],
  [{ merged_adapters: { ...IDS, merge_strategy: 'peft_ties' } }, /`density` must be > 0 and <= 1 .*got nothing/],
  [{ merged_adapters: { ...IDS, merge_strategy: 'peft_ties', density: 0 } }, /`density` must be > 0 and <= 1/],
  [{ merged_adapters: { ...IDS, merge_strategy: 'peft_ties', density: 1.5 } }, /`density` must be > 0 and <= 1/],
  [{ merged_adapters: { ...IDS, rank: 8 } }, /unknown field `merged_adapters.rank`/],
  [
    { merged_adapters: { ids: ['a', 'a'], weights: [1, 1], merge_strategy: 'peft_cat' } },
    /must name each adapter once, got a twice/,
  ],
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
