import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseAdapterConfig } from '../../../src/adapters/config.js';
import { type AdapterPlan, type BaseModel, planAdapter } from '../../../src/adapters/plan.js';
import { LoramuxError, type Offender } from '../../../src/core/errors.js';
import type { NativeTensorInfo } from '../../../src/engine/binding.js';
import { firstMatches, RANK_BYTES, tinyBase } from './support.js';

const PREFIX = 'base_model.model.';
const EMBED = `${PREFIX}model.embed_tokens`;
const HEAD = `${PREFIX}lm_head`;
/** Site of the head, behind the two of `tinyBase`'s layers. */
const HEAD_SITE = 2;
const VOCAB = 40;
const HIDDEN = 32;

function tensor(name: string, shape: number[], dtype = 'F32'): NativeTensorInfo {
  return { name, dtype, shape };
}

/** Factors of rank 2 of layer 0's q_proj, which every adapter here has. */
const Q = ['A', 'B'].map((part) =>
  tensor(`${PREFIX}model.layers.0.self_attn.q_proj.lora_${part}.weight`, part === 'A' ? [2, HIDDEN] : [HIDDEN, 2]),
);
const Q_TARGET = 'model.layers.0.self_attn.q_proj';
const HEAD_FACTORS = [tensor(`${HEAD}.lora_A.weight`, [2, HIDDEN]), tensor(`${HEAD}.lora_B.weight`, [VOCAB, 2])];
const EMBED_FACTORS = [
  tensor(`${EMBED}.lora_embedding_A`, [2, VOCAB]),
  tensor(`${EMBED}.lora_embedding_B`, [HIDDEN, 2]),
];
const tokensOf = (module: string, count: number): NativeTensorInfo =>
  tensor(`${module}.token_adapter.trainable_tokens_delta`, [count, HIDDEN]);

function untied(): BaseModel {
  const base = tinyBase();
  return { ...base, config: { ...base.config, tieWordEmbeddings: false } };
}

function plan(extra: readonly NativeTensorInfo[], fields: object, base = tinyBase()): Promise<AdapterPlan> {
  const text = JSON.stringify({ peft_type: 'LORA', target_modules: [Q_TARGET], r: 2, lora_alpha: 6, ...fields });
  const config = parseAdapterConfig(new TextEncoder().encode(text), 'adapter_config.json');
  return planAdapter({ file: 'f', configFile: 'c', tensors: [...Q, ...extra], config, base, firstMatches });
}

async function offendersOf(
  extra: readonly NativeTensorInfo[],
  fields: object,
  base = tinyBase(),
): Promise<readonly Offender[]> {
  const error = await plan(extra, fields, base).then(
    () => assert.fail('expected a refusal'),
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof LoramuxError && error.code === 'ERR_ADAPTER_INVALID', String(error));
  return error.details?.offenders ?? [];
}

test('the head is a site like any other, and its copy of the base is compared', async () => {
  const copy = tensor(`${HEAD}.base_layer.weight`, [VOCAB, HIDDEN], 'BF16');
  const { modules, extras, bytes } = await plan([...HEAD_FACTORS, copy], { target_modules: [Q_TARGET, 'lm_head'] });
  assert.deepEqual(modules[1], {
    site: HEAD_SITE,
    module: 0,
    a: `${HEAD}.lora_A.weight`,
    b: `${HEAD}.lora_B.weight`,
    rank: 2,
    scaling: 3,
  });
  assert.deepEqual(extras.copies, [{ tensor: copy.name, site: HEAD_SITE }]);
  // B of 40 outputs takes two panels of 32.
  assert.equal(bytes, 2 * RANK_BYTES + 2 * ((32 + 64) * 4 + 4));
});

test('all-linear leaves head and embedding out, a pattern takes what it matches', async () => {
  const all = { target_modules: 'all-linear', exclude_modules: ['v_proj', 'model.layers.1.self_attn.q_proj'] };
  assert.equal((await plan([], all)).modules.length, 1);
  const some = { target_modules: `.*0.self_attn.q_proj|lm_head|.*embed_tokens` };
  const { modules, extras } = await plan([...HEAD_FACTORS, ...EMBED_FACTORS], some);
  assert.equal(modules.length, 2);
  assert.ok(extras.embedding !== undefined);
});

test('plans factors of the embedding', async () => {
  const magnitude = tensor(`${EMBED}.lora_magnitude_vector`, [HIDDEN]);
  const qMagnitude = tensor(`${PREFIX}${Q_TARGET}.lora_magnitude_vector`, [HIDDEN]);
  const { extras, bytes, ranks, moduleCounts } = await plan([...EMBED_FACTORS, magnitude, qMagnitude], {
    target_modules: [Q_TARGET, 'embed_tokens'],
    use_dora: true,
  });
  assert.deepEqual(extras.embedding, {
    a: `${EMBED}.lora_embedding_A`,
    b: `${EMBED}.lora_embedding_B`,
    magnitude: magnitude.name,
    rank: 2,
    scaling: 3,
  });
  assert.deepEqual(ranks, { min: 2, max: 2 });
  assert.deepEqual(moduleCounts, { inFile: 2, applied: 2 });
  assert.equal(bytes, 2 * RANK_BYTES + HIDDEN * 4 + (VOCAB + HIDDEN) * 2 * 4 + HIDDEN * 4);
});

test('activated LoRA changes the head, but not the embedding: PEFT refuses that', async () => {
  const call = { alora_invocation_tokens: [1, 2] };
  const { modules, invocation } = await plan(HEAD_FACTORS, { ...call, target_modules: [Q_TARGET, 'lm_head'] });
  assert.equal(modules.length, 2);
  assert.deepEqual(invocation, [1, 2]);
  const [refused, ...more] = await offendersOf(EMBED_FACTORS, { ...call, target_modules: [Q_TARGET, 'embed_tokens'] });
  assert.deepEqual(more, []);
  assert.equal(refused?.tensor, `${EMBED}.lora_embedding_A`);
  assert.match(refused?.expected ?? '', /alora_invocation_tokens/);
});

test('a kept tie targets embedding and head together', async () => {
  const fields = { target_modules: [Q_TARGET, 'embed_tokens'], ensure_weight_tying: true };
  assert.equal((await plan([...HEAD_FACTORS, ...EMBED_FACTORS], fields)).modules.length, 2);
  assert.match((await offendersOf(EMBED_FACTORS, fields))[0]?.expected ?? '', /lm_head/);
  assert.equal((await plan(EMBED_FACTORS, fields, untied())).modules.length, 1);
});

test('modules to save are matched by plain endings', async () => {
  const norms = tinyBase().norms.map(({ name }) => tensor(`${PREFIX}${name}.weight`, [HIDDEN], 'F16'));
  const { extras, bytes, variant } = await plan(norms, { modules_to_save: ['norm'] });
  assert.deepEqual(
    extras.norms,
    norms.map(({ name }, norm) => ({ norm, tensor: name })),
  );
  assert.equal(bytes, 2 * RANK_BYTES + norms.length * HIDDEN * 4);
  assert.deepEqual(variant, ['lora', 'modules_to_save']);
  assert.equal((await plan(norms.slice(-1), { modules_to_save: ['model.norm'] })).extras.norms.length, 1);
  assert.match(
    (await offendersOf(norms.slice(1), { modules_to_save: ['norm'] }))[0]?.expected ?? '',
    /input_layernorm/,
  );
});

test('whole matrices of embedding and head', async () => {
  const embed = tensor(`${EMBED}.weight`, [VOCAB, HIDDEN], 'F16');
  const head = tensor(`${HEAD}.weight`, [VOCAB, HIDDEN]);
  const { extras, bytes } = await plan([embed, head], { modules_to_save: ['embed_tokens', 'lm_head'] });
  assert.deepEqual([extras.embeddingRows, extras.headRows], [{ tensor: embed.name }, { tensor: head.name }]);
  assert.equal(bytes, 2 * RANK_BYTES + VOCAB * HIDDEN * (2 + 4));
  const alone = await plan([embed], { modules_to_save: ['embed_tokens'] });
  assert.equal(alone.extras.headRows, undefined, 'a tied head keeps the base');
});

test('a matrix that nothing selects is a copy of the base, or an error', async () => {
  const embed = tensor(`${EMBED}.weight`, [VOCAB, HIDDEN]);
  assert.deepEqual((await plan([embed], {})).extras.copies, [{ tensor: embed.name }]);
  assert.match((await offendersOf([tensor(embed.name, [VOCAB + 8, HIDDEN])], {}))[0]?.expected ?? '', /vocabulary/);
});

test('a module to save is no target', async () => {
  const head = tensor(`${HEAD}.weight`, [VOCAB, HIDDEN]);
  const fields = { target_modules: [Q_TARGET, 'lm_head'], modules_to_save: ['lm_head'] };
  assert.equal((await plan([head], fields)).modules.length, 1);
});

test('tokens of a tied embedding are the head’s too, others’ are not', async () => {
  const rows = tokensOf(EMBED, 3);
  const fields = { trainable_token_indices: [7, 2, 7] };
  const tied = await plan([rows], fields);
  assert.deepEqual(tied.extras.embeddingRows, { tensor: rows.name, tokens: [7, 2, 7] });
  assert.deepEqual(tied.extras.headRows, tied.extras.embeddingRows);
  assert.equal(tied.bytes, 2 * RANK_BYTES + 2 * 2 * (HIDDEN * 4 + 4), 'a token that comes twice is held once');
  assert.deepEqual(tied.variant, ['lora', 'trainable_tokens']);
  assert.equal((await plan([rows], fields, untied())).extras.headRows, undefined);
});

test('tokens by module: equal lists share the tied rows, different ones have their own', async () => {
  const [embed, head] = [tokensOf(EMBED, 2), tokensOf(HEAD, 1)];
  const equal = await plan([embed], { trainable_token_indices: { embed_tokens: [1, 2], lm_head: [1, 2] } });
  assert.deepEqual(equal.extras.headRows, { tensor: embed.name, tokens: [1, 2] });
  const own = await plan([embed, head], { trainable_token_indices: { embed_tokens: [1, 2], lm_head: [3] } });
  assert.deepEqual(own.extras.headRows, { tensor: head.name, tokens: [3] });
  const only = await plan([head], { trainable_token_indices: { lm_head: [3] } });
  assert.equal(only.extras.embeddingRows, undefined);
});

for (const [what, extra, fields, expected] of [
  ['LoRA on a head that is no target', HEAD_FACTORS, {}, /target_modules.*select/],
  ['LoRA on an embedding that is no target', EMBED_FACTORS, {}, /target_modules.*select/],
  ['half of an embedding', EMBED_FACTORS.slice(1), { target_modules: [Q_TARGET, 'embed_tokens'] }, /lora_embedding_A/],
  ['another vocabulary', [tensor(`${HEAD}.base_layer.weight`, [48, HIDDEN])], {}, /shape \[40, 32\]/],
  ['a norm that nothing selects', [tensor(`${PREFIX}model.norm.weight`, [HIDDEN])], {}, /or modules_to_save/],
  ['a linear module to save', [], { modules_to_save: ['q_proj'] }, /other modules are not replaced/],
  ['a container to save', [], { modules_to_save: ['mlp', 'self_attn'] }, /other modules are not replaced/],
  ['an unknown module to save', [], { modules_to_save: ['score'] }, /only lm_head/],
  ['a module to save that the file lacks', [], { modules_to_save: ['lm_head'] }, /lm_head\.weight in the file/],
  ['tokens beyond the vocabulary', [tokensOf(EMBED, 1)], { trainable_token_indices: [VOCAB] }, /below 40/],
  ['tokens of another module', [], { trainable_token_indices: { q_proj: [1] } }, /embed_tokens or lm_head/],
  ['rows that the file lacks', [], { trainable_token_indices: [1] }, /trainable_tokens_delta of model/],
  ['rows of another number', [tokensOf(EMBED, 2)], { trainable_token_indices: [1] }, /shape \[1, 32\]/],
  ['rows that nothing lists', [tokensOf(EMBED, 1)], {}, /or trainable_token_indices/],
  [
    'a module changed in two ways',
    [tokensOf(EMBED, 1), ...HEAD_FACTORS],
    { target_modules: [Q_TARGET, 'lm_head'], trainable_token_indices: [1] },
    /one way of changing lm_head/,
  ],
] as const) {
  test(`refuses ${what}`, async () => {
    const offenders = await offendersOf(extra, fields);
    assert.ok(
      offenders.some((offender) => expected.test(offender.expected)),
      JSON.stringify(offenders),
    );
  });
}

test('a block-diagonal factor has its blocks below one another, and none of them may be left over', async () => {
  const prefix = `${PREFIX}${Q_TARGET}`;
  const tensors = (a: number[], b: number[]) => [
    tensor(`${prefix}.lora_A.weight`, a),
    tensor(`${prefix}.lora_B.weight`, b),
  ];
  const planned = (fields: object, a: number[], b: number[]) => {
    const all = { peft_type: 'LORA', target_modules: [Q_TARGET], r: 4, lora_alpha: 8, use_bdlora: fields };
    const config = parseAdapterConfig(new TextEncoder().encode(JSON.stringify(all)), 'adapter_config.json');
    return planAdapter({ file: 'f', configFile: 'c', tensors: tensors(a, b), config, base: tinyBase(), firstMatches });
  };
  const blocks = { target_modules_bd_a: ['q'], nblocks: 2 };
  const { modules, variant } = await planned(blocks, [4, HIDDEN / 2], [HIDDEN, 4]);
  assert.deepEqual([modules[0]?.aBlocks, modules[0]?.bBlocks, variant], [2, undefined, ['lora', 'bdlora']]);
  const refused: readonly (readonly [fields: object, a: number[], b: number[], reason: RegExp])[] = [
    [blocks, [4, HIDDEN], [HIDDEN, 4], /in_features \/ 2 blocks/],
    [{ ...blocks, nblocks: 3 }, [4, HIDDEN / 2], [HIDDEN, 4], /nblocks that divides/],
    [{ ...blocks, target_modules_bd_b: ['proj'] }, [4, HIDDEN / 2], [HIDDEN, 2], /not in both/],
    [{ nblocks: 2 }, [4, HIDDEN], [HIDDEN, 4], /match_strict/],
  ];
  for (const [fields, a, b, reason] of refused) await assert.rejects(planned(fields, a, b), reason);
});

test('what a method of training kept is left out beside its key, and refused without it', async () => {
  const buffer = tensor(`${PREFIX}${Q_TARGET}.lora_velora_embed`, [8]);
  assert.deepEqual((await plan([buffer], { velora_config: { num_groups: 4 } })).moduleCounts, {
    inFile: 1,
    applied: 1,
  });
  assert.deepEqual(
    (await offendersOf([buffer], {})).map((o) => o.tensor),
    [buffer.name],
  );
  assert.deepEqual(
    (await offendersOf([buffer], { monteclora_config: { x: 1 } })).map((o) => o.tensor),
    [buffer.name],
  );
});
