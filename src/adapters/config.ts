import { type BlockDiagonal, readBlockDiagonal } from './config-blocks.js';
import {
  FieldReader,
  isBoolean,
  isFiniteNumber,
  isLayerIndex,
  isRank,
  isTokenId,
  MAX_PATTERNS,
  MAX_RANK,
  type ModulePatterns,
} from './config-fields.js';
import { IGNORED_KEYS, initRefusal, isNeutral, REFUSED_KEYS, surplusMethods } from './config-rules.js';
import { invalidAdapter } from './offenders.js';
import { describeJson, type JsonObject, type JsonValue, parseStrictJson } from './strict-json.js';

export const MAX_CONFIG_BYTES = 1024 * 1024;
const MAX_INVOCATION = 512;
/** Of one module. */
const MAX_TOKENS = 4096;

/** How a configuration names modules. A `name` selects itself and every module that ends in `.name`. */
export type ModuleSelector =
  | { readonly kind: 'names'; readonly names: readonly string[] }
  | { readonly kind: 'pattern'; readonly pattern: string }
  | { readonly kind: 'all-linear' }
  /** PEFT's choice for the architecture. */
  | { readonly kind: 'default' };

/** None, those of targeted modules, or those of every linear module. */
export type BiasMode = 'none' | 'lora_only' | 'all';

/** What `adapter_config.json` says about the arithmetic, in full: nothing else of it matters for serving. */
export interface AdapterConfig {
  readonly baseModel: string | null;
  /** Default rank, 1–256. */
  readonly rank: number;
  /** Default scale numerator, finite; zero and negative are allowed as in PEFT. */
  readonly alpha: number;
  /** Scale by √rank instead of rank. */
  readonly rslora: boolean;
  readonly dora: boolean;
  /** B has a bias of its own. */
  readonly loraBias: boolean;
  /** Which biases of the base the file replaces. */
  readonly bias: BiasMode;
  /** Activated LoRA: tokens from whose last occurrence in the prompt on the adapter applies; null = everywhere. */
  readonly invocation: readonly number[] | null;
  /** Factors stored as blocks; null = all dense. */
  readonly blockDiagonal: BlockDiagonal | null;
  /** Methods that differ from plain LoRA in training only; the file also holds what they train with. */
  readonly trainedWith: readonly TrainingMethod[];
  readonly rankPattern: ModulePatterns;
  readonly alphaPattern: ModulePatterns;
  readonly targets: ModuleSelector;
  readonly excludes: ModuleSelector | null;
  /** Keep only these layers; `patterns` (may be empty) match the path segment before the index. */
  readonly layers: { readonly indices: readonly number[]; readonly patterns: readonly string[] } | null;
  /** Endings of the names of modules that the file brings whole. */
  readonly modulesToSave: readonly string[];
  readonly trainableTokens: readonly TrainableTokens[];
  /** Of a tied base, what holds for embedding or head holds for both. */
  readonly ensureWeightTying: boolean;
}

/** VeLoRA's projections and MonteCLoRA's samplers: of no effect once training is over. */
export type TrainingMethod = 'velora' | 'monteclora';

/** Tokens with rows of their own in one module; `module` null stands for the input embedding. */
export interface TrainableTokens {
  readonly module: string | null;
  /** In the order of the file's rows; a token that comes twice has its last row. */
  readonly tokens: readonly number[];
}

/** Keys that `parseAdapterConfig` reads by name. */
const READ_KEYS: ReadonlySet<string> = new Set([
  'alora_invocation_tokens',
  'alpha_pattern',
  'base_model_name_or_path',
  'bias',
  'ensure_weight_tying',
  'exclude_modules',
  'init_lora_weights',
  'layers_pattern',
  'layers_to_transform',
  'lora_alpha',
  'lora_bias',
  'modules_to_save',
  'monteclora_config',
  'peft_type',
  'r',
  'rank_pattern',
  'target_modules',
  'task_type',
  'trainable_token_indices',
  'use_bdlora',
  'use_dora',
  'use_rslora',
  'velora_config',
]);

function readSelector(reader: FieldReader, key: string): ModuleSelector | null {
  const names = reader.strings(key);
  if (names === null) return null;
  const value = reader.get(key);
  if (typeof value !== 'string') return { kind: 'names', names };
  if (key === 'target_modules' && value.toLowerCase() === 'all-linear') return { kind: 'all-linear' };
  return { kind: 'pattern', pattern: value };
}

function readTargets(reader: FieldReader): ModuleSelector {
  return readSelector(reader, 'target_modules') ?? { kind: 'default' };
}

function readModulesToSave(reader: FieldReader): readonly string[] {
  if (typeof reader.get('modules_to_save') !== 'string') return reader.strings('modules_to_save') ?? [];
  reader.refuse('modules_to_save', 'a list of module names');
  return [];
}

function readTrainableTokens(reader: FieldReader): TrainableTokens[] {
  const key = 'trainable_token_indices';
  const value = reader.get(key);
  if (isNeutral(value)) return [];
  const lists: [string | null, JsonValue][] = value instanceof Map ? [...value] : [[null, value]];
  const read: TrainableTokens[] = [];
  for (const [module, tokens] of lists) {
    const isList = Array.isArray(tokens) && tokens.every(isTokenId);
    if (isList && tokens.length >= 1 && tokens.length <= MAX_TOKENS) read.push({ module, tokens });
    else reader.refuse(key, `lists of 1–${MAX_TOKENS} token ids, or an object of module → such a list`, tokens);
  }
  return read;
}

function readLayers(reader: FieldReader, targets: ModuleSelector): AdapterConfig['layers'] {
  const value = reader.get('layers_to_transform');
  const patterns = (reader.strings('layers_pattern') ?? []).filter((pattern) => pattern !== '');
  const indices = Array.isArray(value) ? value : value === null ? [] : [value];
  if (!indices.every(isLayerIndex)) {
    reader.refuse('layers_to_transform', 'a layer index or a list of them');
    return null;
  }
  if (indices.length > MAX_PATTERNS) {
    reader.refuse('layers_to_transform', `at most ${MAX_PATTERNS} layer indices`);
    return null;
  }
  if (indices.length === 0) {
    if (patterns.length > 0) reader.refuse('layers_pattern', 'null while layers_to_transform is empty');
    return null;
  }
  if (targets.kind === 'pattern' || targets.kind === 'all-linear') {
    reader.refuse('layers_to_transform', 'null while target_modules is a string: PEFT refuses both together');
    return null;
  }
  return { indices, patterns };
}

function readBias(reader: FieldReader): BiasMode {
  const value = reader.get('bias');
  if (value === 'none' || value === 'lora_only' || value === 'all') return value;
  if (!isNeutral(value)) reader.refuse('bias', '"none", "lora_only" or "all"');
  return 'none';
}

/** Keys of PEFT that change what an activated adapter does before its invocation. */
const NOT_WITH_INVOCATION = ['modules_to_save', 'trainable_token_indices'] as const;

function readInvocation(reader: FieldReader): readonly number[] | null {
  const key = 'alora_invocation_tokens';
  const value = reader.get(key);
  if (isNeutral(value)) return null;
  if (!Array.isArray(value) || value.length > MAX_INVOCATION || !value.every(isTokenId)) {
    reader.refuse(key, `null or a list of at most ${MAX_INVOCATION} token ids`);
    return null;
  }
  for (const other of NOT_WITH_INVOCATION) {
    if (isNeutral(reader.get(other))) continue;
    reader.refuse(other, `false or null with ${key}: activated LoRA is a delta of linear modules`);
  }
  if (readBias(reader) !== 'none') reader.refuse('bias', `"none" with ${key}: biases hold for every row in PEFT`);
  return value;
}

function readLoraBias(reader: FieldReader): boolean {
  const value = reader.checked('lora_bias', false, 'true or false', isBoolean);
  if (value && reader.get('use_dora') === true)
    reader.refuse('lora_bias', 'false with use_dora: PEFT refuses both together');
  return value;
}

function readBlocks(reader: FieldReader): BlockDiagonal | null {
  const key = 'use_bdlora';
  if (isNeutral(reader.get(key))) return null;
  if (reader.get('lora_bias') === true) reader.refuse('lora_bias', `false with ${key}: blocks have no bias in PEFT`);
  const read = readBlockDiagonal(reader.get(key));
  if (typeof read !== 'string') return read;
  reader.refuse(key, read);
  return null;
}

function readTrainingMethods(reader: FieldReader): readonly TrainingMethod[] {
  const methods = (['velora', 'monteclora'] as const).filter((method) => !isNeutral(reader.get(`${method}_config`)));
  for (const method of methods) {
    if (!(reader.get(`${method}_config`) instanceof Map)) reader.refuse(`${method}_config`, 'an object or null');
  }
  return methods;
}

function refuseUnsupported(reader: FieldReader, fields: JsonObject): void {
  if (reader.get('peft_type') !== 'LORA') reader.refuse('peft_type', '"LORA", the only method that is served');
  const task = reader.get('task_type');
  if (task !== null && task !== 'CAUSAL_LM')
    reader.refuse('task_type', '"CAUSAL_LM" or null: only text generation is served');
  const initRefused = initRefusal(reader.get('init_lora_weights'));
  if (initRefused !== null) reader.refuse('init_lora_weights', initRefused);
  for (const key of surplusMethods((key) => reader.get(key))) {
    reader.refuse(key, 'off: PEFT takes one of DoRA, activated, block-diagonal, VeLoRA and MonteCLoRA at a time');
  }
  for (const [key, value] of fields) {
    if (IGNORED_KEYS.has(key) || READ_KEYS.has(key) || isNeutral(value)) continue;
    reader.refuse(
      key,
      REFUSED_KEYS.get(key) ?? 'no such key, or null: its meaning is unknown here and may change the arithmetic',
    );
  }
}

function decodeObject(bytes: Uint8Array, file: string): JsonObject {
  if (bytes.byteLength > MAX_CONFIG_BYTES) {
    throw invalidAdapter(file, [{ expected: `at most ${MAX_CONFIG_BYTES} bytes`, found: `${bytes.byteLength}` }]);
  }
  let value: JsonValue;
  try {
    value = parseStrictJson(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch (cause) {
    throw invalidAdapter(file, [
      { expected: 'strict JSON in UTF-8', found: cause instanceof Error ? cause.message : String(cause) },
    ]);
  }
  if (value instanceof Map) return value;
  throw invalidAdapter(file, [{ expected: 'a JSON object', found: describeJson(value) }]);
}

/**
 * Reads the bytes of an `adapter_config.json`. Keys that would change the arithmetic in a way that is not computed
 * here are refused by name, unknown keys unless they are neutral. `file` names the file in messages.
 * Errors: ERR_ADAPTER_INVALID with every offender. Source: PEFT 0.21 `LoraConfig`.
 */
export function parseAdapterConfig(bytes: Uint8Array, file: string): AdapterConfig {
  const fields = decodeObject(bytes, file);
  const reader = new FieldReader(fields);
  refuseUnsupported(reader, fields);
  const base = reader.get('base_model_name_or_path');
  const targets = readTargets(reader);
  const rank = `a whole number of 1–${MAX_RANK}`;
  const config: AdapterConfig = {
    baseModel: typeof base === 'string' && base !== '' ? base : null,
    rank: reader.checked('r', 8, rank, isRank),
    alpha: reader.checked('lora_alpha', 8, 'a finite number', isFiniteNumber),
    rslora: reader.checked('use_rslora', false, 'true or false', isBoolean),
    dora: reader.checked('use_dora', false, 'true or false', isBoolean),
    loraBias: readLoraBias(reader),
    bias: readBias(reader),
    invocation: readInvocation(reader),
    blockDiagonal: readBlocks(reader),
    trainedWith: readTrainingMethods(reader),
    rankPattern: reader.patterns('rank_pattern', rank, isRank),
    alphaPattern: reader.patterns('alpha_pattern', 'a finite number', isFiniteNumber),
    targets,
    excludes: readSelector(reader, 'exclude_modules'),
    layers: readLayers(reader, targets),
    modulesToSave: readModulesToSave(reader),
    trainableTokens: readTrainableTokens(reader),
    ensureWeightTying: reader.checked('ensure_weight_tying', false, 'true or false', isBoolean),
  };
  if (reader.offenders.length > 0) throw invalidAdapter(file, reader.offenders);
  return config;
}
