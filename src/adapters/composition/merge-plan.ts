import type { MergeSource } from '../../core/adapter-source.js';
import type { MergeMethod } from '../../core/composition.js';
import { LoramuxError } from '../../core/errors.js';
import type { NativeMergedTensor, NativeMergeRecipe, NativeModulePlan } from '../../engine/binding.js';
import type { AdapterConfig } from '../config.js';
import { type FirstMatches, resolvePatterns } from '../module-selection.js';
import type { AdapterPlan, BaseModel } from '../plan.js';

/** A member as it was read: what its configuration and files say. */
export interface PlannedMember {
  readonly config: AdapterConfig;
  readonly plan: Pick<AdapterPlan, 'modules' | 'ranks'>;
}

/** What to merge, and what the merged tensors are to the base model. */
export interface MergePlan {
  readonly recipe: NativeMergeRecipe;
  /** Ordered by site, then module. */
  readonly modules: readonly NativeModulePlan[];
}

/** A member's factors of one module. */
interface Owner {
  readonly member: number;
  readonly weight: number;
  readonly module: NativeModulePlan;
}

/**
 * Decides how the members' factors become those of one adapter: on each module the members that own it take part. With
 * PEFT's formulas the scaling of each member is in its weights, split between both factors, and the result's is 1; with
 * LoRAX's the plain weight goes on both factors and the first member scales the result.
 * Errors: ERR_ADAPTER_INVALID for ranks that differ. Source: PEFT 0.21 `add_weighted_adapter`, LoRAX `merge_adapters`.
 */
export async function planMerge(
  source: MergeSource,
  members: readonly PlannedMember[],
  base: BaseModel,
  firstMatches: FirstMatches,
): Promise<MergePlan> {
  const { method } = source;
  const owners = ownersByModule(source, members);
  requireEqualRanks(source, members, owners);
  const names = [...owners.values()].map(([first]) => moduleName(base, (first as Owner).module));
  const scalings =
    method.formula === 'peft' ? null : await scalingsOf((members[0] as PlannedMember).config, names, firstMatches);
  const tensors: NativeMergedTensor[] = [];
  const modules: NativeModulePlan[] = [];
  for (const [at, list] of [...owners.values()].entries()) {
    const { site, module, rank } = (list[0] as Owner).module;
    const name = names[at] as string;
    const { inFeatures = 0, modules: places = [] } = base.sites.find(({ id }) => id === site) ?? {};
    const prefix = `base_model.model.${name}`;
    const [a, b] = [`${prefix}.lora_A.weight`, `${prefix}.lora_B.weight`];
    const weights = list.map((owner) => factorWeights(method, owner));
    const term = ({ member }: Owner, tensor: string, weight: number) => ({ member, tensor, weight });
    tensors.push({
      name: a,
      shape: [rank, inFeatures],
      terms: list.map((owner, index) => term(owner, owner.module.a, weights[index]?.a ?? 0)),
    });
    tensors.push({
      name: b,
      shape: [places[module]?.outFeatures ?? 0, rank],
      terms: list.map((owner, index) => term(owner, owner.module.b, weights[index]?.b ?? 0)),
    });
    modules.push({ site, module, a, b, rank, scaling: scalings === null ? 1 : scalings(name, rank) });
  }
  modules.sort((left, right) => left.site - right.site || left.module - right.module);
  return { recipe: { digest: source.location, ...operatorsOf(method), tensors }, modules };
}

function operatorsOf({
  formula,
  strategy,
  density,
  majoritySign,
}: MergeMethod): Omit<NativeMergeRecipe, 'digest' | 'tensors'> {
  const prunes = { linear: 'none', ties: 'magnitude', dare_linear: 'random', dare_ties: 'random' } as const;
  const elects = strategy === 'ties' || strategy === 'dare_ties';
  // LoRAX computes the rescaling of DARE and drops it.
  const operators = { prune: prunes[strategy], rescale: formula === 'peft', density };
  return elects ? { ...operators, elect: majoritySign } : operators;
}

function ownersByModule(source: MergeSource, members: readonly PlannedMember[]): ReadonlyMap<string, readonly Owner[]> {
  const owners = new Map<string, Owner[]>();
  for (const [member, { plan }] of members.entries()) {
    for (const module of plan.modules) {
      const key = `${module.site} ${module.module}`;
      const list = owners.get(key) ?? [];
      owners.set(key, list);
      list.push({ member, weight: source.members[member]?.weight ?? 0, module });
    }
  }
  return owners;
}

function requireEqualRanks(
  source: MergeSource,
  members: readonly PlannedMember[],
  owners: ReadonlyMap<string, readonly Owner[]>,
): void {
  const largest = members.map(({ plan }) => plan.ranks.max);
  const differ = (ranks: readonly number[]): boolean => new Set(ranks).size > 1;
  if (!differ(largest) && ![...owners.values()].some((list) => differ(list.map(({ module }) => module.rank)))) return;
  const ranks = source.members.map(({ name }, at) => `${name} has ${members[at]?.plan.ranks.min}–${largest[at]}`);
  throw new LoramuxError(
    'ERR_ADAPTER_INVALID',
    `unable to merge adapters, lora configs have different ranks: ${ranks.join(', ')}. Use peft_cat or \`adapters\`, which add the deltas at any rank`,
    { field: 'merged_adapters' },
  );
}

function moduleName(base: BaseModel, { site, module }: NativeModulePlan): string {
  return base.sites.find(({ id }) => id === site)?.modules[module]?.name ?? '';
}

function factorWeights(
  { formula }: MergeMethod,
  { weight, module }: Owner,
): { readonly a: number; readonly b: number } {
  if (formula === 'lorax') return { a: weight, b: weight };
  const scaled = weight * module.scaling;
  const root = Math.sqrt(Math.abs(scaled));
  return { a: scaled < 0 ? -root : root, b: root };
}

/** Scaling that a configuration gives a module, also one that it does not select. */
async function scalingsOf(
  config: AdapterConfig,
  names: readonly string[],
  firstMatches: FirstMatches,
): Promise<(name: string, rank: number) => number> {
  const alphas = await resolvePatterns(config.alphaPattern, config.alpha, names, firstMatches);
  return (name, rank) => (alphas.get(name) ?? config.alpha) / (config.rslora ? Math.sqrt(rank) : rank);
}
