import assert from 'node:assert/strict';
import { describe, type TestContext, test } from 'node:test';
import type { Precision, WeightFormat } from '../../../../src/core/model-manifest.js';
import { buildGraph } from '../../../../src/model/graph/graph-builder.js';
import { adapterPlaces, loraSites, type MatrixOrder, planModel } from '../../../../src/model/graph/model-plan.js';
import { openGgufSource } from '../../../../src/model/sources/gguf-source.js';
import { openHuggingFaceSource } from '../../../../src/model/sources/hf-source.js';
import { readModel } from '../helpers/onnx-reader.js';
import { temporaryDirectory, temporaryFile } from '../helpers/temporary.js';
import { TINY_CONFIG, writeDirectory } from '../helpers/tiny-directory.js';
import { tinyGguf, tinyTensors } from '../helpers/tiny-gguf.js';

/** The tiny model twice as deep, so that both kinds of norm appear. */
async function plan(context: TestContext, precision: Precision, order?: MatrixOrder) {
  const deeper = tinyTensors()
    .filter(({ name }) => name.startsWith('blk.0'))
    .map((tensor) => ({ ...tensor, name: tensor.name.replace('blk.0', 'blk.1') }));
  const bytes = tinyGguf({ 'llama.block_count': { type: 'u32', value: 2 } }, [...tinyTensors(), ...deeper]);
  const source = await openGgufSource(await temporaryFile(context, 'tiny.gguf', bytes));
  context.after(() => source.close());
  return planModel(source, precision, order);
}

const PER_LAYER = 'DenseMatMul PagedAttention DenseMatMul ResidualNorm DenseMatMul GatedSilu DenseMatMul ResidualNorm';
const PER_LAYER_ON_GPU = [
  'Gemm SegmentedLora PagedAttention Gemm SegmentedLora SkipSimplifiedLayerNormalization SegmentedNorm',
  'Gemm SegmentedLora GatedSilu Gemm SegmentedLora SkipSimplifiedLayerNormalization SegmentedNorm',
].join(' ');

describe('the f32 graph', () => {
  test('is one chain of the expected operators', async (t) => {
    const model = readModel(buildGraph(await plan(t, 'f32'), 'weights.bin'));
    assert.deepEqual(model.inputs, ['input_ids', 'logits_rows']);
    assert.deepEqual(model.outputs, ['logits']);
    assert.equal(
      model.nodes.map(({ type }) => type).join(' '),
      ['Gather SegmentedEmbedding ResidualNorm', PER_LAYER, PER_LAYER, 'Gather DenseMatMul'].join(' '),
    );
  });

  test('every value is made once, before it is used', async (t) => {
    const { nodes, initializers, inputs } = readModel(buildGraph(await plan(t, 'w4'), 'weights.bin'));
    const known = new Set<string | undefined>([...inputs, ...initializers.map(({ name }) => name), '']);
    for (const { inputs: needed, outputs } of nodes) {
      for (const name of needed) assert.ok(known.has(name), `${name} is used before it is made`);
      for (const name of outputs.filter((output) => output !== '')) {
        assert.ok(!known.has(name), `${name} is made twice`);
        known.add(name);
      }
    }
  });

  test('of a GPU has the runtime’s matmuls and norms, and operators for adapters behind them', async (t) => {
    const { nodes } = readModel(buildGraph(await plan(t, 'f32', 'rows'), 'weights.bin'));
    assert.equal(
      nodes.map(({ type }) => type).join(' '),
      [
        'Gather SegmentedEmbedding SimplifiedLayerNormalization SegmentedNorm',
        PER_LAYER_ON_GPU,
        PER_LAYER_ON_GPU,
        'Gather Gemm SegmentedLora SegmentedHead',
      ].join(' '),
    );
    const sites = nodes.filter(({ type }) => type === 'SegmentedLora').map(({ attributes }) => attributes);
    assert.deepEqual(sites, [...[0, 1, 2, 3, 4, 5, 6, 7].map((site) => ({ site })), { site: 8, logits_rows: 1 }]);
    const norms = nodes.filter(({ type }) => type === 'SegmentedNorm').map(({ attributes }) => attributes.norm);
    assert.deepEqual(norms, [0, 1, 2, 3, 4]);
  });

  test('of a GPU: norms set epsilon and pass the sum on as output 3', async (t) => {
    const { nodes } = readModel(buildGraph(await plan(t, 'f32', 'rows'), 'weights.bin'));
    for (const { type, outputs, attributes } of nodes) {
      if (!type.endsWith('LayerNormalization')) continue;
      assert.equal(attributes.epsilon, Math.fround(1e-5));
      if (type.startsWith('Skip')) assert.deepEqual([outputs.length, outputs[1], outputs[2]], [4, '', '']);
    }
  });

  test('own operators carry their attributes; sites are dense', async (t) => {
    const { nodes } = readModel(buildGraph(await plan(t, 'f32'), 'weights.bin'));
    const own = nodes.filter(({ domain }) => domain === 'loramux');
    const products = own.filter(({ type }) => type === 'DenseMatMul').map(({ attributes }) => attributes);
    assert.deepEqual(
      products.map(({ site }) => site),
      [0, 1, 2, 3, 4, 5, 6, 7, 8],
    );
    assert.deepEqual(
      products.map(({ head }) => head),
      [...Array(8).fill(undefined), 1],
    );
    const norms = own.filter(({ type }) => type === 'ResidualNorm').map(({ attributes }) => attributes);
    assert.deepEqual(
      norms,
      [0, 1, 2, 3, 4].map((norm) => ({ norm, epsilon: Math.fround(1e-5) })),
    );
    assert.deepEqual(own.filter(({ type }) => type === 'PagedAttention').map(({ attributes }) => attributes)[1], {
      layer: 1,
      num_heads: 2,
      kv_num_heads: 1,
      head_dim: 16,
      scale: 0.25,
      local_window: -1,
    });
  });

  test('every matrix is in panels, a tied head beside the embedding', async (t) => {
    const { nodes, initializers } = readModel(buildGraph(await plan(t, 'f32'), 'weights.bin'));
    const products = nodes.filter(({ type }) => type === 'DenseMatMul');
    const stored = (name: string | undefined) => initializers.find((initializer) => initializer.name === name)?.shape;
    assert.deepEqual([products[0]?.attributes, stored(products[0]?.inputs[1])], [{ rows: 64, site: 0 }, [4, 32, 16]]);
    // Its last panel is half empty.
    assert.deepEqual(
      [products.at(-1)?.attributes, stored(products.at(-1)?.inputs[1])],
      [{ rows: 8, site: 8, head: 1 }, [1, 32, 16]],
    );
    assert.deepEqual(stored(nodes[0]?.inputs[0]), [8, 32]);
  });

  test('row by row, for a GPU, a tied head multiplies by the embedding initializer itself', async (t) => {
    const { nodes } = readModel(buildGraph(await plan(t, 'f32', 'rows'), 'weights.bin'));
    const products = nodes.filter(({ type }) => type === 'Gemm');
    assert.equal(products.length, 9);
    assert.ok(!nodes.some(({ type }) => type === 'DenseMatMul'));
    assert.equal(products.at(-1)?.inputs[1], nodes[0]?.inputs[0]);
  });

  test('biases come after the adapter, windows from the configuration', async (t) => {
    const directory = await writeDirectory(await temporaryDirectory(t), {
      'config.json': { ...TINY_CONFIG, architectures: null, model_type: 'mistral', sliding_window: 12 },
    });
    const source = await openHuggingFaceSource(directory);
    t.after(() => source.close());
    const windowed = readModel(buildGraph(planModel(source, 'f32'), 'w'));
    assert.equal(windowed.nodes.find(({ type }) => type === 'PagedAttention')?.attributes.local_window, 12);
    const biases = ['q', 'k', 'v'].map((part) => ({
      name: `blk.0.attn_${part}.bias`,
      shape: [part === 'q' ? 32 : 16],
      ggmlType: 0,
      bytes: new Uint8Array(part === 'q' ? 128 : 64),
    }));
    const gguf = await openGgufSource(await temporaryFile(t, 'b.gguf', tinyGguf({}, [...tinyTensors(), ...biases])));
    t.after(() => gguf.close());
    const { nodes } = readModel(buildGraph(planModel(gguf, 'f32'), 'w'));
    const add = nodes.findIndex(({ type }) => type === 'Add');
    assert.deepEqual([nodes[add - 1]?.type, nodes[add + 1]?.type], ['DenseMatMul', 'PagedAttention']);
  });
});

describe('quantised graphs', () => {
  test('w8 has a matmul of its own in the place of every dense one', async (t) => {
    const { nodes } = readModel(buildGraph(await plan(t, 'w8'), 'weights.bin'));
    const products = nodes.filter(({ type }) => type === 'QuantisedMatMul');
    assert.equal(products.length, 9);
    assert.ok(!nodes.some(({ type }) => type === 'DenseMatMul'));
    assert.deepEqual(products[0]?.attributes, { bits: 8, rows: 64, site: 0 });
    assert.deepEqual(products[0]?.inputs.slice(1), [
      'model.layers.0.self_attn.qkv_proj.weight.quants',
      'model.layers.0.self_attn.qkv_proj.weight.scales',
    ]);
  });

  test('w4 brings minima, and keeps the head at 8 bits', async (t) => {
    const { nodes, initializers } = readModel(buildGraph(await plan(t, 'w4'), 'weights.bin'));
    const products = nodes.filter(({ type }) => type === 'QuantisedMatMul');
    assert.deepEqual(products[0]?.attributes, { bits: 4, rows: 64, site: 0 });
    const shapes = products[0]?.inputs.slice(1).map((input) => initializers.find(({ name }) => name === input)?.shape);
    assert.deepEqual(shapes, [
      [4, 1, 256],
      [4, 1, 16],
      [4, 1, 16],
    ]);
    assert.equal(products.at(-1)?.attributes.bits, 8);
  });
});

describe('quantised graphs of a GPU', () => {
  test('blocks go row by row to MatMulNBits, beside float16', async (t) => {
    const model = await plan(t, 'w4', 'rows');
    const { nodes, initializers, outputTypes } = readModel(buildGraph(model, 'weights.bin'));
    assert.deepEqual(outputTypes, [10]);
    const products = nodes.filter(({ type }) => type === 'MatMulNBits');
    assert.equal(products.length, 9);
    assert.ok(!nodes.some(({ type }) => type === 'Gemm'));
    assert.deepEqual(products[0]?.attributes, { K: 32, N: 64, bits: 4, block_size: 32 });
    assert.deepEqual(products.at(-1)?.attributes.bits, 8);
    const weight = 'model.layers.0.self_attn.qkv_proj.weight';
    assert.deepEqual(products[0]?.inputs.slice(1), [`${weight}.quants`, `${weight}.scales`]);
    const found = [`${weight}.quants`, `${weight}.scales`, 'lm_head.weight.quants'].map((input) => {
      const { type, shape } = initializers.find(({ name }) => name === input) ?? {};
      return [type, shape];
    });
    assert.deepEqual(found, [
      [2, [64, 1, 16]],
      [10, [64, 1]],
      [2, [model.config.vocabSize, 1, 32]],
    ]);
    const places = adapterPlaces(model);
    const [q, k] = places.sites[0]?.modules ?? [];
    assert.deepEqual([q?.weight.format, k?.weight.format, k?.weight.firstRow], ['w4-rows', 'w4-rows', 0]);
    assert.equal((k?.weight.dataOffset ?? 0) - (q?.weight.dataOffset ?? 0), 32 * 16);
    assert.equal((k?.weight.scalesOffset ?? 0) - (q?.weight.scalesOffset ?? 0), 32 * 2);
    assert.deepEqual([k?.weight.minsOffset, places.embedding.weight.format], [null, 'f16']);
  });
});

describe('graphs of 16 bits', () => {
  for (const [precision, type] of [
    ['f16', 10],
    ['bf16', 16],
  ] as const) {
    test(`${precision} is a GPU's f32 graph with another element type`, async (t) => {
      const short = readModel(buildGraph(await plan(t, precision, 'rows'), 'weights.bin'));
      const float = readModel(buildGraph(await plan(t, 'f32', 'rows'), 'weights.bin'));
      assert.deepEqual(short.nodes, float.nodes);
      assert.deepEqual([short.outputTypes, float.outputTypes], [[type], [1]]);
      assert.ok(short.initializers.every((initializer) => initializer.type === type));
      assert.deepEqual(
        short.initializers.map(({ name, shape, external }) => [name, shape, Number(external.length)]),
        float.initializers.map(({ name, shape, external }) => [name, shape, Number(external.length) / 2]),
      );
      const places = adapterPlaces(await plan(t, precision, 'rows'));
      assert.equal(places.embedding.weight.format, precision);
      assert.deepEqual(places.sites[8]?.modules[0]?.weight, places.embedding.weight);
      const [q, k] = places.sites[0]?.modules ?? [];
      assert.equal((k?.weight.dataOffset ?? 0) - (q?.weight.dataOffset ?? 0), 2 * 32 * 32);
    });
  }
});

/** Of the tied head and of the embedding. */
const FORMATS: Readonly<Record<Precision, readonly [WeightFormat, WeightFormat]>> = {
  f32: ['f32-panels', 'f32'],
  f16: ['f16', 'f16'],
  bf16: ['bf16', 'bf16'],
  w8: ['w8', 'f32'],
  w4: ['w8', 'f32'],
};

describe('the plan', () => {
  test('regions are aligned, disjoint, and cover what the sites refer to', async (t) => {
    for (const precision of ['f32', 'f16', 'bf16', 'w8', 'w4'] as const) {
      const model = await plan(t, precision);
      let end = 0;
      for (const region of model.layout.regions) {
        assert.equal(region.offset % 4096, 0);
        assert.ok(region.offset >= end, region.name);
        end = region.offset + region.bytes;
      }
      assert.equal(model.layout.totalBytes, end);
      const sites = loraSites(model);
      assert.equal(sites.length, 9);
      const { embedding, norms } = adapterPlaces(model);
      assert.deepEqual(sites[8]?.modules[0]?.name, 'lm_head');
      const [head, kept] = FORMATS[precision];
      assert.equal(sites[8]?.modules[0]?.weight.format, head);
      assert.deepEqual([embedding.name, embedding.weight.format], ['model.embed_tokens', kept]);
      if (head === kept) assert.deepEqual(sites[8]?.modules[0]?.weight, embedding.weight);
      assert.deepEqual(
        [0, 3, 4].map((norm) => norms[norm]?.name),
        ['model.layers.0.input_layernorm', 'model.layers.1.post_attention_layernorm', 'model.norm'],
      );
      assert.deepEqual(
        sites.slice(0, 4).map(({ inFeatures, outFeatures, modules }) => [inFeatures, outFeatures, modules.length]),
        [
          [32, 64, 3],
          [32, 32, 1],
          [32, 128, 2],
          [64, 32, 1],
        ],
      );
      assert.equal(sites[0]?.modules[1]?.name, 'model.layers.0.self_attn.k_proj');
    }
  });

  test('fused modules say where their rows begin', async (t) => {
    for (const precision of ['f32', 'w4'] as const) {
      const [qkv] = loraSites(await plan(t, precision));
      assert.deepEqual(
        qkv?.modules.map(({ outOffset, weight }) => [outOffset, weight.firstRow]),
        [
          [0, 0],
          [32, 32],
          [48, 48],
        ],
      );
      const places = qkv?.modules.map(({ weight: { dataOffset, scalesOffset, minsOffset } }) => ({
        dataOffset,
        scalesOffset,
        minsOffset,
      }));
      assert.deepEqual(places, [places?.[0], places?.[0], places?.[0]]);
    }
  });

  test('row by row, fused modules lie one after the other', async (t) => {
    const [qkv] = loraSites(await plan(t, 'f32', 'rows'));
    const offsets = qkv?.modules.map(({ weight }) => weight.dataOffset) ?? [];
    assert.deepEqual(
      offsets.map((offset) => offset - (offsets[0] ?? 0)),
      [0, 4 * 32 * 32, 4 * 48 * 32],
    );
  });
});
