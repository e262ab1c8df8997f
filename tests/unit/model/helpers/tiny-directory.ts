import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { float32Bytes, noise } from './random-weights.js';

export interface StoredTensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** Serialises a safetensors file as the format describes it, independently of the reader. */
export function writeSafetensors(tensors: Readonly<Record<string, StoredTensor>>): Buffer {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } };
  let offset = 0;
  for (const [name, { dtype, shape, bytes }] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes.length] };
    offset += bytes.length;
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([length, json, ...Object.values(tensors).map(({ bytes }) => bytes)]);
}

export const TINY_CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 32,
  intermediate_size: 64,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  vocab_size: 8,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  eos_token_id: 1,
  bos_token_id: 0,
} as const;

export const TINY_TOKENIZER = {
  version: '1.0',
  added_tokens: [{ id: 1, content: '</s>', special: true }],
  model: { type: 'BPE', vocab: { '<s>': 0, '</s>': 1, a: 2 }, merges: [] },
};

export function storedF32(shape: readonly number[], seed: number): StoredTensor {
  const count = shape.reduce((product, size) => product * size, 1);
  return { dtype: 'F32', shape, bytes: float32Bytes(noise(count, seed)) };
}

export function tinyWeights(): Record<string, StoredTensor> {
  const shapes: Record<string, number[]> = {
    'model.embed_tokens.weight': [8, 32],
    'model.layers.0.input_layernorm.weight': [32],
    'model.layers.0.self_attn.q_proj.weight': [32, 32],
    'model.layers.0.self_attn.k_proj.weight': [16, 32],
    'model.layers.0.self_attn.v_proj.weight': [16, 32],
    'model.layers.0.self_attn.o_proj.weight': [32, 32],
    'model.layers.0.post_attention_layernorm.weight': [32],
    'model.layers.0.mlp.gate_proj.weight': [64, 32],
    'model.layers.0.mlp.up_proj.weight': [64, 32],
    'model.layers.0.mlp.down_proj.weight': [32, 64],
    'model.norm.weight': [32],
    'lm_head.weight': [8, 32],
  };
  return Object.fromEntries(Object.entries(shapes).map(([name, shape], seed) => [name, storedF32(shape, seed)]));
}

/** Writes a model directory; `null` leaves a file out, an object is written as JSON. */
export async function writeDirectory(
  directory: string,
  files: Readonly<Record<string, Uint8Array | string | object | null>> = {},
): Promise<string> {
  await mkdir(directory, { recursive: true });
  const all = {
    'config.json': TINY_CONFIG,
    'tokenizer.json': TINY_TOKENIZER,
    'model.safetensors': writeSafetensors(tinyWeights()),
    ...files,
  };
  for (const [name, content] of Object.entries(all)) {
    if (content === null) continue;
    const isRaw = typeof content === 'string' || content instanceof Uint8Array;
    await writeFile(join(directory, name), isRaw ? content : JSON.stringify(content));
  }
  return directory;
}
