import type { Architecture, DecoderConfig } from '../../core/model-manifest.js';
import { invalidModel, unsupportedModel } from '../model-errors.js';
import { checkDecoderShape } from './decoder-shape.js';
import type { GgufHeader } from './gguf-file.js';
import { Metadata } from './gguf-metadata.js';
import { type RopeScaling, ropeInverseFrequencies } from './rope.js';

/** Decoders we read from GGUF. Mistral files say `llama`. */
const ARCHITECTURES: readonly Architecture[] = ['llama', 'qwen2'];

/** Keys whose presence changes the network in ways the graph does not build, with the values that do not. */
const REFUSED_KEYS: readonly (readonly [suffix: string, neutral: number])[] = [
  ['expert_count', 0],
  ['attention.sliding_window', 0],
  ['attn_logit_softcapping', 0],
  ['final_logit_softcapping', 0],
  ['attention.scale', 0],
  ['embedding_scale', 1],
  ['residual_scale', 1],
  ['logit_scale', 1],
];

/**
 * Reads the decoder's shape from GGUF metadata.
 * @param ropeDivisors values of `rope_freqs.weight` when the file has one.
 * ERR_MODEL_INVALID for a missing or impossible key, ERR_MODEL_UNSUPPORTED naming the key otherwise.
 */
export function readGgufConfig(
  header: GgufHeader,
  path: string,
  ropeDivisors: Float32Array | undefined,
): DecoderConfig {
  const metadata = new Metadata(header.metadata, path);
  const architecture = readArchitecture(metadata, path);
  const hiddenSize = metadata.size(`${architecture}.embedding_length`);
  const heads = metadata.perLayerSize(`${architecture}.attention.head_count`);
  const kvHeads = metadata.perLayerSize(`${architecture}.attention.head_count_kv`, heads);
  const ropeDims = metadata.size(`${architecture}.rope.dimension_count`, 0);
  const inferredHeadDim = architecture === 'llama' && ropeDims > 0 ? ropeDims : Math.floor(hiddenSize / heads);
  const headDim = metadata.size(`${architecture}.attention.key_length`, inferredHeadDim);
  const valueDim = metadata.size(`${architecture}.attention.value_length`, headDim);
  if (valueDim !== headDim)
    throw unsupportedModel(
      path,
      `${architecture}.attention.value_length`,
      String(valueDim),
      `the key length ${headDim}`,
    );
  if (ropeDims !== 0 && ropeDims !== headDim)
    throw unsupportedModel(path, `${architecture}.rope.dimension_count`, String(ropeDims), `the head size ${headDim}`);
  for (const [suffix, neutral] of REFUSED_KEYS) {
    const value = header.metadata.get(`${architecture}.${suffix}`) ?? neutral;
    if (value !== neutral)
      throw unsupportedModel(path, `${architecture}.${suffix}`, String(value), `absent or ${neutral}`);
  }
  const layers = metadata.size(`${architecture}.block_count`);
  const intermediateSize = metadata.perLayerSize(`${architecture}.feed_forward_length`);
  checkDecoderShape({ hiddenSize, intermediateSize, layers, heads, kvHeads, headDim }, path, {
    hiddenSize: `${architecture}.embedding_length`,
    intermediateSize: `${architecture}.feed_forward_length`,
    layers: `${architecture}.block_count`,
    heads: `${architecture}.attention.head_count`,
    kvHeads: `${architecture}.attention.head_count_kv`,
    headDim: `${architecture}.attention.key_length`,
  });
  const embedding = header.tensors.get('token_embd.weight');
  if (embedding === undefined) throw invalidModel(path, 'tensor token_embd.weight is missing', 'token_embd.weight');
  return {
    architecture,
    hiddenSize,
    intermediateSize,
    layers,
    heads,
    kvHeads,
    headDim,
    // The table rules: `vocab_size` and the token list may both be shorter than a padded embedding.
    vocabSize: embedding.shape[0] ?? 0,
    maxPositions: metadata.size(`${architecture}.context_length`),
    rmsNormEps: metadata.number(`${architecture}.attention.layer_norm_rms_epsilon`),
    tieWordEmbeddings: !header.tensors.has('output.weight'),
    slidingWindow: Array.from({ length: layers }, () => null),
    ropeInverseFrequencies: ropeInverseFrequencies(
      metadata.number(`${architecture}.rope.freq_base`, 10_000),
      headDim,
      readRopeScaling(metadata, architecture, path, headDim, ropeDivisors),
    ),
    ropeScale: 1,
  };
}

function readArchitecture(metadata: Metadata, path: string): Architecture {
  const name = metadata.string('general.architecture');
  const architecture = ARCHITECTURES.find((known) => known === name);
  if (architecture === undefined) throw unsupportedModel(path, 'general.architecture', name, ARCHITECTURES.join(', '));
  return architecture;
}

function readRopeScaling(
  metadata: Metadata,
  architecture: string,
  path: string,
  headDim: number,
  divisors: Float32Array | undefined,
): RopeScaling {
  const key = `${architecture}.rope.scaling.type`;
  const type = metadata.string(key, 'none');
  const legacyFactor = metadata.number(`${architecture}.rope.scale_linear`, 1);
  if (type !== 'none' && type !== 'linear')
    throw unsupportedModel(path, key, type, 'none, linear, or a rope_freqs tensor');
  const factor = type === 'linear' ? metadata.number(`${architecture}.rope.scaling.factor`) : legacyFactor;
  if (!(factor > 0))
    throw invalidModel(path, `the linear rope factor: expected a positive number, found ${factor}`, key);
  if (divisors === undefined) return factor === 1 ? { type: 'default' } : { type: 'linear', factor };
  if (factor !== 1)
    throw unsupportedModel(path, key, `linear with factor ${factor} beside rope_freqs.weight`, 'one of the two');
  if (divisors.length !== headDim / 2)
    throw invalidModel(
      path,
      `rope_freqs.weight: expected ${headDim / 2} divisors for heads of ${headDim}, found ${divisors.length}`,
      'rope_freqs.weight',
    );
  const bad = divisors.findIndex((value) => !(value > 0));
  if (bad >= 0)
    throw invalidModel(path, `rope_freqs.weight: expected positive divisors, found ${divisors[bad]} at ${bad}`);
  return { type: 'divisors', divisors };
}
