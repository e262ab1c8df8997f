import type { LogprobOptions, SamplingParams } from '../../src/core/request.js';

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

/** What is known of the row beside its logits. */
export interface Context {
  readonly prompt: readonly number[];
  readonly output: readonly number[];
  readonly choice: number;
  /** Ids that must not be chosen. */
  readonly banned: readonly number[];
}

/** A token with a log-probability. */
export interface Scored {
  readonly token: number;
  readonly logprob: number;
}

const total = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);

/** Repetition (CTRL, arXiv 1909.05858) over prompt and output, then presence and frequency over their scope. */
function penalised(logit: number, id: number, params: SamplingParams, { prompt, output }: Context): number {
  const history = [...prompt, ...output];
  const penalty = Math.fround(params.repetitionPenalty);
  const repeated = penalty !== 1 && history.includes(id);
  const value = repeated ? Math.fround(logit > 0 ? logit / penalty : logit * penalty) : logit;
  const inSequence = params.penaltyScope === 'sequence';
  const count = (inSequence ? history : output).filter((other) => other === id).length;
  if (count === 0) return value;
  const share = inSequence ? count / history.length : count;
  return Math.fround(value - (params.presencePenalty + params.frequencyPenalty * share));
}

/** Logits after everything that comes before the temperature, in float32. */
function adjusted(logits: Float32Array, params: SamplingParams, context: Context): Float32Array {
  return logits.map((logit, id) => {
    const value = Math.fround(penalised(logit, id, params, context) + Math.fround(params.logitBias.get(id) ?? 0));
    return context.banned.includes(id) ? Number.NEGATIVE_INFINITY : value;
  });
}

/** Ids of `logits`, highest first, lowest id first among equals. */
function ranked(logits: Float32Array): number[] {
  const value = (id: number): number => logits[id] as number;
  return Array.from(logits.keys()).sort((a, b) => (value(a) === value(b) ? a - b : value(b) - value(a)));
}

/** How many of `weights` it takes to reach `goal`. */
function reach(weights: readonly number[], goal: number): number {
  let reached = 0;
  const last = weights.findIndex((weight) => {
    reached += weight;
    return reached >= goal;
  });
  return last === -1 ? weights.length : last + 1;
}

/** Locally typical sampling (arXiv 2202.00666): nearest to the entropy first, until `mass`; ties with the last stay. */
function typical(ids: readonly number[], weight: (id: number) => number, mass: number): number[] {
  const all = total(ids.map(weight));
  const information = (id: number): number => -Math.log(weight(id) / all);
  const possible = ids.filter((id) => weight(id) > 0);
  const entropy = total(possible.map((id) => (weight(id) / all) * information(id)));
  const distance = (id: number): number => Math.abs(information(id) - entropy);
  // Infinite distances are equal; the sort is stable.
  const nearest = [...ids].sort((a, b) => (distance(a) === distance(b) ? 0 : distance(a) - distance(b)));
  const last = nearest[reach(nearest.map(weight), mass * all) - 1] as number;
  return ids.filter((id) => distance(id) <= distance(last));
}

/** Ids that can be drawn, in the order of drawing, and their weights. */
function candidates(values: Float32Array, params: SamplingParams): { ids: number[]; weights: number[] } {
  const rank = ranked(values);
  const top = values[rank[0] as number] as number;
  const weight = (id: number): number => Math.exp(Math.fround((values[id] as number) - top));
  const { topK } = params;
  const [topP, minP, typicalP] = [params.topP, params.minP, params.typicalP].map(Math.fround) as [
    number,
    number,
    number,
  ];
  const filtered = (topK > 0 && topK < values.length) || topP < 1 || minP > 0 || typicalP < 1;
  let ids = filtered ? rank : Array.from(values.keys());
  if (topK > 0) ids = ids.slice(0, topK);
  if (topP < 1) ids = ids.slice(0, reach(ids.map(weight), total(ids.map(weight)) * topP));
  if (minP > 0) ids = ids.filter((id) => weight(id) >= minP);
  if (typicalP < 1) ids = typical(ids, weight, typicalP);
  return { ids, weights: ids.map(weight) };
}

/** Probability of each id, in the order of ids. */
export function probabilities(logits: Float32Array, params: SamplingParams, context: Context): number[] {
  const temperature = Math.fround(params.temperature);
  const { ids, weights } = candidates(
    adjusted(logits, params, context).map((value) => value / temperature),
    params,
  );
  const all = total(weights);
  const out = new Array<number>(logits.length).fill(0);
  for (const [index, id] of ids.entries()) out[id] = (weights[index] as number) / all;
  return out;
}

/** The token that follows prompt and output. */
export function sample(logits: Float32Array, params: SamplingParams, context: Context): number {
  const values = adjusted(logits, params, context);
  if (params.greedy) return ranked(values)[0] as number;
  const temperature = Math.fround(params.temperature);
  const { ids, weights } = candidates(
    values.map((value) => value / temperature),
    params,
  );
  const position = context.prompt.length + context.output.length;
  const goal = uniform(params.seed, context.choice, position) * total(weights);
  let reached = 0;
  const chosen = weights.findIndex((weight) => {
    reached += weight;
    return reached > goal;
  });
  return (chosen === -1 ? ids.at(-1) : ids[chosen]) as number;
}

/** Log-softmax of each logit. */
export function logSoftmax(logits: Float32Array): number[] {
  const top = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const all = Math.log(total(Array.from(logits, (logit) => Math.exp(logit - top))));
  return Array.from(logits, (logit) => logit - top - all);
}

/** The `count` likeliest tokens that can come at all. */
export function likeliest(logprobs: readonly number[], count: number): Scored[] {
  const list = logprobs.map((logprob, token) => ({ token, logprob }));
  list.sort((a, b) => (a.logprob === b.logprob ? a.token - b.token : b.logprob - a.logprob));
  return list.slice(0, count).filter(({ logprob }) => logprob > Number.NEGATIVE_INFINITY);
}

/** Log-probability of every token, as reported beside the one that is chosen. */
export function reported(
  logits: Float32Array,
  params: SamplingParams,
  context: Context,
  { of }: LogprobOptions,
): number[] {
  if (of === 'raw') return logSoftmax(logits);
  if (params.greedy) return logSoftmax(adjusted(logits, params, context));
  return probabilities(logits, params, context).map(Math.log);
}
