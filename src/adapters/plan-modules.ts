import type { Offender } from '../core/errors.js';
import type { LoraSite } from '../core/model-manifest.js';
import type { NativeModulePlan, NativeTensorInfo } from '../engine/binding.js';
import type { AdapterConfig } from './config.js';
import { blocksOf } from './config-blocks.js';
import { anyTensor, checkTensor, type ModuleTensors } from './tensor-groups.js';

/** Where a linear module of the base lies. */
export interface ModulePlace {
  readonly site: LoraSite;
  /** Among the site's modules. */
  readonly index: number;
  readonly outFeatures: number;
  readonly hasBias: boolean;
}

/** The base's linear modules by name, in graph order. */
export type ModulePlaces = ReadonlyMap<string, ModulePlace>;

export function placesOf(sites: readonly LoraSite[]): ModulePlaces {
  const places = new Map<string, ModulePlace>();
  for (const site of sites) {
    site.modules.forEach(({ name, outFeatures, biasOffset }, index) => {
      places.set(name, { site, index, outFeatures, hasBias: biasOffset !== null });
    });
  }
  return places;
}

/** Rank and alpha of each module that the file mentions. */
export interface ModuleSettings {
  readonly ranks: ReadonlyMap<string, number>;
  readonly alphas: ReadonlyMap<string, number>;
}

/** Rank and float32-safe scaling of one module; an offender when the scaling leaves float32. */
export function scaleOf(
  module: string,
  config: AdapterConfig,
  { ranks, alphas }: ModuleSettings,
  offenders: Offender[],
): { readonly rank: number; readonly scaling: number } {
  const rank = ranks.get(module) ?? config.rank;
  const alpha = alphas.get(module) ?? config.alpha;
  const scaling = alpha / (config.rslora ? Math.sqrt(rank) : rank);
  if (!Number.isFinite(Math.fround(scaling))) {
    offenders.push({ key: 'lora_alpha', expected: `a scaling of ${module} within float32`, found: `${scaling}` });
  }
  return { rank, scaling };
}

/** Where a module's rank comes from, for messages. */
export function rankSource(config: AdapterConfig): string {
  return config.rankPattern.length > 0 ? 'r and rank_pattern' : 'r';
}

/** Plans lora_A, lora_B and what belongs to them of every linear module in the file. Ordered by site, then module. */
export function planModules(
  config: AdapterConfig,
  settings: ModuleSettings,
  groups: ReadonlyMap<string, ModuleTensors>,
  places: ModulePlaces,
  offenders: Offender[],
): NativeModulePlan[] {
  const modules: NativeModulePlan[] = [];
  for (const [module, parts] of groups) {
    const place = places.get(module);
    if (place === undefined) continue;
    checkFactors(module, parts, config, offenders);
    const { a, b, magnitude, loraBias } = parts;
    if (a === undefined && b === undefined) continue;
    const { rank, scaling } = scaleOf(module, config, settings, offenders);
    const source = rankSource(config);
    const { outFeatures } = place;
    const blocks = blocksOf(module, config.blockDiagonal);
    if (typeof blocks === 'string') {
      offenders.push({ key: 'use_bdlora', expected: blocks, found: module });
      continue;
    }
    const { inFeatures } = place.site;
    checkBlocks(module, blocks.a, { inFeatures, rank }, offenders);
    checkBlocks(module, blocks.b, { rank, outFeatures }, offenders);
    const perBlock = (count: number): string => (count > 1 ? ` / ${count} blocks` : '');
    if (a !== undefined) {
      const why = `rank ${rank} by ${source}, in_features${perBlock(blocks.a)}`;
      checkTensor(a, [rank, inFeatures / blocks.a], why, offenders);
    }
    if (b !== undefined) {
      const why = `out_features, rank ${rank} by ${source}${perBlock(blocks.b)}`;
      checkTensor(b, [outFeatures, rank / blocks.b], why, offenders);
    }
    if (magnitude !== undefined) checkTensor(magnitude, [outFeatures], 'out_features', offenders);
    if (loraBias !== undefined) checkTensor(loraBias, [outFeatures], 'out_features', offenders);
    if (a === undefined || b === undefined) continue;
    modules.push({
      site: place.site.id,
      module: place.index,
      a: a.name,
      b: b.name,
      ...(blocks.a === 1 ? {} : { aBlocks: blocks.a }),
      ...(blocks.b === 1 ? {} : { bBlocks: blocks.b }),
      ...(magnitude === undefined ? {} : { magnitude: magnitude.name }),
      ...(loraBias === undefined ? {} : { loraBias: loraBias.name }),
      rank,
      scaling,
    });
  }
  return modules.sort((left, right) => left.site - right.site || left.module - right.module);
}

/** That a factor of these sizes divides into its blocks. */
function checkBlocks(
  module: string,
  blocks: number,
  sizes: Readonly<Record<string, number>>,
  offenders: Offender[],
): void {
  for (const [name, size] of Object.entries(sizes)) {
    if (size % blocks === 0) continue;
    offenders.push({
      key: 'use_bdlora',
      expected: `nblocks that divides ${name} ${size} of ${module}`,
      found: `${blocks}`,
    });
  }
}

/** The completeness of one module's tensors against the configuration's switches. */
function checkFactors(
  module: string,
  { a, b, magnitude, loraBias }: ModuleTensors,
  { dora, loraBias: biased }: AdapterConfig,
  offenders: Offender[],
): void {
  const missing = (present: NativeTensorInfo, other: string): void => {
    offenders.push({ tensor: present.name, expected: `${other} of the same module in the file`, found: 'none' });
  };
  const misplaced = (tensor: NativeTensorInfo, what: string, key: string): void => {
    offenders.push({
      tensor: tensor.name,
      expected: `no ${what}, or ${key}: true`,
      found: `${key}: false on ${module}`,
    });
  };
  if (a !== undefined && b === undefined) missing(a, 'lora_B.weight');
  if (b !== undefined && a === undefined) missing(b, 'lora_A.weight');
  for (const alone of [magnitude, loraBias]) {
    if (alone !== undefined && a === undefined && b === undefined) missing(alone, 'lora_A.weight and lora_B.weight');
  }
  if (dora && magnitude === undefined && a !== undefined) missing(a, 'lora_magnitude_vector (use_dora is true)');
  if (biased && loraBias === undefined && a !== undefined) missing(a, 'lora_B.bias (lora_bias is true)');
  if (!dora && magnitude !== undefined) misplaced(magnitude, 'magnitude', 'use_dora');
  if (!biased && loraBias !== undefined) misplaced(loraBias, 'bias of lora_B', 'lora_bias');
}

/** Modules that the configuration selects and the file has no factors of, and the other way round. */
export function checkSelection(
  selected: ReadonlySet<string>,
  groups: ReadonlyMap<string, ModuleTensors>,
  places: { has(module: string): boolean },
  offenders: Offender[],
): void {
  for (const module of selected) {
    const parts = groups.get(module);
    if (parts !== undefined && hasFactors(parts)) continue;
    offenders.push({
      key: 'target_modules',
      expected: `LoRA factors of ${module} in the file, which it selects`,
      found: 'none',
    });
  }
  for (const [module, parts] of groups) {
    if (selected.has(module) || !places.has(module) || !hasFactors(parts)) continue;
    offenders.push({
      tensor: anyTensor(parts),
      expected: 'a module that target_modules, exclude_modules and layers_to_transform select',
      found: module,
    });
  }
}

function hasFactors({ a, b, magnitude, loraBias, embeddingA, embeddingB }: ModuleTensors): boolean {
  return [a, b, magnitude, loraBias, embeddingA, embeddingB].some((tensor) => tensor !== undefined);
}
