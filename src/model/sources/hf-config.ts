import type { Architecture, DecoderConfig } from '../../core/model-manifest.js';
import { unsupportedModel } from '../model-errors.js';
import { checkDecoderShape } from './decoder-shape.js';
import type { JsonFields } from './json-file.js';
import type { RequiredBiases } from './model-source.js';
import { type RopeScaling, ropeInverseFrequencies } from './rope.js';

/** What a family's Hugging Face class assumes for keys that config.json leaves out. */
interface FamilyDefaults {
  readonly className: string;
  readonly slidingWindow: number | null;
}

const FAMILIES: Readonly<Record<Architecture, FamilyDefaults>> = {
  llama: { className: 'LlamaForCausalLM', slidingWindow: null },
  mistral: { className: 'MistralForCausalLM', slidingWindow: 4096 },
  qwen2: { className: 'Qwen2ForCausalLM', slidingWindow: 4096 },
};
const ARCHITECTURES = Object.keys(FAMILIES) as Architecture[];
const SHAPE_KEYS = {
  hiddenSize: 'hidden_size',
  intermediateSize: 'intermediate_size',
  layers: 'num_hidden_layers',
  heads: 'num_attention_heads',
  kvHeads: 'num_key_value_heads',
  headDim: 'head_dim',
} as const;
const ROPE_TYPES = 'default, linear, llama3';
const DEFAULT_THETA = 10_000;
const DEFAULT_EPSILON = 1e-6;
const QWEN2_MAX_WINDOW_LAYERS = 28;

export interface HuggingFaceConfig {
  readonly config: DecoderConfig;
  readonly requiredBiases: RequiredBiases;
}

/**
 * Reads `config.json`. Missing keys take the defaults of the family's class, as Hugging Face does.
 * @param hasHead whether the weights hold `lm_head.weight`; without it the head is tied whatever the file says.
 * ERR_MODEL_INVALID for impossible values, ERR_MODEL_UNSUPPORTED naming the key and what is supported.
 */
export function readHuggingFaceConfig(json: JsonFields, hasHead: boolean): HuggingFaceConfig {
  const architecture = readArchitecture(json);
  refuseUnsupported(json);
  const hiddenSize = json.size('hidden_size');
  const heads = json.size('num_attention_heads');
  const shape = {
    hiddenSize,
    intermediateSize: json.size('intermediate_size'),
    layers: json.size('num_hidden_layers'),
    heads,
    kvHeads: json.size('num_key_value_heads', heads),
    headDim: json.size('head_dim', Math.max(1, Math.floor(hiddenSize / heads))),
  };
  checkDecoderShape(shape, json.path, SHAPE_KEYS);
  const isQwen2 = architecture === 'qwen2';
  const isLlama = architecture === 'llama';
  const attentionBias = isLlama && json.boolean('attention_bias', false);
  return {
    config: {
      architecture,
      ...shape,
      vocabSize: json.size('vocab_size'),
      maxPositions: json.size('max_position_embeddings'),
      rmsNormEps: json.positive('rms_norm_eps', DEFAULT_EPSILON),
      tieWordEmbeddings: !hasHead || json.boolean('tie_word_embeddings', false),
      slidingWindow: readWindows(json, architecture, shape.layers),
      ropeInverseFrequencies: readRope(json, shape.headDim),
      ropeScale: 1,
    },
    requiredBiases: {
      qkv: isQwen2 || attentionBias,
      output: attentionBias,
      mlp: isLlama && json.boolean('mlp_bias', false),
    },
  };
}

function readArchitecture(json: JsonFields): Architecture {
  const modelType = json.string('model_type');
  const architecture = ARCHITECTURES.find((known) => known === modelType);
  if (architecture === undefined) throw unsupportedModel(json.path, 'model_type', modelType, ARCHITECTURES.join(', '));
  const classes = json.raw('architectures');
  const { className } = FAMILIES[architecture];
  if (Array.isArray(classes) && classes.length > 0 && !classes.includes(className))
    throw unsupportedModel(json.path, 'architectures', JSON.stringify(classes), className);
  return architecture;
}

function refuseUnsupported(json: JsonFields): void {
  const activation = json.string('hidden_act', 'silu');
  if (activation !== 'silu') throw unsupportedModel(json.path, 'hidden_act', activation, 'silu');
  const quantization = json.object('quantization_config');
  if (quantization !== undefined)
    throw unsupportedModel(
      json.path,
      'quantization_config',
      String(quantization.raw('quant_method') ?? 'set'),
      'unquantised weights (F32, F16, BF16) with --precision w8 or w4, or a GGUF file',
    );
}

/** Keys a query sees counting itself, per layer; null is all of them. */
function readWindows(json: JsonFields, architecture: Architecture, layers: number): (number | null)[] {
  const isOff = architecture === 'qwen2' && !json.boolean('use_sliding_window', false);
  const fallback = json.has('sliding_window') ? undefined : (FAMILIES[architecture].slidingWindow ?? undefined);
  const isSet = json.raw('sliding_window') !== undefined || fallback !== undefined;
  const window = isOff || !isSet ? null : json.size('sliding_window', fallback);
  const types = json.raw('layer_types');
  if (types !== undefined) {
    if (!Array.isArray(types) || types.length !== layers)
      return json.refuse('layer_types', `a list of ${layers} entries`);
    return types.map((type: unknown) => {
      if (type === 'full_attention') return null;
      if (type === 'sliding_attention') return window;
      throw unsupportedModel(json.path, 'layer_types', String(type), 'full_attention, sliding_attention');
    });
  }
  const firstSliding = slidingFrom(json, architecture);
  return Array.from({ length: layers }, (_, layer) => (layer >= firstSliding ? window : null));
}

function slidingFrom(json: JsonFields, architecture: Architecture): number {
  switch (architecture) {
    case 'mistral':
      return 0;
    case 'qwen2':
      return json.number('max_window_layers', QWEN2_MAX_WINDOW_LAYERS);
    case 'llama':
      return Number.POSITIVE_INFINITY;
  }
}

/** Newer files keep everything in `rope_parameters`, older ones in `rope_theta` and `rope_scaling`. */
function readRope(json: JsonFields, headDim: number): number[] {
  const parameters = json.object('rope_parameters');
  const scaling = parameters ?? json.object('rope_scaling');
  for (const fields of [json, scaling]) {
    const factor = fields?.raw('partial_rotary_factor') ?? 1;
    if (fields !== undefined && factor !== 1)
      throw unsupportedModel(json.path, fields.name('partial_rotary_factor'), String(factor), '1');
  }
  const theta =
    parameters?.raw('rope_theta') === undefined
      ? json.positive('rope_theta', DEFAULT_THETA)
      : parameters.positive('rope_theta');
  return ropeInverseFrequencies(
    theta,
    headDim,
    scaling === undefined ? { type: 'default' } : readScaling(json, scaling),
  );
}

function readScaling(json: JsonFields, scaling: JsonFields): RopeScaling {
  const key = scaling.raw('rope_type') === undefined ? 'type' : 'rope_type';
  const type = scaling.string(key, 'default');
  switch (type) {
    case 'default':
      return { type };
    case 'linear':
      return { type, factor: scaling.positive('factor') };
    case 'llama3':
      return {
        type,
        factor: scaling.positive('factor'),
        lowFreqFactor: scaling.positive('low_freq_factor'),
        highFreqFactor: scaling.positive('high_freq_factor'),
        originalMaxPositions:
          json.raw('original_max_position_embeddings') === undefined
            ? scaling.positive('original_max_position_embeddings', json.size('max_position_embeddings'))
            : json.positive('original_max_position_embeddings'),
      };
    default:
      throw unsupportedModel(json.path, scaling.name(key), type, ROPE_TYPES);
  }
}
