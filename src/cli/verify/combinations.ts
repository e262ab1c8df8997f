import { type Composition, MAX_MEMBERS, type MergeMethod } from '../../core/composition.js';
import type { Subject } from './solo-runs.js';

/** Adapters that one request combines, and what it is called here. */
export interface Combination {
  readonly label: string;
  readonly composition: Composition;
  readonly members: readonly Subject[];
}

/** Of each kind, at most. */
const MOST = 4;
const WEIGHTS = [0.7, -0.4, 0.5];
const SUM_SIZES = [1, 2, 3];
const METHODS: readonly MergeMethod[] = [
  { formula: 'peft', strategy: 'linear', density: 0, majoritySign: 'total' },
  { formula: 'lorax', strategy: 'ties', density: 0.5, majoritySign: 'total' },
  { formula: 'peft', strategy: 'dare_ties', density: 0.5, majoritySign: 'frequency' },
  { formula: 'lorax', strategy: 'linear', density: 0, majoritySign: 'total' },
];
const PLAIN: ReadonlySet<string> = new Set(['lora', 'rslora']);

/**
 * Sums and merges of the adapters that may be in them, whose members fit into `budget` bytes together: the same for
 * every seed. What else stands against one shows when it is run.
 */
export function combinationsOf(subjects: readonly Subject[], budget: number): Combination[] {
  const plain = subjects.filter(({ directory, variant }) => directory !== '' && variant.every((one) => PLAIN.has(one)));
  return [...sumsOf(plain, budget), ...mergesOf(plain, budget)];
}

function sumsOf(plain: readonly Subject[], budget: number): Combination[] {
  const sums: Combination[] = [];
  for (let at = 0; at < plain.length && sums.length < MOST; at += 1) {
    const size = Math.min(SUM_SIZES[at % SUM_SIZES.length] ?? 1, MAX_MEMBERS);
    const members = plain.slice(at, at + size);
    if (members.length < size || !fits(members, budget)) continue;
    const weighted = withWeights(members);
    const label = weighted.map(({ name, weight }) => `${weight}·${name}`).join(' + ');
    sums.push({ label, composition: { kind: 'sum', members: weighted }, members });
  }
  return sums;
}

/** Pairs of one rank. */
function mergesOf(plain: readonly Subject[], budget: number): Combination[] {
  const merges: Combination[] = [];
  for (const [at, first] of plain.entries()) {
    const second = plain
      .slice(at + 1)
      .find((other) => other.rank !== null && other.rank === first.rank && fits([first, other], budget));
    const method = METHODS[merges.length % METHODS.length];
    if (merges.length === MOST || method === undefined) break;
    if (second === undefined) continue;
    const members = [first, second];
    const weighted = withWeights(members);
    const of = weighted.map(({ name, weight }) => `${weight}·${name}`).join(', ');
    const label = `${method.formula} ${method.strategy} of ${of}`;
    merges.push({ label, composition: { kind: 'merge', members: weighted, method }, members });
  }
  return merges;
}

function withWeights(members: readonly Subject[]): { readonly name: string; readonly weight: number }[] {
  return members.map(({ name }, at) => ({ name, weight: WEIGHTS[at % WEIGHTS.length] ?? 1 }));
}

function fits(members: readonly Subject[], budget: number): boolean {
  return members.reduce((bytes, member) => bytes + member.bytes, 0) <= budget;
}
