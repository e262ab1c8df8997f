import type { GenerationDefaults } from '../../core/model-manifest.js';
import type { SpecialTokens } from '../../core/tokenizer-config.js';
import { invalidModel } from '../model-errors.js';
import { readGgufConfig } from './gguf-config.js';
import { type GgufFile, openGguf } from './gguf-file.js';
import { Metadata } from './gguf-metadata.js';
import { buildTokenizerJson } from './gguf-tokenizer.js';
import { undoHeadPermutation } from './head-permutation.js';
import type { ModelSource, TextMetadata } from './model-source.js';
import { readFloat32, tensorRows } from './tensor.js';

const TOP_LEVEL: Readonly<Record<string, string>> = {
  'token_embd.weight': 'model.embed_tokens.weight',
  'output_norm.weight': 'model.norm.weight',
  'output.weight': 'lm_head.weight',
};

const IN_BLOCK: Readonly<Record<string, string>> = {
  attn_norm: 'input_layernorm',
  ffn_norm: 'post_attention_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_output: 'self_attn.o_proj',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
};

const ROPE_DIVISORS = 'rope_freqs.weight';
const MOST_ROPE_PAIRS = 4096;
const BLOCK_TENSOR = /^blk\.(\d+)\.(\w+)\.(weight|bias)$/;
const PERMUTED = /\.self_attn\.[qk]_proj\./;
const NO_DEFAULTS: GenerationDefaults = { temperature: null, topK: null, topP: null, repetitionPenalty: null };

/** Opens one GGUF file as a model. ERR_MODEL_NOT_FOUND, ERR_MODEL_INVALID, ERR_MODEL_UNSUPPORTED name file and field. */
export async function openGgufSource(path: string): Promise<ModelSource> {
  const gguf = await openGguf(path);
  try {
    return await describe(gguf, path);
  } catch (error) {
    await gguf.close();
    throw error;
  }
}

async function describe(gguf: GgufFile, path: string): Promise<ModelSource> {
  const metadata = new Metadata(gguf.metadata, path);
  const parts = metadata.number('split.count', 1);
  if (parts > 1)
    throw invalidModel(
      path,
      `is one of ${parts} parts of a split model: join them with llama-gguf-split --merge first`,
      'split.count',
    );
  const config = readGgufConfig(gguf, path, await readRopeDivisors(gguf));
  const tokenCount = metadata.strings('tokenizer.ggml.tokens')?.length ?? 0;
  if (tokenCount > config.vocabSize)
    throw invalidModel(
      path,
      `tensor token_embd.weight: expected a row for each of the ${tokenCount} tokens, found ${config.vocabSize} rows`,
      'token_embd.weight',
    );
  const fileNames = huggingFaceNames(gguf);
  return {
    path,
    config,
    requiredBiases: { qkv: config.architecture === 'qwen2', output: false, mlp: false },
    tensorNames: new Set(fileNames.keys()),
    tensor(name, shape) {
      const location = gguf.locate(fileNames.get(name) ?? name);
      if (location === undefined) throw invalidModel(path, `tensor for ${name} of shape [${shape}] is missing`, name);
      const rows = tensorRows(location, shape, name);
      const permuted = config.architecture === 'llama' && PERMUTED.test(name);
      return permuted ? undoHeadPermutation(rows, config.headDim) : rows;
    },
    tokenizerJson: async () => Buffer.from(buildTokenizerJson(gguf, path)),
    textMetadata: async () => readTextMetadata(metadata, path, tokenCount || config.vocabSize),
    close: () => gguf.close(),
  };
}

/** Hugging Face name → GGUF name. Names without a counterpart stay as they are, for the converter to refuse. */
function huggingFaceNames(gguf: GgufFile): Map<string, string> {
  const names = new Map<string, string>();
  for (const name of gguf.tensors.keys()) {
    if (name === ROPE_DIVISORS) continue;
    const [, layer, part = '', kind] = BLOCK_TENSOR.exec(name) ?? [];
    const module = Object.hasOwn(IN_BLOCK, part) ? IN_BLOCK[part] : undefined;
    const top = Object.hasOwn(TOP_LEVEL, name) ? TOP_LEVEL[name] : undefined;
    names.set(module === undefined ? (top ?? name) : `model.layers.${layer}.${module}.${kind}`, name);
  }
  return names;
}

async function readRopeDivisors(gguf: GgufFile): Promise<Float32Array | undefined> {
  const location = gguf.locate(ROPE_DIVISORS);
  if (location === undefined) return undefined;
  const [pairs = 0, ...more] = location.shape;
  if (pairs > MOST_ROPE_PAIRS || more.length > 0)
    throw invalidModel(
      gguf.file.path,
      `tensor ${ROPE_DIVISORS}: expected one divisor per rotary pair, found shape [${location.shape}]`,
      ROPE_DIVISORS,
    );
  return readFloat32(tensorRows(location, [pairs]), 0, pairs);
}

/** Keys of special tokens, and the ids that SentencePiece models leave out. */
const SPECIAL_TOKEN_KEYS = [
  ['bos_token', 'bos_token_id', 1],
  ['eos_token', 'eos_token_id', 2],
  ['unk_token', 'unknown_token_id', 0],
  ['sep_token', 'seperator_token_id', -1],
  ['pad_token', 'padding_token_id', -1],
  ['cls_token', 'cls_token_id', -1],
  ['mask_token', 'mask_token_id', -1],
] as const;

function readSpecialTokens(metadata: Metadata, isSentencePiece: boolean): SpecialTokens {
  const tokens = metadata.strings('tokenizer.ggml.tokens') ?? [];
  const named = SPECIAL_TOKEN_KEYS.map(([name, key, sentencePieceId]) => {
    const text = tokens[metadata.number(`tokenizer.ggml.${key}`, isSentencePiece ? sentencePieceId : -1)];
    return [name, text] as const;
  });
  return Object.fromEntries(named.filter(([, text]) => text !== undefined));
}

function readTextMetadata(metadata: Metadata, path: string, idLimit: number): TextMetadata {
  const isSentencePiece = metadata.string('tokenizer.ggml.model', '') === 'llama';
  const id = (name: string, fallback: number): number | null => {
    const key = `tokenizer.ggml.${name}_token_id`;
    const value = metadata.number(key, fallback);
    if (value < 0) return null;
    if (value >= idLimit) throw invalidModel(path, `key ${key}: expected an id below ${idLimit}, found ${value}`, key);
    return value;
  };
  const ends = [id('eos', isSentencePiece ? 2 : -1), id('eot', -1), id('eom', -1)].filter((end) => end !== null);
  if (ends.length === 0)
    throw invalidModel(
      path,
      'key tokenizer.ggml.eos_token_id is missing: no token would end a generation',
      'tokenizer.ggml.eos_token_id',
    );
  const template = metadata.string('tokenizer.chat_template', '');
  return {
    eosTokenIds: [...new Set(ends)].sort((a, b) => a - b),
    bosTokenId: id('bos', isSentencePiece ? 1 : -1),
    chatTemplate: template === '' ? null : template,
    specialTokens: readSpecialTokens(metadata, isSentencePiece),
    generationDefaults: NO_DEFAULTS,
  };
}
