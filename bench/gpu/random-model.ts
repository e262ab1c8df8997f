import { closeSync, mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { narrowToHalf } from '../../src/model/sources/float16.js';
import type { Shape } from './shapes.js';

/** Random numbers of one block, float16: written again and again, from another place for each tensor. */
const BLOCK_ELEMENTS = 2 ** 23;
const ONE = 0x3c00;

interface RandomTensor {
  readonly name: string;
  readonly shape: readonly number[];
  /** Weights are U(±scale); null = ones. */
  readonly scale: number | null;
}

/**
 * Writes a Hugging Face directory with random float16 weights of a shape: as fast as the disk takes them, and with 64 MB
 * of memory whatever the shape. Weights are scaled so that activations stay of the size of real ones.
 */
export function writeRandomModel(directory: string, shape: Shape): void {
  mkdirSync(directory, { recursive: true });
  const config = { architectures: ['LlamaForCausalLM'], model_type: 'llama', rms_norm_eps: 1e-5, ...shape };
  const ids = { bos_token_id: 1, eos_token_id: 2, tie_word_embeddings: false, torch_dtype: 'float16' };
  writeFileSync(join(directory, 'config.json'), JSON.stringify({ ...config, ...ids }));
  const vocab = Object.fromEntries(Array.from({ length: shape.vocab_size }, (_, id) => [`t${id}`, id]));
  const tokenizer = { version: '1.0', added_tokens: [], model: { type: 'BPE', vocab, merges: [] } };
  writeFileSync(join(directory, 'tokenizer.json'), JSON.stringify(tokenizer));
  writeWeights(join(directory, 'model.safetensors'), tensorsOf(shape));
}

function tensorsOf(shape: Shape): RandomTensor[] {
  const { hidden_size: hidden, intermediate_size: wide, vocab_size: vocab } = shape;
  const kv = (hidden / shape.num_attention_heads) * shape.num_key_value_heads;
  const matrix = (name: string, rows: number, cols: number): RandomTensor => ({
    name: `${name}.weight`,
    shape: [rows, cols],
    // Uniform numbers of this width have the variance 1 / cols.
    scale: Math.sqrt(3 / cols),
  });
  const ones = (name: string): RandomTensor => ({ name: `${name}.weight`, shape: [hidden], scale: null });
  const layers = Array.from({ length: shape.num_hidden_layers }, (_, layer) => {
    const at = (part: string): string => `model.layers.${layer}.${part}`;
    return [
      ones(at('input_layernorm')),
      matrix(at('self_attn.q_proj'), hidden, hidden),
      matrix(at('self_attn.k_proj'), kv, hidden),
      matrix(at('self_attn.v_proj'), kv, hidden),
      matrix(at('self_attn.o_proj'), hidden, hidden),
      ones(at('post_attention_layernorm')),
      matrix(at('mlp.gate_proj'), wide, hidden),
      matrix(at('mlp.up_proj'), wide, hidden),
      matrix(at('mlp.down_proj'), hidden, wide),
    ];
  });
  const embedding = matrix('model.embed_tokens', vocab, hidden);
  return [embedding, ...layers.flat(), ones('model.norm'), matrix('lm_head', vocab, hidden)];
}

function writeWeights(path: string, tensors: readonly RandomTensor[]): void {
  const header: Record<string, unknown> = {};
  let end = 0;
  for (const { name, shape } of tensors) {
    const bytes = shape.reduce((product, size) => product * size, 2);
    header[name] = { dtype: 'F16', shape, data_offsets: [end, end + bytes] };
    end += bytes;
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  const file = openSync(path, 'w');
  try {
    writeAll(file, length);
    writeAll(file, json);
    const blocks = new Map<number | null, Uint16Array>();
    for (const [index, { shape, scale }] of tensors.entries()) {
      const block = blocks.get(scale) ?? randomBlock(scale);
      blocks.set(scale, block);
      const elements = shape.reduce((product, size) => product * size, 1);
      writeElements(file, block, elements, index);
    }
  } finally {
    closeSync(file);
  }
}

/** `elements` of the block, around its end as often as needed; tensors begin at places of their own. */
function writeElements(file: number, block: Uint16Array, elements: number, index: number): void {
  let at = (index * 1_000_003) % block.length;
  for (let left = elements; left > 0; ) {
    const count = Math.min(left, block.length - at);
    writeAll(file, new Uint8Array(block.buffer, 2 * at, 2 * count));
    left -= count;
    at = 0;
  }
}

function writeAll(file: number, bytes: Uint8Array): void {
  for (let written = 0; written < bytes.length; ) written += writeSync(file, bytes, written);
}

function randomBlock(scale: number | null): Uint16Array<ArrayBuffer> {
  if (scale === null) return new Uint16Array(2 ** 16).fill(ONE);
  const values = new Float32Array(1);
  const bits = new Uint32Array(values.buffer);
  const block = new Uint16Array(BLOCK_ELEMENTS);
  let state = 1;
  for (let i = 0; i < block.length; i += 1) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    values[0] = (state / 2 ** 31 - 1) * scale;
    block[i] = narrowToHalf(bits[0] as number);
  }
  return block;
}
