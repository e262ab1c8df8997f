import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import { withoutAdapters } from '../../../bench/contenders/bare-graph.js';
import { ContenderProcess } from '../../../bench/contenders/contender-process.js';
import { writeGgufAdapter } from '../../../bench/contenders/gguf-adapter.js';
import { writeRandomAdapter } from '../../../bench/random-adapter.js';
import { buildGraph } from '../../../src/model/graph/graph-builder.js';
import { loraSites, type MatrixOrder, planModel } from '../../../src/model/graph/model-plan.js';
import { openGguf } from '../../../src/model/sources/gguf-file.js';
import { openGgufSource } from '../../../src/model/sources/gguf-source.js';
import { undoHeadPermutation } from '../../../src/model/sources/head-permutation.js';
import { openSafetensors } from '../../../src/model/sources/safetensors-file.js';
import { tensorRows } from '../../../src/model/sources/tensor.js';
import { readModel } from '../model/helpers/onnx-reader.js';
import { temporaryDirectory, temporaryFile } from '../model/helpers/temporary.js';
import { tinyGguf } from '../model/helpers/tiny-gguf.js';

async function tinyPlan(context: TestContext, order?: MatrixOrder) {
  const source = await openGgufSource(await temporaryFile(context, 'tiny.gguf', tinyGguf()));
  context.after(() => source.close());
  return planModel(source, 'f32', order);
}

for (const order of ['panels', 'rows'] as const) {
  test(`the bare graph is the graph without anything for adapters, wired through: ${order}`, async (t) => {
    const bytes = buildGraph(await tinyPlan(t, order), 'weights.bin');
    const [whole, bare] = [readModel(bytes), readModel(withoutAdapters(bytes))];
    const adapted = new Set(['SegmentedEmbedding', 'SegmentedNorm', 'SegmentedLora', 'SegmentedHead']);
    const kept = whole.nodes.map(({ type }) => type).filter((type) => !adapted.has(type));
    assert.deepEqual(
      bare.nodes.map(({ type }) => type),
      kept,
    );
    assert.ok(kept.length < whole.nodes.length);
    const told = bare.nodes.flatMap(({ attributes }) => Object.keys(attributes));
    assert.ok(!told.some((name) => ['site', 'head', 'norm'].includes(name)), told.join());
    assert.deepEqual([bare.inputs, bare.outputs], [whole.inputs, whole.outputs]);

    const made = new Set([...bare.inputs, ...bare.initializers.map(({ name }) => name)]);
    for (const { inputs, outputs, type } of bare.nodes) {
      for (const input of inputs)
        assert.ok(input === '' || made.has(input), `${type} reads ${input} before it is made`);
      for (const output of outputs) if (output !== '') made.add(output);
    }
    for (const output of bare.outputs) assert.ok(made.has(output), output);
  });
}

test('a GGUF adapter holds the factors of the PEFT files, rows of query and key in llama.cpp’s order', async (t) => {
  const root = await temporaryDirectory(t);
  const plan = await tinyPlan(t);
  const { headDim } = plan.config;
  writeRandomAdapter(root, { name: 'a', rank: 4, seed: 1 }, loraSites(plan));
  writeGgufAdapter(join(root, 'a'), headDim);
  const gguf = await openGguf(join(root, 'a', 'adapter.gguf'));
  t.after(() => gguf.close());
  assert.equal(gguf.metadata.get('general.type'), 'adapter');
  assert.equal(gguf.metadata.get('adapter.type'), 'lora');
  assert.equal(gguf.metadata.get('adapter.lora.alpha'), 8);
  assert.equal(gguf.tensors.size, plan.layers.length * 7 * 2);

  const peft = await openSafetensors(join(root, 'a', 'adapter_model.safetensors'));
  t.after(() => peft.close());
  const layer = 'base_model.model.model.layers.0';
  const places = [
    [`${layer}.self_attn.q_proj.lora_B`, 'attn_q.weight.lora_b', true],
    [`${layer}.self_attn.k_proj.lora_B`, 'attn_k.weight.lora_b', true],
    [`${layer}.self_attn.q_proj.lora_A`, 'attn_q.weight.lora_a', false],
    [`${layer}.self_attn.v_proj.lora_B`, 'attn_v.weight.lora_b', false],
    [`${layer}.mlp.down_proj.lora_B`, 'ffn_down.weight.lora_b', false],
  ] as const;
  for (const [name, ggufName, permuted] of places) {
    const [theirs, ours] = [gguf.locate(`blk.0.${ggufName}`), peft.locate(`${name}.weight`)];
    assert.ok(theirs !== undefined && ours !== undefined, name);
    const stored = tensorRows(theirs, ours.shape);
    const rows = ours.shape[0] ?? 0;
    const read = await (permuted ? undoHeadPermutation(stored, headDim) : stored).readRows(0, rows);
    assert.deepEqual(read, await tensorRows(ours, ours.shape).readRows(0, rows), name);
    if (permuted) assert.notDeepEqual(await stored.readRows(0, rows), read, name);
  }
});

describe('a contender’s process', () => {
  const child = (code: string) => ContenderProcess.start([process.execPath, '--input-type=module', '--eval', code]);
  const job = { phase: 'decode', adapters: [], prompts: [], steps: 1, withoutOperators: false } as const;

  test('answers, refuses, and may print other things', async () => {
    const contender = await child(`
      import { createInterface } from 'node:readline';
      console.log('a library says hello');
      console.log(JSON.stringify({ versions: { it: '1' }, settings: 'none' }));
      let jobs = 0;
      for await (const line of createInterface({ input: process.stdin })) {
        jobs += 1;
        console.log(JSON.stringify(jobs === 1 ? { tokens: 2, seconds: 1, stepBytes: null, first: [] } : { error: 'no more' }));
      }`);
    assert.deepEqual(contender.greeting, { versions: { it: '1' }, settings: 'none' });
    assert.deepEqual(await contender.run(job), { tokens: 2, seconds: 1, stepBytes: null, first: [] });
    await assert.rejects(contender.run(job), /no more/);
    await contender.close();
  });

  test('one that ends says why', async () => {
    await assert.rejects(child("console.error('no such model'); process.exit(3);"), /ended \(3\)\nno such model/);
  });

  test('one that does not exist is a failure, not a crash', async () => {
    await assert.rejects(ContenderProcess.start(['/nowhere/at/all']), /ENOENT/);
  });
});
