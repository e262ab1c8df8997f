import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { parseAdapterConfig } from '../../../src/adapters/config.js';
import { type AdapterPlan, planAdapter } from '../../../src/adapters/plan.js';
import { LoramuxError, type Offender } from '../../../src/core/errors.js';
import type { NativeTensorInfo } from '../../../src/engine/binding.js';
import { DEMO_ADAPTERS, firstMatches, RANK_BYTES, smolLm2, tensorsOf, tinyBase } from './support.js';

const Q0 = 'base_model.model.model.layers.0.self_attn.q_proj';
const V1 = 'base_model.model.model.layers.1.self_attn.v_proj';

function tensor(name: string, shape: number[], dtype = 'F32'): NativeTensorInfo {
  return { name, dtype, shape };
}

/** A and B of one module of `tinyBase`. */
function pair(module: string, rank: number): NativeTensorInfo[] {
  return [tensor(`${module}.lora_A.weight`, [rank, 32]), tensor(`${module}.lora_B.weight`, [32, rank])];
}

function plan(tensors: NativeTensorInfo[], fields: object): Promise<AdapterPlan> {
  const text = JSON.stringify({
    peft_type: 'LORA',
    target_modules: ['q_proj'],
    layers_to_transform: [0],
    r: 2,
    lora_alpha: 6,
    ...fields,
  });
  const config = parseAdapterConfig(new TextEncoder().encode(text), 'adapter_config.json');
  return planAdapter({
    file: 'adapter_model.safetensors',
    configFile: 'adapter_config.json',
    tensors,
    config,
    base: tinyBase(),
    firstMatches,
  });
}

async function offendersOf(tensors: NativeTensorInfo[], fields: object = {}): Promise<readonly Offender[]> {
  const error = await plan(tensors, fields).then(
    () => assert.fail('expected a refusal'),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof LoramuxError, String(error));
  assert.equal(error.code, 'ERR_ADAPTER_INVALID');
  assert.match(error.message, /^adapter_model\.safetensors: /);
  return error.details?.offenders ?? [];
}

const DEMOS = {
  'support-json': { modules: 120, variant: ['lora'], ranks: { min: 16, max: 16 }, scaling: 2 },
  sql: { modules: 210, variant: ['rslora'], ranks: { min: 8, max: 8 }, scaling: 16 / Math.sqrt(8) },
  sentiment: { modules: 90, variant: ['lora'], ranks: { min: 4, max: 8 }, scaling: 2 },
  pirate: { modules: 90, variant: ['dora'], ranks: { min: 8, max: 8 }, scaling: 2 },
} as const;
for (const [name, expected] of Object.entries(DEMOS)) {
  test(`plans the demo adapter ${name}`, async () => {
    const directory = join(DEMO_ADAPTERS, name);
    const file = await readFile(join(directory, 'adapter_model.safetensors'));
    const config = parseAdapterConfig(await readFile(join(directory, 'adapter_config.json')), 'adapter_config.json');
    const tensors = tensorsOf(file);
    const result = await planAdapter({ file: name, configFile: name, tensors, config, base: smolLm2(), firstMatches });
    assert.equal(result.modules.length, expected.modules);
    assert.deepEqual(result.moduleCounts, { inFile: expected.modules, applied: expected.modules });
    assert.deepEqual(result.variant, expected.variant);
    assert.deepEqual(result.ranks, expected.ranks);
    assert.deepEqual(result.warnings, []);
    assert.ok(result.modules.every((module) => module.scaling === expected.scaling));
    assert.ok(result.modules.every((module) => (module.magnitude !== undefined) === (name === 'pirate')));
    const named = new Set(result.modules.flatMap((module) => [module.a, module.b, module.magnitude ?? module.a]));
    assert.deepEqual([...named].sort(), tensors.map((info) => info.name).sort());
    // Widths of SmolLM2 are whole panels, so the estimate is the data with f16 magnitudes widened to float32 gains,
    // and a scale for each rank.
    const data = tensors.reduce(
      (sum, info) => sum + info.shape.reduce((a, b) => a * b) * (info.shape.length === 1 ? 4 : 2),
      0,
    );
    assert.equal(result.bytes, data + 4 * result.modules.reduce((sum, module) => sum + module.rank, 0));
  });
}

test('points each module at its place within a fused site', async () => {
  const { modules } = await plan([...pair(V1, 2), ...pair(Q0, 2)], {
    target_modules: ['q_proj', 'v_proj'],
    layers_to_transform: null,
    exclude_modules: '.*(0.*v_proj|1.*q_proj)',
  });
  assert.deepEqual(modules, [
    { site: 0, module: 0, a: `${Q0}.lora_A.weight`, b: `${Q0}.lora_B.weight`, rank: 2, scaling: 3 },
    { site: 1, module: 1, a: `${V1}.lora_A.weight`, b: `${V1}.lora_B.weight`, rank: 2, scaling: 3 },
  ]);
});

test('takes the first pattern that matches, in file order, by whole name or ending', async () => {
  const scaling = async (patterns: object): Promise<number | undefined> =>
    (await plan(pair(Q0, 2), { alpha_pattern: patterns })).modules[0]?.scaling;
  assert.equal(await scaling({ q_proj: 2, 'layers.0.self_attn.q_proj': 4 }), 1);
  assert.equal(await scaling({ 'layers.0.self_attn.q_proj': 4, q_proj: 2 }), 2);
  assert.equal(await scaling({ 'layers\\.[0-9]+.*': 8 }), 4);
  assert.equal(await scaling({ proj: 2, 'a|q_proj': 0 }), 0);
  assert.equal(await scaling({ q_pro: 2 }), 3);
});

test('sizes ranks by rank_pattern and divides alpha by them', async () => {
  const { modules, ranks } = await plan(pair(Q0, 4), { rank_pattern: { q_proj: 4 }, use_rslora: true });
  assert.deepEqual(ranks, { min: 4, max: 4 });
  assert.equal(modules[0]?.scaling, 3);
});

for (const [what, fields] of [
  ['a list with a layer filter', {}],
  [
    'an exact name, which no layer filter touches',
    { target_modules: ['model.layers.0.self_attn.q_proj'], layers_to_transform: [1] },
  ],
  ['a layer pattern', { layers_pattern: ['h', 'layers'] }],
  ['a regular expression', { target_modules: 'model\\.layers\\.0\\..*q_proj', layers_to_transform: null }],
  [
    'all-linear without the excluded ones',
    {
      target_modules: 'all-linear',
      layers_to_transform: null,
      exclude_modules: ['v_proj', 'model.layers.1.self_attn.q_proj'],
    },
  ],
  ['the default of the architecture', { target_modules: null, exclude_modules: ['v_proj'] }],
] as const) {
  test(`agrees with targets given as ${what}`, async () => {
    assert.equal((await plan(pair(Q0, 2), fields)).modules.length, 1);
  });
}

test('reads names with .default and _orig_mod. and says so', async () => {
  const compiled = `_orig_mod.${Q0}`;
  const inner = Q0.replace('base_model.model.', 'base_model.model._orig_mod.');
  const result = await plan(
    [tensor(`${compiled}.lora_A.default.weight`, [2, 32]), tensor(`${inner}.lora_B.weight`, [32, 2])],
    {},
  );
  assert.equal(result.modules.length, 1);
  assert.match(result.warnings[0] ?? '', /2 tensor names/);
});

test('accepts both spellings of the DoRA magnitude', async () => {
  for (const suffix of ['', '.weight']) {
    const name = `${Q0}.lora_magnitude_vector${suffix}`;
    const result = await plan([...pair(Q0, 2), tensor(name, [32], 'BF16')], { use_dora: true });
    assert.equal(result.modules[0]?.magnitude, name);
    assert.equal(result.bytes, 2 * RANK_BYTES + 32 * 4);
  }
});

test('counts a site of mixed dtypes at float32 and pads odd widths', async () => {
  const mixed = [tensor(`${Q0}.lora_A.weight`, [2, 32], 'F16'), tensor(`${Q0}.lora_B.weight`, [32, 2], 'BF16')];
  assert.equal((await plan(mixed, {})).bytes, 2 * RANK_BYTES);
  const half = mixed.map((info) => ({ ...info, dtype: 'F16' }));
  assert.equal((await plan(half, {})).bytes, 2 * (2 * (32 + 32) + 4));
});

test('narrows float64 and says so', async () => {
  const result = await plan([tensor(`${Q0}.lora_A.weight`, [2, 32], 'F64'), ...pair(Q0, 2).slice(1)], {});
  assert.equal(result.bytes, 2 * RANK_BYTES);
  assert.match(result.warnings[0] ?? '', /1 tensors are float64/);
});

test('plans the bias of B and counts it once with one of the base', async () => {
  const bias = tensor(`${Q0}.lora_B.bias`, [32]);
  const { modules, variant, bytes } = await plan([...pair(Q0, 2), bias], { lora_bias: true });
  assert.equal(modules[0]?.loraBias, bias.name);
  assert.deepEqual(variant, ['lora', 'lora_bias']);
  assert.equal(bytes, 2 * RANK_BYTES + 32 * 4);
  const both = [...pair(Q0, 2), bias, tensor(`${Q0}.base_layer.bias`, [32])];
  assert.equal((await plan(both, { lora_bias: true, bias: 'lora_only' })).bytes, bytes);
});

test('places the biases of all linear modules, or of targeted ones', async () => {
  const own = tensor(`${Q0}.base_layer.bias`, [32]);
  const other = tensor(`${V1}.bias`, [32]);
  const { extras, bytes, variant, moduleCounts } = await plan([...pair(Q0, 2), other, own], { bias: 'all' });
  assert.deepEqual(extras.biases, [
    { site: 0, module: 0, tensor: own.name },
    { site: 1, module: 1, tensor: other.name },
  ]);
  assert.equal(bytes, 2 * RANK_BYTES + 2 * 32 * 4);
  assert.deepEqual(variant, ['lora', 'bias']);
  assert.deepEqual(moduleCounts, { inFile: 2, applied: 2 });
  const { extras: targeted } = await plan([...pair(Q0, 2), own], { bias: 'lora_only' });
  assert.deepEqual(targeted.biases, extras.biases.slice(0, 1));
});

test('warns when biases that the base has are not in the file', async () => {
  const config = parseAdapterConfig(
    new TextEncoder().encode('{"peft_type": "LORA", "target_modules": ["q_proj"], "r": 2, "bias": "lora_only"}'),
    'c',
  );
  const base = tinyBase();
  const sites = base.sites.map((site) => ({
    ...site,
    modules: site.modules.map((module) => ({ ...module, biasOffset: 0 })),
  }));
  const tensors = [...pair(Q0, 2), ...pair(Q0.replace('.0.', '.1.'), 2), tensor(`${Q0}.base_layer.bias`, [32])];
  const input = { file: 'f', configFile: 'c', tensors, config, base: { ...base, sites }, firstMatches };
  assert.match(
    (await planAdapter(input)).warnings[0] ?? '',
    /lacks the biases of 1 modules \(first .*1\.self_attn\.q_proj\)/,
  );
});

test('warns when the adapter names another base whose shapes fit', async () => {
  assert.match(
    (await plan(pair(Q0, 2), { base_model_name_or_path: 'org/other' })).warnings[0] ?? '',
    /trained on org\/other/,
  );
});

test('names both bases when an adapter of another one does not fit', async () => {
  await assert.rejects(
    plan(pair(Q0, 3), { base_model_name_or_path: 'org/other' }),
    /trained on org\/other, this server runs tiny/,
  );
});

const UNSUPPORTED = [
  'model.layers.0.self_attn.q_proj.lora_A.weight',
  'model.norm.weight',
  'base_model.model.model.norm.weight',
  'base_model.model.lm_head.weight',
  'base_model.model.model.embed_tokens.lora_embedding_A',
  'base_model.model.model.embed_tokens.lora_A.weight',
  'base_model.model.lm_head.lora_embedding_B',
  'base_model.model.model.embed_tokens.base_layer.weight',
  `${Q0}.weight`,
  `${Q0}.base_layer.weight`,
  `${Q0}.token_adapter.trainable_tokens_delta`,
  'base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta',
  `${Q0}.lora_B.bias`,
  `${Q0}.base_layer.bias`,
  `${Q0}.bias`,
  'base_model.model.model.norm.bias',
  `${Q0}.lora_E`,
  `${Q0}.lora_diag`,
  `${Q0}.lora_A.other.weight`,
  '.lora_A.weight',
  'base_model.model..lora_A.weight',
];
for (const name of UNSUPPORTED) {
  test(`refuses the tensor ${name}`, async () => {
    const offenders = await offendersOf([...pair(Q0, 2), tensor(name, [2, 32])]);
    assert.ok(offenders.length >= 1);
    assert.ok(
      offenders.every((offender) => offender.tensor === name),
      JSON.stringify(offenders),
    );
  });
}

for (const [what, tensors, fields, expected] of [
  [
    'an unknown module',
    pair(`${Q0}x`, 2),
    { target_modules: ['q_projx'] },
    /a linear module, embedding or norm of tiny/,
  ],
  ['A without B', pair(Q0, 2).slice(0, 1), {}, /lora_B\.weight of the same module/],
  ['B without A', pair(Q0, 2).slice(1), {}, /lora_A\.weight of the same module/],
  ['DoRA without magnitude', pair(Q0, 2), { use_dora: true }, /lora_magnitude_vector/],
  ['a bias on B without lora_bias', [...pair(Q0, 2), tensor(`${Q0}.lora_B.bias`, [32])], {}, /or lora_bias: true/],
  ['lora_bias without a bias on B', pair(Q0, 2), { lora_bias: true }, /lora_B\.bias/],
  ['a bias of another width', [...pair(Q0, 2), tensor(`${Q0}.bias`, [31])], { bias: 'all' }, /shape \[32\]/],
  ['a bias while bias is none', [...pair(Q0, 2), tensor(`${V1}.bias`, [32])], {}, /or bias: "all"/],
  [
    'a bias of an untargeted module with lora_only',
    [...pair(Q0, 2), tensor(`${V1}.bias`, [32])],
    { bias: 'lora_only' },
    /targeted modules/,
  ],
  [
    'a bias of a norm',
    [...pair(Q0, 2), tensor('base_model.model.model.norm.bias', [32])],
    { bias: 'all' },
    /no tensor of this kind/,
  ],
  ['a magnitude without DoRA', [...pair(Q0, 2), tensor(`${Q0}.lora_magnitude_vector`, [32])], {}, /use_dora: true/],
  [
    'a magnitude of another width',
    [...pair(Q0, 2), tensor(`${Q0}.lora_magnitude_vector`, [31])],
    { use_dora: true },
    /shape \[32\]/,
  ],
  ['another rank than r', pair(Q0, 3), {}, /shape \[2, 32\] \(rank 2 by r/],
  [
    'gathered-away weights',
    [tensor(`${Q0}.lora_A.weight`, [0]), tensor(`${Q0}.lora_B.weight`, [32, 2])],
    {},
    /shape \[2, 32\]/,
  ],
  ['integers', [tensor(`${Q0}.lora_A.weight`, [2, 32], 'I8'), ...pair(Q0, 2).slice(1)], {}, /F32, F16, BF16 or F64/],
  [
    'a role filled twice',
    [...pair(Q0, 2), tensor(`${Q0}.lora_A.default.weight`, [2, 32])],
    {},
    /one tensor for this role/,
  ],
  ['a module that the configuration does not select', [...pair(Q0, 2), ...pair(V1, 2)], {}, /target_modules.*select/],
  [
    'a selected module without tensors',
    pair(Q0, 2),
    { layers_to_transform: null },
    /factors of model\.layers\.1\.self_attn\.q_proj in the file/,
  ],
  ['an empty file', [], { target_modules: ['nothing'] }, /at least one module/],
  ['a scaling beyond float32', pair(Q0, 2), { lora_alpha: 1e39 }, /within float32/],
] as const) {
  test(`refuses ${what}`, async () => {
    const offenders = await offendersOf([...tensors], fields);
    assert.ok(
      offenders.some((offender) => expected.test(offender.expected)),
      JSON.stringify(offenders),
    );
  });
}

test('a pattern that the engine refuses is a fault of the configuration, whatever else is wrong', async () => {
  await assert.rejects(plan(pair(Q0, 3), { rank_pattern: { '(?=q).*': 2 } }), {
    code: 'ERR_ADAPTER_INVALID',
    message: /^adapter_config\.json: rank_pattern: expected .*no look-around/,
  });
});

test('lists every offender', async () => {
  const tensors = [
    tensor('junk.1', [1]),
    tensor('junk.2', [1]),
    tensor(`${Q0}.lora_A.weight`, [3, 31]),
    ...pair(V1, 2),
  ];
  const offenders = await offendersOf(tensors);
  assert.deepEqual(offenders.map((o) => o.tensor).sort(), [
    `${Q0}.lora_A.weight`,
    `${Q0}.lora_A.weight`,
    `${V1}.lora_A.weight`,
    'junk.1',
    'junk.2',
  ]);
});

test('refuses a file of too many tensors before anything else', async () => {
  const offenders = await offendersOf(Array.from({ length: 20_001 }, (_, i) => tensor(`t${i}`, [1])));
  assert.deepEqual(
    offenders.map((o) => o.found),
    ['20001'],
  );
});

test('passes on a failure of the pattern engine that is not the pattern’s fault', async () => {
  const config = parseAdapterConfig(new TextEncoder().encode('{"peft_type": "LORA", "target_modules": ".*q"}'), 'c');
  const broken = async (): Promise<Int32Array> => Promise.reject(new Error('out of memory'));
  await assert.rejects(
    planAdapter({ file: 'f', configFile: 'c', tensors: pair(Q0, 8), config, base: tinyBase(), firstMatches: broken }),
    { code: 'ERR_NATIVE' },
  );
});
