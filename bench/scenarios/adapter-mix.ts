import { BASE_NAME } from '../../src/core/names.js';
import { randomNumbers } from './random.js';

/**
 * Which adapter each row of a batch has: none; all the same; `distinct:k`, k of them in turn; each its own; drawn with
 * equal chances from as many as there are rows; drawn by Zipf's law from those.
 */
export type AdapterMix = 'base' | 'identical' | 'distinct' | `distinct:${number}` | 'uniform' | `zipf:${number}`;

/** A rank, or rank 8, 16 and 64 in turn. */
export type RankChoice = 8 | 16 | 64 | 'mixed';

const MIXED_RANKS = [8, 16, 64] as const;
const DRAW_SEED = 7;

/** Name of a benchmark adapter, which says its rank and tells its weights apart. */
export function adapterName(rank: RankChoice, index: number): string {
  const own = rank === 'mixed' ? (MIXED_RANKS[index % MIXED_RANKS.length] as number) : rank;
  return `strong${own}-${index}`;
}

/** Rank and index of a name that `adapterName` made. */
export function parseAdapterName(name: string): { rank: number; index: number } {
  const [, rank, index] = /^strong(\d+)-(\d+)$/.exec(name) ?? [];
  if (rank === undefined || index === undefined) throw new Error(`expected a name as strong16-3, found ${name}`);
  return { rank: Number(rank), index: Number(index) };
}

/** Adapter names [rows]; the same for the same arguments. */
export function adaptersOf(mix: AdapterMix, rank: RankChoice, rows: number): string[] {
  const all = Array.from({ length: rows }, (_, row) => row);
  const [kind, parameter] = mix.split(':') as [string, string | undefined];
  if (kind === 'base') return all.map(() => BASE_NAME);
  if (kind === 'identical') return all.map(() => adapterName(rank, 0));
  if (kind === 'distinct') {
    const distinct = parameter === undefined ? rows : Number(parameter);
    return all.map((row) => adapterName(rank, row % distinct));
  }
  const exponent = kind === 'uniform' ? 0 : Number(parameter);
  const random = randomNumbers(DRAW_SEED);
  return all.map(() => adapterName(rank, drawZipf(random(), exponent, rows)));
}

/** An index below `count`, of probability ∝ (index + 1)^−exponent, for a number drawn from [0, 1). */
export function drawZipf(uniform: number, exponent: number, count: number): number {
  const weights = Array.from({ length: count }, (_, index) => (index + 1) ** -exponent);
  let left = uniform * weights.reduce((sum, weight) => sum + weight, 0);
  const at = weights.findIndex((weight) => {
    left -= weight;
    return left < 0;
  });
  return at < 0 ? count - 1 : at;
}
