/** Whole answers and waits, in seconds. */
export const SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320];

/** First tokens, in seconds. */
export const FIRST_TOKEN_SECONDS = [
  0.005, 0.01, 0.02, 0.04, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
];

/** Steps and gaps between tokens, in seconds. */
export const STEP_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2.5, 5];

/** Masks of one step, in seconds. */
export const MASK_SECONDS = [
  0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
];

/** Rows and segments of one step. */
export const ROWS = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256];

/** Real adapters in one step. */
export const DISTINCT_ADAPTERS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32, 64, 128];

/** LoRAX's rule for every duration: 0.0001 · 1.5^k seconds, k = 1 … 35. */
export const LORAX_SECONDS = Array.from({ length: 35 }, (_, k) => 0.0001 * 1.5 ** (k + 1));

/** LoRAX's rule for token counts: 100 equal steps up to `max`. */
export function loraxTokens(max: number): number[] {
  return Array.from({ length: 100 }, (_, k) => (max * (k + 1)) / 100);
}
