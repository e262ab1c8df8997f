import type { AdapterVariant } from '../core/adapter.js';
import { type LoramuxError, type Offender, toLoramuxError } from '../core/errors.js';
import type { LoraSite, ModelManifest } from '../core/model-manifest.js';
import type { NativeModulePlan, NativeTensorInfo } from '../engine/binding.js';
import type { AdapterConfig } from './config.js';
import { type FirstMatches, resolvePatterns, selectModules } from './module-selection.js';
import { invalidAdapter } from './offenders.js';
import { ELEMENT_BYTES, residentBytes } from './resident-bytes.js';
import { parseTensorName, type TensorPart } from './tensor-names.js';

const MAX_TENSORS = 20_000;
/** The parts of a manifest that decide whether an adapter fits. */
export type BaseModel = Pick<ModelManifest, 'modelId' | 'sites'> & {
  readonly config: Pick<ModelManifest['config'], 'architecture'>;
};

/** Everything that is decided about an adapter before its numbers are touched. */
export interface AdapterPlan {
  /** Ordered by site, then module. */
  readonly modules: readonly NativeModulePlan[];
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

interface Place {
  readonly site: LoraSite;
  readonly index: number;
  readonly outFeatures: number;
}

type Parts = Partial<Record<TensorPart, NativeTensorInfo>>;

function placesOf(sites: readonly LoraSite[]): ReadonlyMap<string, Place> {
  const places = new Map<string, Place>();
  for (const site of sites) {
    site.modules.forEach((module, index) => {
      places.set(module.name, { site, index, outFeatures: module.outFeatures });
    });
  }
  return places;
}

/** Groups the file's tensors by module, refusing names that are not on the whitelist and parts given twice. */
function groupTensors(
  tensors: readonly NativeTensorInfo[],
  offenders: Offender[],
  warnings: string[],
): Map<string, Parts> {
  const groups = new Map<string, Parts>();
  let repaired = 0;
  for (const tensor of tensors) {
    const name = parseTensorName(tensor.name);
    if (name.kind === 'refused') {
      offenders.push({ tensor: tensor.name, expected: name.expected, found: `${tensor.dtype} [${tensor.shape}]` });
      continue;
    }
    if (name.repaired) repaired += 1;
    const parts = groups.get(name.module) ?? {};
    groups.set(name.module, parts);
    const earlier = parts[name.part];
    if (earlier === undefined) parts[name.part] = tensor;
    else offenders.push({ tensor: tensor.name, expected: 'one tensor for this role', found: `also ${earlier.name}` });
  }
  if (repaired > 0) {
    warnings.push(
      `${repaired} tensor names carried ".default" or "_orig_mod." from an unfinished save; both were ignored`,
    );
  }
  return groups;
}

function checkTensor(tensor: NativeTensorInfo, shape: readonly number[], why: string, offenders: Offender[]): void {
  if (!Object.hasOwn(ELEMENT_BYTES, tensor.dtype)) {
    const hint = tensor.dtype === 'F64' ? ': convert it with tensor.to(torch.float32) and save again' : '';
    offenders.push({ tensor: tensor.name, expected: `dtype F32, F16 or BF16${hint}`, found: tensor.dtype });
  }
  if (tensor.shape.length !== shape.length || tensor.shape.some((size, axis) => size !== shape[axis])) {
    offenders.push({
      tensor: tensor.name,
      expected: `shape [${shape.join(', ')}] (${why})`,
      found: `[${tensor.shape.join(', ')}]`,
    });
  }
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

/** The completeness of one module's tensors against the configuration's `use_dora`. */
function checkParts(module: string, parts: Parts, dora: boolean, offenders: Offender[]): void {
  const { a, b, magnitude } = parts;
  const missing = (present: NativeTensorInfo, other: string): void => {
    offenders.push({ tensor: present.name, expected: `${other} of the same module in the file`, found: 'none' });
  };
  if (a !== undefined && b === undefined) missing(a, 'lora_B.weight');
  if (b !== undefined && a === undefined) missing(b, 'lora_A.weight');
  if (a === undefined && b === undefined && magnitude !== undefined)
    missing(magnitude, 'lora_A.weight and lora_B.weight');
  if (dora && magnitude === undefined && a !== undefined) missing(a, 'lora_magnitude_vector (use_dora is true)');
  if (!dora && magnitude !== undefined) {
    offenders.push({
      tensor: magnitude.name,
      expected: 'no magnitude, or use_dora: true',
      found: `use_dora: false on ${module}`,
    });
  }
}

/** Modules that the configuration selects and the file lacks, and the other way round. */
function checkSelection(
  selected: ReadonlySet<string>,
  groups: ReadonlyMap<string, Parts>,
  places: ReadonlyMap<string, Place>,
  offenders: Offender[],
): void {
  for (const module of selected) {
    if (groups.has(module)) continue;
    offenders.push({
      key: 'target_modules',
      expected: `lora_A and lora_B of ${module} in the file, which it selects`,
      found: 'none',
    });
  }
  for (const [module, parts] of groups) {
    if (selected.has(module) || !places.has(module)) continue;
    const tensor = (parts.a ?? parts.b ?? parts.magnitude)?.name ?? module;
    offenders.push({
      tensor,
      expected: 'a module that target_modules, exclude_modules and layers_to_transform select',
      found: module,
    });
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

  const modules: NativeModulePlan[] = [];
  for (const [module, parts] of groups) {
    checkParts(module, parts, config.dora, offenders);
    const { a, b, magnitude } = parts;
    const place = places.get(module);
    if (place === undefined) {
      const tensor = (a ?? b ?? magnitude)?.name ?? module;
      offenders.push({ tensor, expected: unknownModule(module, base), found: module });
      continue;
    }
    const rank = ranks.get(module) ?? config.rank;
    const alpha = alphas.get(module) ?? config.alpha;
    const scaling = alpha / (config.rslora ? Math.sqrt(rank) : rank);
    const source = config.rankPattern.length > 0 ? 'r and rank_pattern' : 'r';
    if (a !== undefined)
      checkTensor(a, [rank, place.site.inFeatures], `rank ${rank} by ${source}, in_features`, offenders);
    if (b !== undefined)
      checkTensor(b, [place.outFeatures, rank], `out_features, rank ${rank} by ${source}`, offenders);
    if (magnitude !== undefined) checkTensor(magnitude, [place.outFeatures], 'out_features', offenders);
    if (!Number.isFinite(Math.fround(scaling))) {
      offenders.push({ key: 'lora_alpha', expected: `a scaling of ${module} within float32`, found: `${scaling}` });
    }
    if (a === undefined || b === undefined) continue;
    modules.push({
      site: place.site.id,
      module: place.index,
      a: a.name,
      b: b.name,
      ...(magnitude === undefined ? {} : { magnitude: magnitude.name }),
      rank,
      scaling,
    });
  }
  if (groups.size === 0 && offenders.length === 0) {
    offenders.push({ expected: 'lora_A and lora_B of at least one module', found: 'no tensors' });
  }
  if (offenders.length > 0) throw refuse(input, offenders);
  if (looksLikeOtherBase(config.baseModel, base.modelId)) {
    warnings.push(`trained on ${config.baseModel}, served on ${base.modelId}; all shapes fit`);
  }
  const bytes = residentBytes(modules, base.sites, new Map(tensors.map((tensor) => [tensor.name, tensor])));
  modules.sort((left, right) => left.site - right.site || left.module - right.module);
  return {
    modules,
    ...summarise(modules, config),
    moduleCounts: { inFile: groups.size, applied: modules.length },
    bytes,
    warnings,
  };
}

function summarise(
  modules: readonly NativeModulePlan[],
  config: AdapterConfig,
): Pick<AdapterPlan, 'ranks' | 'variant'> {
  const ranks = modules.map((module) => module.rank);
  const variant: AdapterVariant[] = [];
  if (config.dora) variant.push('dora');
  if (config.rslora) variant.push('rslora');
  if (variant.length === 0) variant.push('lora');
  return { ranks: { min: Math.min(...ranks), max: Math.max(...ranks) }, variant };
}
