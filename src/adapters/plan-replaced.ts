import type { Offender } from '../core/errors.js';
import type { NativeCopyPlan, NativeNormPlan, NativeRowsPlan } from '../engine/binding.js';
import { type BaseModel, baseModuleNames, embeddingShape, HEAD } from './base-modules.js';
import type { AdapterConfig } from './config.js';
import { checkTensor, type ModuleTensors } from './tensor-groups.js';

/** What an adapter puts in the place of the base's, and copies of the base that it merely carries. */
export interface ReplacedPlan {
  readonly norms: readonly NativeNormPlan[];
  readonly embeddingRows: NativeRowsPlan | null;
  readonly headRows: NativeRowsPlan | null;
  readonly copies: readonly NativeCopyPlan[];
}

/** Plans `modules_to_save`, `trainable_token_indices` and copies of embedding and head. Source: PEFT 0.21 `other.py`. */
export function planReplaced(
  config: AdapterConfig,
  groups: ReadonlyMap<string, ModuleTensors>,
  base: BaseModel,
  offenders: Offender[],
): ReplacedPlan {
  const saved = savedModules(config, base, offenders);
  const tokens = tokenModules(config, base, offenders);
  refuseTwice(saved, tokens, groups, base, offenders);
  return {
    norms: planNorms(saved, groups, base, offenders),
    embeddingRows: planRows(base.embedding.name, saved, tokens, groups, base, offenders),
    headRows: planRows(HEAD, saved, tokens, groups, base, offenders),
    copies: planCopies(saved, groups, base, offenders),
  };
}

/** The modules whose names end in an entry of `modules_to_save`: a plain ending, with or without a dot before it. */
function savedModules(config: AdapterConfig, base: BaseModel, offenders: Offender[]): ReadonlySet<string> {
  const replaceable = new Set([base.embedding.name, HEAD, ...base.norms.map((norm) => norm.name)]);
  const saved = new Set<string>();
  for (const entry of config.modulesToSave) {
    const matched = [...baseModuleNames(base)].filter((name) => name.endsWith(entry));
    const other = matched.find((name) => !replaceable.has(name));
    if (matched.length === 0 || other !== undefined) {
      offenders.push({
        key: 'modules_to_save',
        expected: `only ${HEAD}, ${base.embedding.name} or norms of ${base.modelId}: other modules are not replaced`,
        found: other === undefined ? `"${entry}", which is none` : `"${entry}", which selects ${other}`,
      });
    } else for (const name of matched) saved.add(name);
  }
  // PEFT then saves both ends of the tie.
  if (
    config.ensureWeightTying &&
    base.config.tieWordEmbeddings &&
    (saved.has(HEAD) || saved.has(base.embedding.name))
  ) {
    saved.add(HEAD).add(base.embedding.name);
  }
  return saved;
}

/** The trainable tokens of embedding and head, and whose tensor holds their rows. */
type TokenModules = ReadonlyMap<string, { readonly tokens: readonly number[]; readonly source: string }>;

function tokenModules(config: AdapterConfig, base: BaseModel, offenders: Offender[]): TokenModules {
  const { vocab } = embeddingShape(base);
  const key = 'trainable_token_indices';
  const found = new Map<string, { tokens: readonly number[]; source: string }>();
  for (const { module, tokens } of config.trainableTokens) {
    const matched = [...baseModuleNames(base)].filter((name) => name.endsWith(module ?? base.embedding.name));
    const [name] = matched;
    if (matched.length !== 1 || (name !== base.embedding.name && name !== HEAD)) {
      offenders.push({ key, expected: `${base.embedding.name} or ${HEAD}`, found: `"${module}"` });
      continue;
    }
    const unknown = tokens.find((token) => token >= vocab);
    if (unknown !== undefined) {
      const expected = `token ids below ${vocab}: a vocabulary that was enlarged for training is not served`;
      offenders.push({ key, expected, found: `${unknown}` });
    }
    found.set(name, { tokens, source: name });
  }
  if (!base.config.tieWordEmbeddings) return found;
  // A tied head follows the embedding's rows, unless it was given other tokens of its own.
  const embedding = found.get(base.embedding.name);
  const head = found.get(HEAD);
  const same = head === undefined || String(head.tokens) === String(embedding?.tokens);
  if (embedding !== undefined && same) found.set(HEAD, embedding);
  return found;
}

/** Of factors, a whole matrix and rows of tokens a module may have one. */
function refuseTwice(
  saved: ReadonlySet<string>,
  tokens: TokenModules,
  groups: ReadonlyMap<string, ModuleTensors>,
  base: BaseModel,
  offenders: Offender[],
): void {
  for (const module of [base.embedding.name, HEAD]) {
    const { a, embeddingA } = groups.get(module) ?? {};
    const ways = [
      ...(a === undefined && embeddingA === undefined ? [] : ['LoRA']),
      ...(saved.has(module) ? ['modules_to_save'] : []),
      ...(tokens.has(module) ? ['trainable_token_indices'] : []),
    ];
    if (ways.length < 2) continue;
    const key = tokens.has(module) ? 'trainable_token_indices' : 'modules_to_save';
    offenders.push({ key, expected: `one way of changing ${module}`, found: ways.join(' and ') });
  }
}

function planNorms(
  saved: ReadonlySet<string>,
  groups: ReadonlyMap<string, ModuleTensors>,
  base: BaseModel,
  offenders: Offender[],
): NativeNormPlan[] {
  const planned: NativeNormPlan[] = [];
  base.norms.forEach(({ name }, norm) => {
    const weight = groups.get(name)?.weight;
    if (weight === undefined) {
      if (saved.has(name)) offenders.push(missingWeight(name));
      return;
    }
    if (!saved.has(name)) {
      const expected = `no weight of ${name}, or modules_to_save that selects it`;
      offenders.push({ tensor: weight.name, expected, found: `${weight.dtype} [${weight.shape}]` });
    }
    checkTensor(weight, [embeddingShape(base).hidden], 'hidden size', offenders);
    planned.push({ norm, tensor: weight.name });
  });
  return planned;
}

function missingWeight(module: string): Offender {
  return { key: 'modules_to_save', expected: `${module}.weight in the file, which it selects`, found: 'none' };
}

function planRows(
  module: string,
  saved: ReadonlySet<string>,
  tokens: TokenModules,
  groups: ReadonlyMap<string, ModuleTensors>,
  base: BaseModel,
  offenders: Offender[],
): NativeRowsPlan | null {
  const { vocab, hidden } = embeddingShape(base);
  const own = groups.get(module)?.tokens;
  const rows = tokens.get(module);
  if (own !== undefined && rows?.source !== module) {
    const expected = `no rows of tokens of ${module}, or trainable_token_indices that lists them`;
    offenders.push({ tensor: own.name, expected, found: `${own.dtype} [${own.shape}]` });
  }
  if (rows !== undefined) {
    const tensor = groups.get(rows.source)?.tokens;
    if (tensor === undefined) {
      const expected = `token_adapter.trainable_tokens_delta of ${rows.source} in the file`;
      offenders.push({ key: 'trainable_token_indices', expected, found: 'none' });
      return null;
    }
    checkTensor(tensor, [rows.tokens.length, hidden], 'number of tokens, hidden size', offenders);
    return { tensor: tensor.name, tokens: [...rows.tokens] };
  }
  if (!saved.has(module)) return null;
  const weight = groups.get(module)?.weight;
  if (weight === undefined) {
    offenders.push(missingWeight(module));
    return null;
  }
  checkTensor(weight, [vocab, hidden], 'vocabulary size, hidden size', offenders);
  return { tensor: weight.name };
}

/** Copies of the base's embedding and head: PEFT adds them to files that target either, or were saved with all. */
function planCopies(
  saved: ReadonlySet<string>,
  groups: ReadonlyMap<string, ModuleTensors>,
  base: BaseModel,
  offenders: Offender[],
): NativeCopyPlan[] {
  const { vocab, hidden } = embeddingShape(base);
  const head = base.sites.find((site) => site.modules[0]?.name === HEAD)?.id;
  const planned: NativeCopyPlan[] = [];
  for (const module of [base.embedding.name, HEAD]) {
    const { baseWeight, weight } = groups.get(module) ?? {};
    for (const tensor of [baseWeight, saved.has(module) ? undefined : weight]) {
      if (tensor === undefined) continue;
      checkTensor(tensor, [vocab, hidden], 'vocabulary size, hidden size', offenders);
      const site = module === HEAD ? head : undefined;
      planned.push({ tensor: tensor.name, ...(site === undefined ? {} : { site }) });
    }
  }
  return planned;
}
