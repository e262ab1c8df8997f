import type { AdapterVariant } from '../core/adapter.js';
import { type LoramuxError, type Offender, toLoramuxError } from '../core/errors.js';
import type { NativeAdapterExtras, NativeModulePlan, NativeTensorInfo } from '../engine/binding.js';
import { type BaseModel, HEAD } from './base-modules.js';
import type { AdapterConfig } from './config.js';
import { type FirstMatches, resolvePatterns, selectModules } from './module-selection.js';
import { invalidAdapter } from './offenders.js';
import { planBiases } from './plan-biases.js';
import { planEmbedding } from './plan-embedding.js';
import { checkSelection, placesOf, planModules } from './plan-modules.js';
import { planReplaced } from './plan-replaced.js';
import { residentBytes } from './resident-bytes.js';
import { anyTensor, groupTensors, type ModuleTensors } from './tensor-groups.js';
import type { TensorPart } from './tensor-names.js';

export type { BaseModel } from './base-modules.js';

const MAX_TENSORS = 20_000;

/** Everything that is decided about an adapter before its numbers are touched. */
export interface AdapterPlan {
  /** Factors of linear modules, ordered by site, then module. */
  readonly modules: readonly NativeModulePlan[];
  /** Everything else that the adapter brings. */
  readonly extras: NativeAdapterExtras;
  readonly ranks: { readonly min: number; readonly max: number };
  readonly variant: readonly AdapterVariant[];
  /** Of activated LoRA: the adapter applies from the last occurrence of these tokens in the prompt on. */
  readonly invocation: readonly number[] | null;
  readonly moduleCounts: { readonly inFile: number; readonly applied: number };
  /** Estimate of the resident size, for reserving memory before compilation. */
  readonly bytes: number;
  /** Sentences for the operator about things that were accepted but look odd. */
  readonly warnings: readonly string[];
}

/** What of a plan outlives the load. */
export type PlanFacts = Pick<AdapterPlan, 'ranks' | 'variant' | 'invocation' | 'moduleCounts'>;

/** `plan` without what only compiling needs, hundreds of modules. */
export function planFacts({ ranks, variant, invocation, moduleCounts }: AdapterPlan): PlanFacts {
  return { ranks, variant, invocation, moduleCounts };
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
  const groups = groupTensors(tensors, offenders, warnings, config.trainedWith);
  const present = [...groups.keys()];
  const refused: Offender[] = [];
  const [ranks, alphas, selected] = await Promise.all([
    searching('rank_pattern', refused, resolvePatterns(config.rankPattern, config.rank, present, firstMatches)),
    searching('alpha_pattern', refused, resolvePatterns(config.alphaPattern, config.alpha, present, firstMatches)),
    searching(
      'target_modules, exclude_modules, layers_pattern',
      refused,
      selectModules(config, base.config.architecture, [base.embedding.name, ...places.keys()], firstMatches),
    ),
  ]);
  // Without its patterns nothing is known of what the configuration wants: only they are reported.
  if (ranks === null || alphas === null || selected === null) throw invalidAdapter(input.configFile, refused);
  tieTargets(selected, config, base);
  const targets = new Set([...places.keys(), base.embedding.name]);
  checkSelection(selected, groups, targets, offenders);
  checkRoles(groups, base, offenders);
  const settings = { ranks, alphas };
  const modules = planModules(config, settings, groups, places, offenders);
  const embedding = planEmbedding(config, settings, groups, base, offenders);
  const { norms, embeddingRows, headRows, copies } = planReplaced(config, groups, base, offenders);
  const extras: NativeAdapterExtras = {
    biases: planBiases(config, selected, groups, places, offenders, warnings),
    copies,
    ...(embedding === null ? {} : { embedding }),
    ...(embeddingRows === null ? {} : { embeddingRows }),
    ...(headRows === null ? {} : { headRows }),
    norms,
  };
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
    ranks: rankRange([...modules, ...(embedding === null ? [] : [embedding])].map(({ rank }) => rank)),
    variant: variantOf(config),
    invocation: config.invocation,
    moduleCounts: { inFile: groups.size, applied: groups.size },
    bytes: residentBytes({ modules, extras }, base, new Map(tensors.map((tensor) => [tensor.name, tensor]))),
    warnings,
  };
}

/** With a tie that PEFT was told to keep, embedding and head are targeted together. */
function tieTargets(
  selected: Set<string>,
  config: AdapterConfig,
  { embedding, config: { tieWordEmbeddings } }: BaseModel,
) {
  if (!config.ensureWeightTying || !tieWordEmbeddings) return;
  if (selected.has(HEAD) || selected.has(embedding.name)) selected.add(HEAD).add(embedding.name);
}

const LINEAR_ROLES: readonly TensorPart[] = ['a', 'b', 'magnitude', 'loraBias', 'bias'];
const HEAD_ROLES: readonly TensorPart[] = [...LINEAR_ROLES, 'baseWeight', 'weight', 'tokens'];
const EMBEDDING_ROLES: readonly TensorPart[] = [
  'embeddingA',
  'embeddingB',
  'magnitude',
  'baseWeight',
  'weight',
  'tokens',
];

/** That every tensor belongs to a module of the base which may have one of its kind. */
function checkRoles(groups: ReadonlyMap<string, ModuleTensors>, base: BaseModel, offenders: Offender[]): void {
  const roles = new Map<string, readonly TensorPart[]>([
    ...base.sites.flatMap((site) => site.modules.map(({ name }) => [name, LINEAR_ROLES] as const)),
    ...base.norms.map(({ name }) => [name, ['weight']] as const),
    [base.embedding.name, EMBEDDING_ROLES],
  ]);
  if (roles.has(HEAD)) roles.set(HEAD, HEAD_ROLES);
  for (const [module, parts] of groups) {
    const allowed = roles.get(module);
    if (allowed === undefined) {
      const expected = `a linear module, embedding or norm of ${base.modelId}`;
      offenders.push({ tensor: anyTensor(parts), expected, found: module });
      continue;
    }
    for (const [part, { name, dtype, shape }] of Object.entries(parts)) {
      if (allowed.includes(part as TensorPart)) continue;
      offenders.push({ tensor: name, expected: `no tensor of this kind for ${module}`, found: `${dtype} [${shape}]` });
    }
  }
}

function rankRange(ranks: readonly number[]): AdapterPlan['ranks'] {
  return ranks.length === 0 ? { min: 0, max: 0 } : { min: Math.min(...ranks), max: Math.max(...ranks) };
}

function variantOf(config: AdapterConfig): AdapterVariant[] {
  const variant: AdapterVariant[] = [];
  if (config.dora) variant.push('dora');
  if (config.rslora) variant.push('rslora');
  if (variant.length === 0) variant.push('lora');
  if (config.invocation !== null) variant.push('alora');
  if (config.blockDiagonal !== null) variant.push('bdlora');
  if (config.loraBias) variant.push('lora_bias');
  if (config.bias !== 'none') variant.push('bias');
  if (config.modulesToSave.length > 0) variant.push('modules_to_save');
  if (config.trainableTokens.length > 0) variant.push('trainable_tokens');
  return variant;
}
