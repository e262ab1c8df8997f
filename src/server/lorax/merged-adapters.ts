import { MAX_MEMBERS, type MergeMethod, membersLabel, type WeightedAdapter } from '../../core/composition.js';
import { invalidField, readNumber, readObject, readOptionalString, readStrings } from '../fields.js';
import { type AdapterChoice, checkWeight, readMemberName, sumOf } from './adapter-members.js';
import type { AdapterOrigin } from './adapter-origin.js';

const FIELDS: ReadonlySet<string> = new Set(['ids', 'weights', 'merge_strategy', 'density', 'majority_sign_method']);

/** A `merge_strategy`, taken apart; `cat` is the sum of the deltas, which needs no merge. */
interface Strategy {
  readonly formula: MergeMethod['formula'];
  readonly strategy: MergeMethod['strategy'] | 'cat';
}

/** LoRAX's own names mean LoRAX's formulas; PEFT's have a prefix. */
const STRATEGIES: ReadonlyMap<string, Strategy> = new Map<string, Strategy>([
  ['linear', { formula: 'lorax', strategy: 'linear' }],
  ['ties', { formula: 'lorax', strategy: 'ties' }],
  ['dare_linear', { formula: 'lorax', strategy: 'dare_linear' }],
  ['dare_ties', { formula: 'lorax', strategy: 'dare_ties' }],
  ['peft_linear', { formula: 'peft', strategy: 'linear' }],
  ['peft_ties', { formula: 'peft', strategy: 'ties' }],
  ['peft_dare_linear', { formula: 'peft', strategy: 'dare_linear' }],
  ['peft_dare_ties', { formula: 'peft', strategy: 'dare_ties' }],
  ['peft_cat', { formula: 'peft', strategy: 'cat' }],
]);

/**
 * `merged_adapters`, checked in LoRAX's order and with its messages. One adapter is not merged: LoRAX ignores its
 * weight, PEFT's formulas apply it. Throws ERR_VALIDATION.
 */
export function readMergedAdapters(value: unknown, origin: AdapterOrigin): AdapterChoice {
  const object = readObject('merged_adapters', value);
  for (const name of Object.keys(object)) {
    if (!FIELDS.has(name))
      throw invalidField('merged_adapters', `unknown field \`merged_adapters.${name}\`: remove it`);
  }
  const members = readMembers(object.ids, object.weights, origin);
  const { formula, strategy } = readStrategy(object.merge_strategy);
  const majoritySign = readMajoritySign(object.majority_sign_method);
  const density = readNumber('density', object.density);
  const [first] = members;
  if (strategy === 'cat' || (members.length === 1 && formula === 'peft')) return sumOf('merged_adapters.ids', members);
  if (members.length === 1 && first !== undefined) return { adapter: first.name };
  const method = {
    formula,
    strategy,
    density: strategy === 'linear' ? 0 : checkDensity(formula, density),
    majoritySign: strategy === 'ties' || strategy === 'dare_ties' ? majoritySign : 'total',
  } as const;
  return { adapter: membersLabel(members), composition: { kind: 'merge', members, method } };
}

function readMembers(ids: unknown, weights: unknown, origin: AdapterOrigin): WeightedAdapter[] {
  const names = readStrings('ids', ids);
  const list: readonly unknown[] = readList(weights);
  if (names.length === 0) {
    throw invalidField('merged_adapters', 'at least one adapter ID must be provided when setting `adapters`');
  }
  if (names.length !== list.length) {
    throw invalidField('merged_adapters', 'number of adapter IDs must match number of adapter weights');
  }
  if (names.length > MAX_MEMBERS) {
    throw invalidField('merged_adapters', `\`ids\` supports up to ${MAX_MEMBERS} adapters. Given: ${names.length}`);
  }
  return names.map((name, at) => ({
    name: readMemberName(`ids[${at}]`, name, origin),
    weight: checkWeight(`weights[${at}]`, readWeight(`weights[${at}]`, list[at])),
  }));
}

function readList(value: unknown): readonly unknown[] {
  if (value === undefined) return [];
  if (!Array.isArray(value)) throw invalidField('merged_adapters', '`weights` must be a list of numbers');
  return value;
}

function readWeight(field: string, value: unknown): number {
  const weight = readNumber(field, value);
  if (weight === null) throw invalidField(field, `\`${field}\` must be a number, got null`);
  return weight;
}

function readStrategy(value: unknown): Strategy {
  const name = readOptionalString('merge_strategy', value) ?? 'linear';
  const strategy = STRATEGIES.get(name.toLowerCase());
  if (strategy !== undefined) return strategy;
  throw invalidField('merge_strategy', `\`merge_strategy\` must be one of ${[...STRATEGIES.keys()].join(', ')}`);
}

function readMajoritySign(value: unknown): MergeMethod['majoritySign'] {
  const method = (readOptionalString('majority_sign_method', value) ?? 'total').toLowerCase();
  if (method === 'total' || method === 'frequency') return method;
  throw invalidField('majority_sign_method', '`majority_sign_method` must be total or frequency');
}

/** LoRAX's default prunes everything; PEFT has none. */
function checkDensity(formula: MergeMethod['formula'], density: number | null): number {
  if (formula === 'lorax') {
    if ((density ?? 0) >= 0) return density ?? 0;
    throw invalidField('density', `\`density\` must be >= 0, got ${density}`);
  }
  if (density !== null && density > 0 && density <= 1) return density;
  throw invalidField(
    'density',
    `\`density\` must be > 0 and <= 1 for PEFT's pruning strategies, got ${density ?? 'nothing'}`,
  );
}
