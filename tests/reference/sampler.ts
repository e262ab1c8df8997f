import type { SamplingParams } from '../../src/core/request.js';

/**
 * The sampler as it should be, straight from its definition: slow, one row at a time, no native code. The native one
 * must choose the same token from the same logits.
 */

const MASK = (1n << 64n) - 1n;

/** SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). */
function mix(value: bigint): bigint {
  let z = (value + 0x9e3779b97f4a7c15n) & MASK;
  z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & MASK;
  z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & MASK;
  return z ^ (z >> 31n);
}

/** The number in [0, 1) of one draw: keyed by seed, choice and position, nothing else. */
export function uniform(seed: bigint, choice: number, position: number): number {
  const bits = mix(mix(seed) ^ ((BigInt(choice) << 32n) | BigInt(position)));
  return Number(bits >> 11n) / 2 ** 53;
}

/** Logits with the repetition penalty (CTRL, arXiv 1909.05858) and the temperature applied, in float32. */
function processed(logits: Float32Array, history: ReadonlySet<number>, params: SamplingParams): Float32Array {
  const penalty = Math.fround(params.repetitionPenalty);
  const temperature = Math.fround(params.temperature);
  return logits.map((logit, id) => {
    let value = logit;
    if (penalty !== 1 && history.has(id)) value = Math.fround(value > 0 ? value / penalty : value * penalty);
    return params.greedy ? value : Math.fround(value / temperature);
  });
}

/** The token at `position`; `history` holds the ids of prompt and output. */
export function sample(
  logits: Float32Array,
  history: readonly number[],
  params: SamplingParams,
  position: number,
): number {
  const values = processed(logits, new Set(history), params);
  const value = (id: number): number => values[id] as number;
  const ids = Array.from(values.keys());
  const ranked = [...ids].sort((a, b) => value(b) - value(a) || a - b);
  if (params.greedy) return ranked[0] as number;

  const filtered = params.topK > 0 || params.topP < 1;
  let kept = filtered ? ranked : ids;
  if (params.topK > 0) kept = kept.slice(0, params.topK);
  const top = value(ranked[0] as number);
  const weight = (id: number): number => Math.exp(Math.fround(value(id) - top));
  const sum = (of: readonly number[]): number => of.reduce((total, id) => total + weight(id), 0);
  if (params.topP < 1) {
    const goal = sum(kept) * Math.fround(params.topP);
    let reached = 0;
    const last = kept.findIndex((id) => {
      reached += weight(id);
      return reached >= goal;
    });
    if (last !== -1) kept = kept.slice(0, last + 1);
  }
  const goal = uniform(params.seed, 0, position) * sum(kept);
  let reached = 0;
  const chosen = kept.find((id) => {
    reached += weight(id);
    return reached > goal;
  });
  return chosen ?? (kept.at(-1) as number);
}
