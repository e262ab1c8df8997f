import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { readHuggingFaceConfig } from '../../../../src/model/sources/hf-config.js';
import { JsonFields } from '../../../../src/model/sources/json-file.js';
import { ropeInverseFrequencies } from '../../../../src/model/sources/rope.js';
import { loramuxError } from '../helpers/temporary.js';
import { TINY_CONFIG } from '../helpers/tiny-directory.js';

function read(changes: Record<string, unknown>, hasHead = true) {
  return readHuggingFaceConfig(
    new JsonFields('config.json', { ...TINY_CONFIG, architectures: null, ...changes }),
    hasHead,
  );
}

const fourLayers = { num_hidden_layers: 4 };

describe('missing keys take the class defaults', () => {
  test('llama', () => {
    const { config, requiredBiases } = read({ num_key_value_heads: null, rms_norm_eps: undefined });
    assert.equal(config.kvHeads, 2);
    assert.equal(config.headDim, 16);
    assert.equal(config.rmsNormEps, 1e-6);
    assert.equal(config.tieWordEmbeddings, false);
    assert.deepEqual(config.slidingWindow, [null]);
    assert.deepEqual(config.ropeInverseFrequencies, ropeInverseFrequencies(10_000, 16, { type: 'default' }));
    assert.deepEqual(requiredBiases, { qkv: false, output: false, mlp: false });
  });

  const windows: [string, Record<string, unknown>, (number | null)[]][] = [
    ['mistral slides everywhere by default', { model_type: 'mistral' }, [4096, 4096, 4096, 4096]],
    ['mistral with null is full', { model_type: 'mistral', sliding_window: null }, [null, null, null, null]],
    ['qwen2 is full by default', { model_type: 'qwen2', sliding_window: 16 }, [null, null, null, null]],
    [
      'qwen2 slides from max_window_layers on',
      { model_type: 'qwen2', use_sliding_window: true, sliding_window: 16, max_window_layers: 3 },
      [null, null, null, 16],
    ],
    [
      'qwen2 keeps the first 28 layers full by default',
      { model_type: 'qwen2', use_sliding_window: true },
      [null, null, null, null],
    ],
    [
      'layer_types goes before',
      {
        model_type: 'mistral',
        sliding_window: 8,
        layer_types: ['full_attention', 'sliding_attention', 'sliding_attention', 'full_attention'],
      },
      [null, 8, 8, null],
    ],
    ['llama ignores windows as its class does', { sliding_window: 16 }, [null, null, null, null]],
  ];
  for (const [what, changes, expected] of windows) {
    test(what, () => assert.deepEqual(read({ ...fourLayers, ...changes }).config.slidingWindow, expected));
  }

  test('biases: qwen2 always on q, k, v; llama as its switches say', () => {
    assert.deepEqual(read({ model_type: 'qwen2' }).requiredBiases, { qkv: true, output: false, mlp: false });
    const all = { attention_bias: true, mlp_bias: true };
    assert.deepEqual(read(all).requiredBiases, { qkv: true, output: true, mlp: true });
    assert.deepEqual(read({ ...all, model_type: 'mistral' }).requiredBiases, { qkv: false, output: false, mlp: false });
  });

  test('a head that is not stored is tied', () => {
    assert.equal(read({}, false).config.tieWordEmbeddings, true);
    assert.equal(read({ tie_word_embeddings: true }).config.tieWordEmbeddings, true);
  });

  test('an explicit head_dim need not be hidden / heads', () => {
    assert.equal(read({ head_dim: 24 }).config.headDim, 24);
  });
});

describe('rope', () => {
  const llama3 = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 32 };

  test('old and new spellings agree', () => {
    const old = read({ rope_theta: 500, rope_scaling: { type: 'linear', factor: 2 } });
    const now = read({ rope_parameters: { rope_type: 'linear', rope_theta: 500, factor: 2 } });
    assert.deepEqual(old.config.ropeInverseFrequencies, now.config.ropeInverseFrequencies);
    assert.deepEqual(old.config.ropeInverseFrequencies, ropeInverseFrequencies(500, 16, { type: 'linear', factor: 2 }));
  });

  test('llama3 takes the original length from the top level first', () => {
    const scaled = (original: number) =>
      ropeInverseFrequencies(10_000, 16, {
        type: 'llama3',
        factor: 8,
        lowFreqFactor: 1,
        highFreqFactor: 4,
        originalMaxPositions: original,
      });
    const inner = read({ rope_scaling: { rope_type: 'llama3', ...llama3 } });
    assert.deepEqual(inner.config.ropeInverseFrequencies, scaled(32));
    const outer = read({ rope_scaling: { rope_type: 'llama3', ...llama3 }, original_max_position_embeddings: 48 });
    assert.deepEqual(outer.config.ropeInverseFrequencies, scaled(48));
  });
});

describe('refusals', () => {
  const unsupported: [Record<string, unknown>, string[]][] = [
    [{ model_type: 'gemma2' }, ['model_type', 'gemma2', 'llama, mistral, qwen2']],
    [{ architectures: ['LlamaForSequenceClassification'] }, ['architectures', 'LlamaForCausalLM']],
    [{ hidden_act: 'gelu' }, ['hidden_act', 'gelu', 'silu']],
    [{ quantization_config: { quant_method: 'awq' } }, ['quantization_config', 'awq', 'GGUF']],
    [{ rope_scaling: { rope_type: 'yarn', factor: 4 } }, ['rope_scaling.rope_type', 'yarn', 'default, linear, llama3']],
    [{ rope_scaling: { type: 'dynamic', factor: 2 } }, ['rope_scaling.type', 'dynamic']],
    [{ partial_rotary_factor: 0.5 }, ['partial_rotary_factor', '0.5']],
    [{ model_type: 'mistral', layer_types: ['chunked_attention'] }, ['layer_types', 'chunked_attention']],
    [{ head_dim: 15 }, ['head_dim', '15']],
  ];
  for (const [changes, parts] of unsupported) {
    test(`unsupported: ${parts.slice(0, 2).join(' ')}`, () => {
      assert.throws(() => read(changes), loramuxError('ERR_MODEL_UNSUPPORTED', 'config.json', ...parts));
    });
  }

  const invalid: [Record<string, unknown>, string[]][] = [
    [{ hidden_size: undefined }, ['hidden_size', 'nothing']],
    [{ num_hidden_layers: 2e9 }, ['num_hidden_layers', '1024']],
    [{ num_attention_heads: '2' }, ['num_attention_heads', '"2"']],
    [{ num_attention_heads: 3, num_key_value_heads: 2, head_dim: 16 }, ['heads', 'multiple of the 2']],
    [{ rms_norm_eps: 0 }, ['rms_norm_eps', 'above 0']],
    [{ model_type: 'mistral', layer_types: [] }, ['layer_types', '1 entries']],
    [{ rope_scaling: { type: 'linear' } }, ['rope_scaling.factor']],
    [{ rope_scaling: 3 }, ['rope_scaling', 'an object']],
    [{ attention_bias: 1 }, ['attention_bias', 'true or false']],
  ];
  for (const [changes, parts] of invalid) {
    test(`invalid: ${parts.join(' ')}`, () => {
      assert.throws(() => read(changes), loramuxError('ERR_MODEL_INVALID', 'config.json', ...parts));
    });
  }
});
