import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, type TestContext, test } from 'node:test';
import fc from 'fast-check';
import { LoramuxError } from '../../../../src/core/errors.js';
import { planModel } from '../../../../src/model/graph/model-plan.js';
import { openGgufSource } from '../../../../src/model/sources/gguf-source.js';
import { readFloat32 } from '../../../../src/model/sources/tensor.js';
import { type GgufField, writeGguf } from '../helpers/gguf-writer.js';
import { noise } from '../helpers/random-weights.js';
import { loramuxError, temporaryDirectory, temporaryFile } from '../helpers/temporary.js';
import { f32Tensor, TINY, tinyGguf, tinyMetadata, tinyTensors } from '../helpers/tiny-gguf.js';

async function open(context: TestContext, bytes: Uint8Array) {
  const source = await openGgufSource(await temporaryFile(context, 'tiny.gguf', bytes));
  context.after(() => source.close());
  return source;
}

describe('a GGUF model', () => {
  test('metadata becomes the decoder configuration', async (t) => {
    const source = await open(t, tinyGguf());
    const { ropeInverseFrequencies, ...config } = source.config;
    assert.deepEqual(config, {
      architecture: 'llama',
      hiddenSize: 32,
      intermediateSize: 64,
      layers: 1,
      heads: 2,
      kvHeads: 1,
      headDim: 16,
      vocabSize: 8,
      maxPositions: 64,
      rmsNormEps: Math.fround(1e-5),
      tieWordEmbeddings: true,
      slidingWindow: [null],
      ropeScale: 1,
    });
    assert.equal(ropeInverseFrequencies.length, 8);
    assert.deepEqual(await source.textMetadata(), {
      eosTokenIds: [1],
      bosTokenId: 0,
      chatTemplate: '{{ messages }}',
      specialTokens: { bos_token: '<s>', eos_token: '</s>' },
      generationDefaults: { temperature: null, topK: null, topP: null, repetitionPenalty: null },
    });
  });

  test('q and k rows are un-permuted for llama and left alone for qwen2', async (t) => {
    const name = 'model.layers.0.self_attn.q_proj.weight';
    const stored = noise(32 * 32, 3);
    const row = (index: number) => stored.slice(index * 32, index * 32 + 32);
    const llama = await readFloat32((await open(t, tinyGguf())).tensor(name, [32, 32]), 16 + 9, 1);
    assert.deepEqual(llama, row(16 + 3));
    const biases = ['q', 'k', 'v'].map((part) => f32Tensor(`blk.0.attn_${part}.bias`, [part === 'q' ? 32 : 16], 99));
    const qwen = await open(t, writeGguf(tinyMetadata('qwen2'), [...tinyTensors(), ...biases]));
    assert.deepEqual(await readFloat32(qwen.tensor(name, [32, 32]), 25, 1), row(25));
    assert.equal(planModel(qwen, 'f32').layers[0]?.qkv.bias?.bytes, 4 * 64);
  });

  test('biases found in a llama file are used, and permuted with their rows', async (t) => {
    const biases = ['q', 'k', 'v'].map((part) => f32Tensor(`blk.0.attn_${part}.bias`, [part === 'q' ? 32 : 16], 5));
    const source = await open(t, tinyGguf({}, [...tinyTensors(), ...biases]));
    assert.ok(planModel(source, 'f32').layers[0]?.qkv.bias);
    const bias = await readFloat32(source.tensor('model.layers.0.self_attn.k_proj.bias', [16]), 8, 1);
    assert.equal(bias[0], noise(16, 5)[1]);
  });

  test('rope_freqs divides the frequencies', async (t) => {
    const plain = (await open(t, tinyGguf())).config.ropeInverseFrequencies;
    const divisors = {
      ...f32Tensor('rope_freqs.weight', [8], 0),
      bytes: new Uint8Array(new Float32Array(8).fill(2).buffer),
    };
    const scaled = await open(t, tinyGguf({}, [...tinyTensors(), divisors]));
    assert.deepEqual(
      scaled.config.ropeInverseFrequencies,
      plain.map((frequency) => Math.fround(frequency / 2)),
    );
    planModel(scaled, 'f32');
  });

  const refused: [string, Record<string, GgufField>, string[]][] = [
    [
      'another architecture',
      { 'general.architecture': { type: 'string', value: 'gemma2' } },
      ['gemma2', 'llama, qwen2'],
    ],
    ['experts', { 'llama.expert_count': { type: 'u32', value: 8 } }, ['expert_count', '8']],
    ['yarn', { 'llama.rope.scaling.type': { type: 'string', value: 'yarn' } }, ['rope.scaling.type', 'yarn', 'linear']],
    [
      'partial rotary',
      {
        'llama.rope.dimension_count': { type: 'u32', value: 8 },
        'llama.attention.key_length': { type: 'u32', value: 16 },
      },
      ['dimension_count', '8'],
    ],
    ['unequal layers', { 'llama.attention.head_count': { type: 'i32s', value: [2, 4] } }, ['head_count']],
  ];
  for (const [what, metadata, parts] of refused) {
    test(`${what}: refused by name`, async (t) => {
      await assert.rejects(open(t, tinyGguf(metadata)), loramuxError('ERR_MODEL_UNSUPPORTED', 'tiny.gguf', ...parts));
    });
  }

  test('missing, misshapen and unknown tensors are named', async (t) => {
    const without = tinyTensors().filter(({ name }) => !name.includes('ffn_up'));
    const missing = await open(t, tinyGguf({}, without));
    assert.throws(
      () => planModel(missing, 'f32'),
      loramuxError('ERR_MODEL_INVALID', 'model.layers.0.mlp.up_proj.weight', 'missing'),
    );
    const wrong = await open(t, tinyGguf({}, [...without, f32Tensor('blk.0.ffn_up.weight', [32, 32], 1)]));
    assert.throws(() => planModel(wrong, 'f32'), loramuxError('ERR_MODEL_INVALID', 'ffn_up', '[64,32]', '[32,32]'));
    const extra = await open(t, tinyGguf({}, [...tinyTensors(), f32Tensor('blk.0.attn_q_norm.weight', [16], 1)]));
    assert.throws(() => planModel(extra, 'f32'), loramuxError('ERR_MODEL_INVALID', 'attn_q_norm'));
  });

  test('damaged files never end in anything but a LoramuxError', async (t) => {
    const path = join(await temporaryDirectory(t), 'tiny.gguf');
    const bytes = tinyGguf();
    const headerBytes = bytes.length - tinyTensors().reduce((sum, tensor) => sum + tensor.bytes.length, 0);
    const edits = fc.array(fc.tuple(fc.nat(headerBytes - 1), fc.nat(255)), { minLength: 1, maxLength: 3 });
    const convert = async () => {
      const source = await openGgufSource(path);
      try {
        planModel(source, 'w4');
        await source.tokenizerJson();
        await source.textMetadata();
        await readFloat32(source.tensor('model.embed_tokens.weight', [TINY.tokens, TINY.hidden]), 0, TINY.tokens);
      } finally {
        await source.close();
      }
    };
    await fc.assert(
      fc.asyncProperty(edits, fc.option(fc.nat(bytes.length)), async (changes, length) => {
        const damaged = Buffer.from(bytes);
        for (const [at, value] of changes) damaged[at] = value;
        await writeFile(path, damaged.subarray(0, length ?? bytes.length));
        await convert().catch((error: unknown) => {
          if (!(error instanceof LoramuxError)) throw error;
        });
      }),
      { numRuns: 400 },
    );
  });
});
