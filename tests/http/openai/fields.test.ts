import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { GenerateRequest } from '../../../src/core/request.js';
import { COMPLETION_FIELDS } from '../../../src/server/openai/completion-body.js';
import { SPECIAL } from '../../helpers/byte-tokenizer.js';
import { startApp } from '../../helpers/http-app.js';
import { assertError, complete } from './support.js';

const EOS = SPECIAL['</s>'];

/** What a field makes of the engine's request: the fields sent, and a part of what must come out. */
type Acting = readonly [object, (request: GenerateRequest) => unknown, unknown];

const sampled = (fields: object, of: keyof GenerateRequest['sampling'], value: unknown): Acting => [
  fields,
  ({ sampling }) => sampling[of],
  value,
];

/** Fields that reach the engine. The rest of the served ones shape replies, and are tested where they do. */
const ACTING: Readonly<Record<string, readonly Acting[]>> = {
  adapters: [
    [{ adapters: [{ id: 'a', weight: 0.5 }, { id: 'b' }] }, ({ adapter }) => adapter, 'a,b'],
    [
      { adapters: [{ id: 'a', weight: 0.5 }, { id: 'b' }] },
      ({ composition }) => composition?.members,
      [
        { name: 'a', weight: 0.5 },
        { name: 'b', weight: 1 },
      ],
    ],
    [{ model: '', adapters: [{ id: 'a' }] }, ({ adapter, composition }) => [adapter, composition], ['a', undefined]],
  ],
  add_special_tokens: [
    [{}, ({ promptIds }) => promptIds.length, 3],
    [{ add_special_tokens: false }, ({ promptIds }) => promptIds.length, 2],
  ],
  cache_salt: [[{ cache_salt: 'pepper' }, ({ cacheSalt }) => cacheSalt, 'pepper']],
  frequency_penalty: [
    sampled({ frequency_penalty: -2 }, 'frequencyPenalty', -2),
    sampled({ frequency_penalty: 1 }, 'penaltyScope', 'output'),
  ],
  guided_choice: [
    [{ guided_choice: ['a', 'b'] }, ({ constraint }) => constraint, { kind: 'choice', choices: ['a', 'b'] }],
  ],
  guided_grammar: [
    [{ guided_grammar: 'start: "a"' }, ({ constraint }) => constraint, { kind: 'grammar', grammar: 'start: "a"' }],
  ],
  guided_json: [
    [
      { guided_json: '{"type":"null"}' },
      ({ constraint }) => constraint,
      { kind: 'json_schema', schema: '{"type":"null"}' },
    ],
  ],
  guided_regex: [[{ guided_regex: 'a+' }, ({ constraint }) => constraint, { kind: 'regex', pattern: 'a+' }]],
  ignore_eos: [
    [{}, ({ stopIds }) => stopIds, [EOS]],
    [{ ignore_eos: true }, ({ stopIds }) => stopIds, []],
  ],
  ignore_eos_token: [
    [{ ignore_eos_token: true }, ({ stopIds }) => stopIds, []],
    [{ ignore_eos_token: true, ignore_eos: true }, ({ stopIds }) => stopIds, []],
  ],
  logit_bias: [
    sampled(
      { logit_bias: { 65: -100, 66: 0.5 } },
      'logitBias',
      new Map([
        [65, -100],
        [66, 0.5],
      ]),
    ),
  ],
  max_tokens: [
    [{}, ({ maxNewTokens }) => maxNewTokens, 16],
    [{ max_tokens: 5 }, ({ maxNewTokens }) => maxNewTokens, 5],
  ],
  min_p: [sampled({ min_p: 0.1 }, 'minP', 0.1)],
  min_tokens: [[{ min_tokens: 3 }, ({ minNewTokens }) => minNewTokens, 3]],
  model: [
    [{ model: '' }, ({ adapter }) => adapter, '__base__'],
    [{ model: 'tiny' }, ({ adapter }) => adapter, '__base__'],
    [{ model: 'org/sql' }, ({ adapter }) => adapter, 'org/sql'],
    [{ model: 'tiny:sql' }, ({ adapter }) => adapter, 'sql'],
    [{ model: `sql@sha256:${'d'.repeat(64)}` }, ({ adapter }) => adapter, 'sql'],
  ],
  presence_penalty: [sampled({ presence_penalty: 2 }, 'presencePenalty', 2)],
  prompt: [
    [{ prompt: 'A' }, ({ promptIds }) => [...promptIds], [SPECIAL['<s>'], 65]],
    [{ prompt: ['A'] }, ({ promptIds }) => [...promptIds], [SPECIAL['<s>'], 65]],
    [{ prompt: [65, 66] }, ({ promptIds }) => [...promptIds], [65, 66]],
    [{ prompt: [[65, 66]] }, ({ promptIds }) => [...promptIds], [65, 66]],
  ],
  repetition_penalty: [sampled({ repetition_penalty: 1.3 }, 'repetitionPenalty', 1.3)],
  seed: [
    sampled({ seed: 7 }, 'seed', 7n),
    sampled({ seed: -1 }, 'seed', 2n ** 64n - 1n),
    sampled({}, 'seed', 42n),
    sampled({ seed: 7, temperature: 0 }, 'seed', 0n),
  ],
  stop_token_ids: [[{ stop_token_ids: [65] }, ({ stopIds }) => stopIds, [EOS, 65]]],
  structured_outputs: [
    [
      { structured_outputs: { json: { type: 'object' } } },
      ({ constraint }) => constraint,
      { kind: 'json_schema', schema: '{"type":"object"}' },
    ],
    [{ structured_outputs: { json_object: true } }, ({ constraint }) => constraint, { kind: 'json_object' }],
    [
      { structured_outputs: { regex: 'x', choice: null } },
      ({ constraint }) => constraint,
      { kind: 'regex', pattern: 'x' },
    ],
  ],
  temperature: [
    sampled({}, 'temperature', 1),
    sampled({}, 'greedy', false),
    sampled({ temperature: 0 }, 'greedy', true),
    sampled({ temperature: 1e-60 }, 'greedy', true),
    sampled({ temperature: 2 }, 'temperature', 2),
  ],
  top_k: [sampled({ top_k: 5 }, 'topK', 5), sampled({ top_k: -1 }, 'topK', 0), sampled({ top_k: 0 }, 'topK', 0)],
  top_p: [sampled({ top_p: 0.9 }, 'topP', 0.9), sampled({ top_p: 0 }, 'topK', 1)],
  truncate_prompt_tokens: [
    [{ prompt: [1, 2, 3], truncate_prompt_tokens: 2 }, ({ promptIds }) => [...promptIds], [2, 3]],
    [{ prompt: Array(90).fill(1), truncate_prompt_tokens: -1 }, ({ promptIds }) => promptIds.length, 48],
  ],
  truncation_side: [
    [
      { prompt: [1, 2, 3], truncate_prompt_tokens: 2, truncation_side: 'right' },
      ({ promptIds }) => [...promptIds],
      [1, 2],
    ],
  ],
  typical_p: [sampled({ typical_p: 0.5 }, 'typicalP', 0.5)],
};

/** Served fields whose effect is in the reply: tested in completions, streaming and prompts. */
const SHAPING = [
  'best_of',
  'echo',
  'include_stop_str_in_output',
  'logprobs',
  'n',
  'request_id',
  'return_token_ids',
  'return_tokens_as_token_ids',
  'skip_special_tokens',
  'stop',
  'stream',
  'stream_options',
  'user',
  // Below, and where LoRAX's same fields are tested.
  'adapter_source',
  'api_token',
];

test('every served field is tested', () => {
  assert.deepEqual([...COMPLETION_FIELDS.served].sort(), [...Object.keys(ACTING), ...SHAPING].sort());
});

for (const [field, cases] of Object.entries(ACTING)) {
  test(`${field} acts`, async (t) => {
    const { app, engine } = startApp(t, { drawSeed: () => 42n });
    engine.onSubmit = (call) => call.admit().tokens('k'.repeat(call.request.maxNewTokens)).finish('length');
    for (const [fields, part, expected] of cases) {
      const reply = await complete(app, fields);
      assert.equal(reply.statusCode, 200, reply.body);
      const request = engine.calls.at(-1)?.request;
      assert.ok(request);
      assert.deepEqual(part(request), expected, JSON.stringify(fields));
    }
  });
}

test('a 64-bit seed keeps all its digits', async (t) => {
  const { app, engine } = startApp(t);
  const body = '{"model":"tiny","prompt":"hi","seed":9223372036854775807}';
  const reply = await app.inject({
    method: 'POST',
    url: '/v1/completions',
    headers: { 'content-type': 'application/json' },
    payload: body,
  });
  assert.equal(reply.statusCode, 200);
  assert.equal(engine.calls[0]?.request.sampling.seed, 2n ** 63n - 1n);
});

test('null is absent for every optional field', async (t) => {
  const { app, engine } = startApp(t, { drawSeed: () => 42n });
  await complete(app, {});
  const { refused, neutral, served } = COMPLETION_FIELDS;
  const optional = [...served, ...Object.keys(neutral), ...Object.keys(refused)].filter(
    (field) => field !== 'model' && field !== 'prompt',
  );
  const reply = await complete(app, Object.fromEntries(optional.map((field) => [field, null])));
  assert.equal(reply.statusCode, 200, reply.body);
  const [plain, nulls] = engine.calls.map(({ request: { id: _, ...rest } }) => rest);
  assert.deepEqual(nulls, plain);
});

test('neutral values are accepted, others and unsupported fields refused by name', async (t) => {
  const { app } = startApp(t);
  for (const [field, values] of Object.entries(COMPLETION_FIELDS.neutral)) {
    for (const value of values) {
      assert.equal((await complete(app, { [field]: value })).statusCode, 200, field);
    }
    assertError(await complete(app, { [field]: 'something else' }), 400, 'unsupported_parameter', field);
  }
  for (const field of Object.keys(COMPLETION_FIELDS.refused)) {
    assertError(await complete(app, { [field]: [] }), 400, 'unsupported_parameter', field);
  }
  assertError(await complete(app, { suffix: 'x' }), 400, 'unsupported_parameter', 'suffix');
  for (const field of ['max_new_tokens', 'nonsense', 'constructor', 'toString']) {
    assertError(await complete(app, { [field]: null }), 400, 'unknown_parameter', field);
  }
});

/** Values that are refused, the code, and the path when it is not the field itself. */
const REFUSED: readonly (readonly [object, string, string])[] = [
  [{ temperature: 'hot' }, 'invalid_type', 'temperature'],
  [{ temperature: 2.1 }, 'invalid_value', 'temperature'],
  [{ temperature: -0.1 }, 'invalid_value', 'temperature'],
  [{ top_p: 1.1 }, 'invalid_value', 'top_p'],
  [{ top_k: -2 }, 'invalid_value', 'top_k'],
  [{ top_k: 1.5 }, 'invalid_type', 'top_k'],
  [{ min_p: 2 }, 'invalid_value', 'min_p'],
  [{ typical_p: 0 }, 'invalid_value', 'typical_p'],
  [{ repetition_penalty: 0 }, 'invalid_value', 'repetition_penalty'],
  [{ presence_penalty: 3 }, 'invalid_value', 'presence_penalty'],
  [{ frequency_penalty: -3 }, 'invalid_value', 'frequency_penalty'],
  [{ n: 0 }, 'invalid_value', 'n'],
  [{ n: 17 }, 'invalid_value', 'n'],
  [{ best_of: 3 }, 'invalid_value', 'best_of'],
  [{ n: 2, best_of: 1 }, 'invalid_value', 'best_of'],
  [{ best_of: 2, stream: true }, 'invalid_value', 'best_of'],
  [{ max_tokens: -1 }, 'invalid_value', 'max_tokens'],
  [{ max_tokens: 0 }, 'invalid_value', 'max_tokens'],
  [{ min_tokens: 17 }, 'invalid_value', 'min_tokens'],
  [{ stop: '' }, 'invalid_value', 'stop'],
  [{ stop: ['a', 1] }, 'invalid_type', 'stop[1]'],
  [{ stop: Array(17).fill('a') }, 'invalid_value', 'stop'],
  [{ stop_token_ids: [512] }, 'invalid_value', 'stop_token_ids[0]'],
  [{ seed: 1.5 }, 'invalid_type', 'seed'],
  [{ seed: '7' }, 'invalid_type', 'seed'],
  [{ logit_bias: { x: 1 } }, 'invalid_value', 'logit_bias'],
  [{ logit_bias: { 512: 1 } }, 'invalid_value', 'logit_bias'],
  [{ logit_bias: { 5: 101 } }, 'invalid_value', 'logit_bias.5'],
  [{ logit_bias: { 5: 1, '05': 1 } }, 'invalid_value', 'logit_bias'],
  [{ logprobs: 21 }, 'invalid_value', 'logprobs'],
  [{ logprobs: true }, 'invalid_type', 'logprobs'],
  [{ echo: 'yes' }, 'invalid_type', 'echo'],
  [{ user: 5 }, 'invalid_type', 'user'],
  [{ cache_salt: '' }, 'invalid_value', 'cache_salt'],
  [{ cache_salt: 'a/b' }, 'invalid_value', 'cache_salt'],
  [{ request_id: 'a b' }, 'invalid_value', 'request_id'],
  [{ priority: 1 }, 'unsupported_parameter', 'priority'],
  [{ stream_options: {} }, 'invalid_value', 'stream_options'],
  [{ stream: true, stream_options: { x: 1 } }, 'unknown_parameter', 'stream_options.x'],
  [
    { stream: true, stream_options: { include_obfuscation: true } },
    'unsupported_parameter',
    'stream_options.include_obfuscation',
  ],
  [{ ignore_eos: false, ignore_eos_token: true }, 'invalid_value', 'ignore_eos_token'],
  [{ truncate_prompt_tokens: 0 }, 'invalid_value', 'truncate_prompt_tokens'],
  [{ truncation_side: 'middle' }, 'invalid_value', 'truncation_side'],
  [{ structured_outputs: {} }, 'invalid_value', 'structured_outputs'],
  [{ structured_outputs: { json: {}, regex: 'a' } }, 'invalid_value', 'structured_outputs'],
  [{ structured_outputs: { structural_tag: '{}' } }, 'unsupported_parameter', 'structured_outputs.structural_tag'],
  [{ structured_outputs: { regex: 'a' }, guided_choice: ['a'] }, 'invalid_value', 'structured_outputs.regex'],
  [{ structured_outputs: { json: '{' } }, 'invalid_value', 'structured_outputs.json'],
  [{ guided_choice: [] }, 'invalid_value', 'guided_choice'],
  [{ guided_regex: '' }, 'invalid_value', 'guided_regex'],
  [{ model: null }, 'missing_required_parameter', 'model'],
  [{ model: 5 }, 'invalid_type', 'model'],
  [{ model: 'a', adapters: [{ id: 'b' }] }, 'invalid_value', 'adapters'],
  [{ adapters: [] }, 'invalid_value', 'adapters'],
  [{ adapters: [{ id: 'b' }, { id: 'b' }] }, 'invalid_value', 'adapters'],
  [{ adapters: [{ id: 'b', weight: 1e300 }] }, 'invalid_value', 'adapters[0].weight'],
  [{ adapters: [{ weight: 1 }] }, 'missing_required_parameter', 'adapters[0].id'],
  [{ prompt: null }, 'missing_required_parameter', 'prompt'],
  [{ prompt: '' }, 'invalid_value', 'prompt'],
  [{ prompt: [] }, 'invalid_value', 'prompt'],
  [{ prompt: [[]] }, 'invalid_value', 'prompt[0]'],
  [{ prompt: ['a', ''] }, 'invalid_value', 'prompt[1]'],
  [{ prompt: ['a', 5] }, 'invalid_type', 'prompt[1]'],
  [{ prompt: [[1], 'a'] }, 'invalid_type', 'prompt[1]'],
  [{ prompt: [1, 'a'] }, 'invalid_type', 'prompt[1]'],
  [{ prompt: [1, 512] }, 'invalid_value', 'prompt[1]'],
  [{ prompt: [-1] }, 'invalid_value', 'prompt[0]'],
  [{ prompt: [{}] }, 'invalid_type', 'prompt[0]'],
  [{ prompt: Array(129).fill('a') }, 'invalid_value', 'prompt'],
  [{ prompt: '\ud800' }, 'invalid_value', 'prompt'],
];

test('values out of bounds and of the wrong type are refused with their path', async (t) => {
  const { app, engine } = startApp(t);
  for (const [fields, code, path] of REFUSED) assertError(await complete(app, fields), 400, code, path);
  assert.equal(engine.calls.length, 0);
});

test('a name that can be no model is a 404, and never the base', async (t) => {
  const { app, engine } = startApp(t);
  for (const model of ['../etc', 'a b', 'sql@v2', 'sql@sha256:xyz', 'a,b', 'other:sql', 'tiny:', '__base__']) {
    assertError(await complete(app, { model }), 404, 'model_not_found', 'model');
  }
  assert.equal(engine.calls.length, 0);
  // Another version than the one that was asked for.
  const other = await complete(app, { model: `sql@sha256:${'a'.repeat(64)}` });
  assertError(other, 404, 'model_not_found', 'model');
  assert.equal(engine.calls[0]?.aborted, true);
});
