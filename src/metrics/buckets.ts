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

/** vLLM's: first tokens, in seconds. */
export const VLLM_FIRST_TOKEN_SECONDS = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
];

/** vLLM's: gaps between tokens, in seconds. */
export const VLLM_TOKEN_SECONDS = [
  0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
];

/** vLLM's: requests and their parts, in seconds. */
export const VLLM_REQUEST_SECONDS = [
  0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
];

/** vLLM's: rows of one step. */
export const ITERATION_TOKENS = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];

/** vLLM's rule for token counts: 1, 2, 5, 10, … up to `max`. */
export function vllmTokens(max: number): number[] {
  const buckets: number[] = [];
  for (let decade = 1; ; decade *= 10) {
    for (const step of [1, 2, 5]) {
      if (decade * step > max) return buckets;
      buckets.push(decade * step);
    }
  }
}

/** LoRAX's sizes of batches: every whole number up to 1,024, or to the most requests that run at once. */
export function loraxBatches(maxSequences: number): number[] {
  return Array.from({ length: Math.min(maxSequences, 1_024) }, (_, at) => at + 1);
}

/** vLLM's buckets of `n`. */
export const CHOICES = [1, 2, 5, 10, 20];
