/** The server under load: what is sent, as data. */

/** Streams at once that are compared with the engine alone. */
export const OVERHEAD = { streams: 16, promptTokens: 32, newTokens: 96, mixes: ['base', 'distinct'] } as const;

/** Long prompts that arrive while others decode; one has been read before the next comes. */
export const CHUNKED = { streams: 8, promptTokens: 768, everyMs: 3_000, seconds: 6 } as const;

/** One window of arrivals. */
export interface ArrivalWindow {
  readonly variant: string;
  /** Adapters that the server knows; of `MANY` another number with `--quick`. */
  readonly adapters: 'few' | 'many';
  /** All of them are in memory before anything arrives; else the first request of each loads it from disk. */
  readonly loaded: boolean;
  /** Share of the rate at which the server with few adapters saturates. */
  readonly load: number;
  readonly cv: number;
  readonly alpha: number;
}

export const FEW = 5;
export const MANY = { full: 2_000, quick: 200 } as const;

/** S-LoRA's U{8 … 511} tokens, an eighth as long: the model is a fiftieth of theirs, the machine has two cores. */
export const LENGTHS = { shortest: 8, longest: 64 } as const;

/** Of the adapters: on query and value, as S-LoRA's. */
export const REGISTERED_ADAPTER = { rank: 8, targets: ['q_proj', 'v_proj'] } as const;

const uniform = { cv: 1, alpha: 1 } as const;

export const ARRIVALS: readonly ArrivalWindow[] = [
  { variant: 'few', adapters: 'few', loaded: true, load: 0.8, ...uniform },
  { variant: 'many', adapters: 'many', loaded: true, load: 0.8, ...uniform },
  { variant: 'many-on-disk', adapters: 'many', loaded: false, load: 0.8, ...uniform },
  { variant: 'half-load', adapters: 'many', loaded: true, load: 0.5, ...uniform },
  { variant: 'bursts', adapters: 'many', loaded: true, load: 0.5, cv: 2, alpha: 1 },
  { variant: 'skewed', adapters: 'many', loaded: true, load: 0.8, cv: 1, alpha: 0.2 },
];

/** Equal requests at once, each answered with this many tokens. */
export const SPECULATION = { streams: [1, 8], newTokens: 160 } as const;

/** What `--only` and `--skip` call them. */
export const SERVING_SCENARIOS = ['startup', 'overhead', 'chunked', 'speculation', 'arrivals'] as const;
export type ServingScenario = (typeof SERVING_SCENARIOS)[number];

/** Run with `--quick` too. */
export const QUICK_SERVING: readonly ServingScenario[] = ['startup', 'overhead', 'chunked'];
