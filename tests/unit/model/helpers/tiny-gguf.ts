import { type GgufField, type GgufTensorInput, writeGguf } from './gguf-writer.js';
import { float32Bytes, noise } from './random-weights.js';

/** One layer, hidden 32, 2 heads of 16, 1 key/value head, 64 wide MLP, 8 tokens. */
export const TINY = { hidden: 32, heads: 2, kvHeads: 1, headDim: 16, intermediate: 64, tokens: 8 } as const;

export const TINY_TOKENS: readonly string[] = ['<s>', '</s>', 'a', 'b', 'c', 'ab', 'Ġ', '<tool>'];

export function tinyMetadata(architecture = 'llama'): Record<string, GgufField> {
  const a = architecture;
  return {
    'general.architecture': { type: 'string', value: a },
    [`${a}.block_count`]: { type: 'u32', value: 1 },
    [`${a}.context_length`]: { type: 'u32', value: 64 },
    [`${a}.embedding_length`]: { type: 'u32', value: TINY.hidden },
    [`${a}.feed_forward_length`]: { type: 'u32', value: TINY.intermediate },
    [`${a}.attention.head_count`]: { type: 'u32', value: TINY.heads },
    [`${a}.attention.head_count_kv`]: { type: 'u32', value: TINY.kvHeads },
    [`${a}.attention.layer_norm_rms_epsilon`]: { type: 'f32', value: 1e-5 },
    [`${a}.rope.dimension_count`]: { type: 'u32', value: TINY.headDim },
    'tokenizer.ggml.model': { type: 'string', value: 'gpt2' },
    'tokenizer.ggml.pre': { type: 'string', value: 'smollm' },
    'tokenizer.ggml.tokens': { type: 'strings', value: TINY_TOKENS },
    'tokenizer.ggml.token_type': { type: 'i32s', value: [3, 3, 1, 1, 1, 1, 1, 4] },
    'tokenizer.ggml.merges': { type: 'strings', value: ['a b'] },
    'tokenizer.ggml.bos_token_id': { type: 'u32', value: 0 },
    'tokenizer.ggml.eos_token_id': { type: 'u32', value: 1 },
    'tokenizer.chat_template': { type: 'string', value: '{{ messages }}' },
  };
}

export function f32Tensor(name: string, shape: readonly number[], seed: number): GgufTensorInput {
  const count = shape.reduce((product, size) => product * size, 1);
  return { name, shape, ggmlType: 0, bytes: float32Bytes(noise(count, seed)) };
}

export function tinyTensors(): GgufTensorInput[] {
  const { hidden, heads, kvHeads, headDim, intermediate, tokens } = TINY;
  const shapes: Record<string, number[]> = {
    'token_embd.weight': [tokens, hidden],
    'output_norm.weight': [hidden],
    'blk.0.attn_norm.weight': [hidden],
    'blk.0.attn_q.weight': [heads * headDim, hidden],
    'blk.0.attn_k.weight': [kvHeads * headDim, hidden],
    'blk.0.attn_v.weight': [kvHeads * headDim, hidden],
    'blk.0.attn_output.weight': [hidden, heads * headDim],
    'blk.0.ffn_norm.weight': [hidden],
    'blk.0.ffn_gate.weight': [intermediate, hidden],
    'blk.0.ffn_up.weight': [intermediate, hidden],
    'blk.0.ffn_down.weight': [hidden, intermediate],
  };
  return Object.entries(shapes).map(([name, shape], seed) => f32Tensor(name, shape, seed));
}

export function tinyGguf(
  metadata: Readonly<Record<string, GgufField>> = {},
  tensors: readonly GgufTensorInput[] = tinyTensors(),
): Buffer {
  return writeGguf({ ...tinyMetadata(), ...metadata }, tensors);
}
