import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { MAX_CONFIG_BYTES, parseAdapterConfig } from '../../../src/adapters/config.js';
import { REFUSED_KEYS } from '../../../src/adapters/config-rules.js';
import { LoramuxError, type Offender } from '../../../src/core/errors.js';
import { DEMO_ADAPTERS } from './support.js';

const FILE = 'adapter_config.json';

function parse(fields: object | string): ReturnType<typeof parseAdapterConfig> {
  const text = typeof fields === 'string' ? fields : JSON.stringify({ peft_type: 'LORA', ...fields });
  return parseAdapterConfig(new TextEncoder().encode(text), FILE);
}

function offendersOf(fields: object | string): readonly Offender[] {
  try {
    parse(fields);
  } catch (thrown) {
    assert.ok(thrown instanceof LoramuxError);
    assert.equal(thrown.code, 'ERR_ADAPTER_INVALID');
    assert.match(thrown.message, /^adapter_config\.json: /);
    return thrown.details?.offenders ?? [];
  }
  return [];
}

test('takes PEFT defaults for missing keys', () => {
  assert.deepEqual(parse({}), {
    baseModel: null,
    rank: 8,
    alpha: 8,
    rslora: false,
    dora: false,
    loraBias: false,
    bias: 'none',
    invocation: null,
    blockDiagonal: null,
    trainedWith: [],
    rankPattern: [],
    alphaPattern: [],
    targets: { kind: 'default' },
    excludes: null,
    layers: null,
    modulesToSave: [],
    trainableTokens: [],
    ensureWeightTying: false,
  });
});

for (const name of ['support-json', 'sql', 'sentiment', 'pirate']) {
  test(`reads the demo adapter ${name}`, async () => {
    const config = parseAdapterConfig(await readFile(join(DEMO_ADAPTERS, name, FILE)), FILE);
    assert.equal(config.baseModel, 'HuggingFaceTB/SmolLM2-135M-Instruct');
    assert.equal(config.dora, name === 'pirate');
    assert.equal(config.rslora, name === 'sql');
    assert.deepEqual(config.rankPattern, name === 'sentiment' ? [['v_proj', 8]] : []);
  });
}

test('keeps the file order of patterns, integer-like keys included', () => {
  const config = parse('{"peft_type": "LORA", "alpha_pattern": {"q_proj": 4, "1": 2.5, "0": 0}}');
  assert.deepEqual(config.alphaPattern, [
    ['q_proj', 4],
    ['1', 2.5],
    ['0', 0],
  ]);
});

test('reads each form of target_modules', () => {
  assert.deepEqual(parse({ target_modules: ['q_proj'] }).targets, { kind: 'names', names: ['q_proj'] });
  assert.deepEqual(parse({ target_modules: '.*q_proj' }).targets, { kind: 'pattern', pattern: '.*q_proj' });
  assert.deepEqual(parse({ target_modules: 'All-Linear' }).targets, { kind: 'all-linear' });
  assert.deepEqual(parse({ exclude_modules: 'all-linear' }).excludes, { kind: 'pattern', pattern: 'all-linear' });
});

test('reads layers as one index or a list, with or without patterns', () => {
  assert.deepEqual(parse({ layers_to_transform: 3 }).layers, { indices: [3], patterns: [] });
  assert.deepEqual(parse({ layers_to_transform: [1, 2], layers_pattern: 'layers' }).layers, {
    indices: [1, 2],
    patterns: ['layers'],
  });
  assert.equal(parse({ layers_to_transform: [], layers_pattern: [] }).layers, null);
});

test('reads which biases the file brings', () => {
  assert.equal(parse({ lora_bias: true }).loraBias, true);
  for (const bias of ['none', 'lora_only', 'all']) assert.equal(parse({ bias }).bias, bias);
  for (const bias of [null, '', false]) assert.equal(parse({ bias }).bias, 'none');
});

test('reads modules to save and trainable tokens', () => {
  assert.deepEqual(parse({ modules_to_save: ['norm', 'lm_head'] }).modulesToSave, ['norm', 'lm_head']);
  assert.deepEqual(parse({ trainable_token_indices: [5, 3, 5] }).trainableTokens, [
    { module: null, tokens: [5, 3, 5] },
  ]);
  assert.deepEqual(parse({ trainable_token_indices: { lm_head: [1], embed_tokens: [0] } }).trainableTokens, [
    { module: 'lm_head', tokens: [1] },
    { module: 'embed_tokens', tokens: [0] },
  ]);
  for (const off of [null, [], {}]) assert.deepEqual(parse({ trainable_token_indices: off }).trainableTokens, []);
});

test('refuses lora_bias with DoRA', () => {
  assert.deepEqual(
    offendersOf({ lora_bias: true, use_dora: true }).map((o) => o.key),
    ['lora_bias'],
  );
});

test('reads the blocks of block-diagonal LoRA', () => {
  const blocks = { target_modules_bd_a: ['o_proj'], target_modules_bd_b: null, nblocks: 4 };
  assert.deepEqual(parse({ use_bdlora: blocks }).blockDiagonal, { blocks: 4, a: ['o_proj'], b: [], strict: true });
  for (const wrong of [
    true,
    2,
    { nblocks: 0 },
    { nblocks: 1.5 },
    { match_strict: 1 },
    { target_modules_bd_a: 'q' },
    { x: 1 },
  ]) {
    assert.deepEqual(
      offendersOf({ use_bdlora: wrong }).map((o) => o.key),
      ['use_bdlora'],
    );
  }
  assert.deepEqual(
    offendersOf({ use_bdlora: blocks, lora_bias: true }).map((o) => o.key),
    ['lora_bias'],
  );
});

test('methods that matter in training only are noted', () => {
  assert.deepEqual(parse({ velora_config: { num_groups: 4 } }).trainedWith, ['velora']);
  assert.deepEqual(parse({ monteclora_config: { num_samples: 2 } }).trainedWith, ['monteclora']);
  assert.deepEqual(
    offendersOf({ velora_config: true }).map((o) => o.key),
    ['velora_config'],
  );
});

test('refuses two methods at once', () => {
  const on = { alora_invocation_tokens: [1], use_dora: true, use_bdlora: { nblocks: 2 }, velora_config: { x: 1 } };
  const pairs = Object.entries(on).flatMap(([key, value], at) =>
    Object.entries(on)
      .slice(at + 1)
      .map(([other, second]) => [other, { [key]: value, [other]: second }] as const),
  );
  for (const [second, fields] of pairs)
    assert.ok(
      offendersOf(fields).some(({ key }) => key === second),
      second,
    );
});

for (const key of REFUSED_KEYS.keys()) {
  test(`refuses ${key} when it is on and ignores it when it is off`, () => {
    for (const on of [true, 1, ['x'], { x: 1 }])
      assert.deepEqual(
        offendersOf({ [key]: on }).map((o) => o.key),
        [key],
      );
    for (const off of [null, false, [], {}, '']) assert.deepEqual(offendersOf({ [key]: off }), []);
  });
}

const REFUSALS: readonly (readonly [key: string, value: unknown])[] = [
  ['peft_type', 'ADALORA'],
  ['peft_type', 'lora'],
  ['task_type', 'SEQ_CLS'],
  ['bias', 'some'],
  ['bias', true],
  ['lora_bias', 1],
  ['modules_to_save', 'lm_head'],
  ['modules_to_save', [1]],
  ['trainable_token_indices', 5],
  ['trainable_token_indices', [-1]],
  ['trainable_token_indices', [1.5]],
  ['trainable_token_indices', { lm_head: [] }],
  ['trainable_token_indices', { lm_head: 3 }],
  ['trainable_token_indices', Array.from({ length: 4097 }, (_, i) => i)],
  ['ensure_weight_tying', 'yes'],
  ['init_lora_weights', 'pissa'],
  ['init_lora_weights', 'PiSSA_niter_16'],
  ['init_lora_weights', 'olora'],
  ['init_lora_weights', 'corda'],
  ['init_lora_weights', 'lora_ga'],
  ['init_lora_weights', 'loftq'],
  ['init_lora_weights', 'future'],
  ['init_lora_weights', 3],
  ['some_future_variant', true],
  ['r', 0],
  ['r', 257],
  ['r', 1.5],
  ['r', '8'],
  ['r', null],
  ['lora_alpha', 'x'],
  ['use_dora', 1],
  ['use_rslora', 'true'],
  ['rank_pattern', []],
  ['alpha_pattern', 'q'],
  ['target_modules', 7],
  ['target_modules', ['q_proj', 7]],
  ['target_modules', 'a'.repeat(513)],
  ['exclude_modules', { a: 1 }],
  ['layers_to_transform', -1],
  ['layers_to_transform', [0, 'x']],
  ['layers_pattern', 'layers'],
];
for (const [key, value] of REFUSALS) {
  test(`refuses ${key} = ${JSON.stringify(value).slice(0, 40)}`, () => {
    const offenders = offendersOf({ [key]: value });
    assert.deepEqual(
      offenders.map((o) => o.key),
      [key],
    );
    assert.ok((offenders[0]?.expected.length ?? 0) > 5);
  });
}

test('refuses layers together with a target pattern, as PEFT does', () => {
  assert.deepEqual(
    offendersOf({ target_modules: '.*q', layers_to_transform: [1] }).map((o) => o.key),
    ['layers_to_transform'],
  );
});

for (const init of [true, false, null, 'gaussian', 'EVA', 'orthogonal', 'mica']) {
  test(`takes init_lora_weights = ${init} as plain LoRA`, () => {
    assert.deepEqual(offendersOf({ init_lora_weights: init }), []);
  });
}

test('ignores what only training or bookkeeping needs', () => {
  const fields = {
    lora_dropout: 0.1,
    peft_version: '0.21',
    auto_mapping: { a: 1 },
    eva_config: { rho: 2 },
    megatron_core: 'x',
  };
  assert.deepEqual(offendersOf(fields), []);
});

test('lists every offender, not only the first', () => {
  const offenders = offendersOf({
    bias: 'boft_only',
    use_qalora: true,
    unheard_of: 1,
    rank_pattern: { a: 0, b: 300 },
    r: -1,
  });
  assert.deepEqual(offenders.map((o) => o.key).sort(), [
    'bias',
    'r',
    'rank_pattern["a"]',
    'rank_pattern["b"]',
    'unheard_of',
    'use_qalora',
  ]);
});

test('bounds the patterns', () => {
  const many = Object.fromEntries(Array.from({ length: 10_001 }, (_, i) => [`p${i}`, 1]));
  assert.match(offendersOf({ rank_pattern: many })[0]?.expected ?? '', /10000/);
  assert.match(offendersOf({ alpha_pattern: { ['a'.repeat(600)]: 1 } })[0]?.expected ?? '', /512/);
});

test('refuses infinite numbers', () => {
  assert.deepEqual(
    offendersOf('{"peft_type": "LORA", "lora_alpha": 1e999}').map((o) => o.key),
    ['lora_alpha'],
  );
});

for (const [what, text] of [
  ['text that is not JSON', '{'],
  ['a list', '[]'],
  ['a duplicate key', '{"peft_type": "LORA", "peft_type": "LORA"}'],
] as const) {
  test(`refuses ${what}`, () => {
    assert.equal(offendersOf(text).length, 1);
  });
}

test('refuses a file that is too long or not UTF-8 before parsing it', () => {
  assert.throws(() => parseAdapterConfig(new Uint8Array(MAX_CONFIG_BYTES + 1), FILE), /at most 1048576 bytes/);
  assert.throws(() => parseAdapterConfig(Uint8Array.of(0x22, 0xff, 0x22), FILE), /UTF-8/);
});

test('activated LoRA: the tokens that call it, and nothing beside a delta', () => {
  assert.deepEqual(parse({ alora_invocation_tokens: [5, 0, 5] }).invocation, [5, 0, 5]);
  assert.equal(parse({ alora_invocation_tokens: [] }).invocation, null);
  for (const value of [7, 'call', ['a'], [-1], [1.5], [2 ** 32], Array(513).fill(1)]) {
    assert.deepEqual(
      offendersOf({ alora_invocation_tokens: value }).map(({ key }) => key),
      ['alora_invocation_tokens'],
    );
  }
  for (const [key, value] of Object.entries({
    use_dora: true,
    modules_to_save: ['lm_head'],
    trainable_token_indices: [1],
    bias: 'all',
  })) {
    assert.deepEqual(
      offendersOf({ alora_invocation_tokens: [1], [key]: value }).map((offender) => offender.key),
      [key],
    );
  }
});
