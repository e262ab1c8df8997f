import { drawGamma, randomNumbers } from '../scenarios/random.js';

/** What arrives, as S-LoRA's synthetic traces are made (arXiv 2311.03285, section 7). */
export interface TraceOptions {
  /** Requests per second. */
  readonly rate: number;
  /** Coefficient of variation of the gaps between arrivals: gamma distributed, 1 is a Poisson process. */
  readonly cv: number;
  readonly seconds: number;
  readonly adapters: number;
  /** A request's adapter is ⌊power(alpha) · adapters⌋, power(alpha) = u^(1/alpha): 1 draws evenly, others prefer some. */
  readonly alpha: number;
  /** Prompts and answers have U{shortest … longest} tokens each. */
  readonly shortest: number;
  readonly longest: number;
  readonly seed: number;
}

export interface Arrival {
  /** Seconds after the start. */
  readonly at: number;
  readonly adapter: number;
  readonly promptTokens: number;
  readonly newTokens: number;
}

/** The requests of one trace, by time; the same for the same options. */
export function makeTrace(options: TraceOptions): Arrival[] {
  const { rate, cv, seconds, adapters, alpha, shortest, longest } = options;
  const random = randomNumbers(options.seed);
  const shape = 1 / cv ** 2;
  const length = (): number => shortest + Math.floor(random() * (longest - shortest + 1));
  const arrivals: Arrival[] = [];
  for (let at = drawGamma(random, shape, 1 / (rate * shape)); at < seconds; ) {
    const adapter = Math.min(adapters - 1, Math.floor(random() ** (1 / alpha) * adapters));
    arrivals.push({ at, adapter, promptTokens: length(), newTokens: length() });
    at += drawGamma(random, shape, 1 / (rate * shape));
  }
  return arrivals;
}
