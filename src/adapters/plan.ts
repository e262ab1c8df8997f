import type { AdapterVariant } from '../core/adapter.js';
import { type LoramuxError, type Offender, toLoramuxError } from '../core/errors.js';
import type { ModelManifest } from '../core/model-manifest.js';
import type { NativeAdapterExtras, NativeModulePlan, NativeTensorInfo } from '../engine/binding.js';
import type { AdapterConfig } from './config.js';
import { type FirstMatches, resolvePatterns, selectModules } from './module-selection.js';
import { invalidAdapter } from './offenders.js';
import { planBiases } from './plan-biases.js';
import { checkSelection, placesOf, planModules } from './plan-modules.js';
import { residentBytes } from './resident-bytes.js';
import { anyTensor, groupTensors } from './tensor-groups.js';

const MAX_TENSORS = 20_000;

/** The parts of a manifest that decide whether an adapter fits. */
export type BaseModel = Pick<ModelManifest, 'modelId' | 'sites'> & {
  readonly config: Pick<ModelManifest['config'], 'architecture'>;
};

/** Everything that is decided about an adapter before its numbers are touched. */
export interface AdapterPlan {
  /** Factors of linear modules, ordered by site, then module. */
  readonly modules: readonly NativeModulePlan[];
  /** Everything else that the adapter brings. */
  readonly extras: NativeAdapterExtras;
  readonly ranks: { readonly min: number; readonly max: number };
  readonly variant: readonly AdapterVariant[];
  readonly moduleCounts: { readonly inFile: number; readonly applied: number };
  /** Estimate of the resident size, for reserving memory before compilation. */
  readonly bytes: number;
  /** Sentences for the operator about things that were accepted but look odd. */
  readonly warnings: readonly string[];
}

export interface PlanInput {
  /** Path of the safetensors file, for messages. */
  readonly file: string;
  /** Path of adapter_config.json, for messages. */
  readonly configFile: string;
  readonly tensors: readonly NativeTensorInfo[];
  readonly config: AdapterConfig;
  readonly base: BaseModel;
  readonly firstMatches: FirstMatches;
}

/** Names that end in the same model name are taken for the same base; paths, owners and `.gguf` differ freely. */
function looksLikeOtherBase(trainedOn: string | null, served: string): boolean {
  if (trainedOn === null) return false;
  const plain = (id: string): string => (id.replace(/\/+$/, '').split('/').at(-1) ?? '').toLowerCase();
  const [a, b] = [plain(trainedOn), plain(served)];
  return !a.includes(b) && !b.includes(a);
}

/** Runs a pattern search; a pattern that the engine refuses becomes an offender of `key`. */
async function searching<T>(key: string, offenders: Offender[], search: Promise<T>): Promise<T | null> {
  try {
    return await search;
  } catch (thrown) {
    const error = toLoramuxError(thrown);
    if (error.code !== 'ERR_ADAPTER_INVALID') throw error;
    const expected = 'patterns that a linear-time engine runs (no look-around, no back-references)';
    offenders.push({ key, expected, found: error.message });
    return null;
  }
}

/** What is expected of a module that no linear of the base has. */
function unknownModule(module: string, base: BaseModel): string {
  return /(?:^|\.)(?:lm_head|embed_tokens)$/.test(module)
    ? 'linear modules of the decoder layers: LoRA on embeddings or the output head is not supported'
    : `a linear module of ${base.modelId}`;
}

function refuse(input: PlanInput, offenders: readonly Offender[]): LoramuxError {
  const { config, base, file } = input;
  const other = looksLikeOtherBase(config.baseModel, base.modelId);
  const hint = other
    ? `The adapter says it was trained on ${config.baseModel}, this server runs ${base.modelId}`
    : undefined;
  return invalidAdapter(file, offenders, hint);
}

/**
 * Decides how each tensor of an adapter file is applied to the base model: every name on the whitelist, every shape
 * and dtype as the configuration and the base want it, configuration and file agreeing on the set of modules. Reads
 * no weights. Errors: ERR_ADAPTER_INVALID listing all offenders. Source: PEFT 0.21 `LoraLayer.update_layer`.
 */
export async function planAdapter(input: PlanInput): Promise<AdapterPlan> {
  const { tensors, config, base, firstMatches } = input;
  const offenders: Offender[] = [];
  const warnings: string[] = [];
  if (tensors.length > MAX_TENSORS) {
    throw refuse(input, [{ expected: `at most ${MAX_TENSORS} tensors`, found: `${tensors.length}` }]);
  }
  const places = placesOf(base.sites);
  const groups = groupTensors(tensors, offenders, warnings);
  const present = [...groups.keys()];
  const refused: Offender[] = [];
  const [ranks, alphas, selected] = await Promise.all([
    searching('rank_pattern', refused, resolvePatterns(config.rankPattern, config.rank, present, firstMatches)),
    searching('alpha_pattern', refused, resolvePatterns(config.alphaPattern, config.alpha, present, firstMatches)),
    searching(
      'target_modules, exclude_modules, layers_pattern',
      refused,
      selectModules(config, base.config.architecture, [...places.keys()], firstMatches),
    ),
  ]);
  // Without its patterns nothing is known of what the configuration wants: only they are reported.
  if (ranks === null || alphas === null || selected === null) throw invalidAdapter(input.configFile, refused);
  checkSelection(selected, groups, places, offenders);
  const modules = planModules(config, { ranks, alphas }, groups, places, offenders);
  const extras: NativeAdapterExtras = {
    biases: planBiases(config, selected, groups, places, offenders, warnings),
  };
  for (const [module, parts] of groups) {
    if (places.has(module)) continue;
    offenders.push({ tensor: anyTensor(parts), expected: unknownModule(module, base), found: module });
  }
  if (groups.size === 0 && offenders.length === 0) {
    offenders.push({ expected: 'lora_A and lora_B of at least one module', found: 'no tensors' });
  }
  if (offenders.length > 0) throw refuse(input, offenders);
  if (looksLikeOtherBase(config.baseModel, base.modelId)) {
    warnings.push(`trained on ${config.baseModel}, served on ${base.modelId}; all shapes fit`);
  }
  return {
    modules,
    extras,
    ranks: rankRange(modules),
    variant: variantOf(config),
    moduleCounts: { inFile: groups.size, applied: groups.size },
    bytes: residentBytes({ modules, extras }, base, new Map(tensors.map((tensor) => [tensor.name, tensor]))),
    warnings,
  };
}

function rankRange(modules: readonly NativeModulePlan[]): AdapterPlan['ranks'] {
  const ranks = modules.map((module) => module.rank);
  return { min: Math.min(...ranks), max: Math.max(...ranks) };
}

function variantOf(config: AdapterConfig): AdapterVariant[] {
  const variant: AdapterVariant[] = [];
  if (config.dora) variant.push('dora');
  if (config.rslora) variant.push('rslora');
  if (variant.length === 0) variant.push('lora');
  if (config.loraBias) variant.push('lora_bias');
  if (config.bias !== 'none') variant.push('bias');
  return variant;
}
