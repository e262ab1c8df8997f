import { LoramuxError } from '../core/errors.js';
import type { GenerateRequest } from '../core/request.js';

/** What the scheduler may use. All are counts; KV blocks hold `blockSize` tokens each. */
export interface SchedulerLimits {
  /** Sequences that run at once; their slots are 0 … maxSequences − 1. */
  readonly maxSequences: number;
  /** Rows of one step, decode and prefill together; at least `maxSequences`. */
  readonly maxBatchTokens: number;
  /**
   * Prefill rows of a step that has decode rows too, so that it takes no longer than running sequences can bear. What
   * prompts with more rows than this may take of them: `longPromptRows`.
   */
  readonly maxPrefillRows: number;
  /** Requests that may wait, those waiting for an adapter included. */
  readonly maxQueue: number;
  readonly kvBlocks: number;
  readonly blockSize: number;
  /** Longest prompt plus output. */
  readonly maxModelLen: number;
  /** Logits of one row; token ids are below it. */
  readonly vocabSize: number;
  /** Full KV blocks are kept when their sequences are gone, and shared. */
  readonly prefixCache: boolean;
  /** Guessed tokens are tried beside the known ones where that pays; answers are the same. */
  readonly speculation: boolean;
}

const LIMIT_NAMES = [
  'maxSequences',
  'maxBatchTokens',
  'maxPrefillRows',
  'maxQueue',
  'kvBlocks',
  'blockSize',
  'maxModelLen',
  'vocabSize',
] as const;

/**
 * Refuses limits that cannot work.
 * Errors: ERR_CONFIG names the limit, its value and what is needed.
 */
export function checkLimits(limits: SchedulerLimits): void {
  for (const name of LIMIT_NAMES) {
    const value = limits[name];
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new LoramuxError(
        'ERR_CONFIG',
        `expected ${name} to be a whole number of at least 1, got ${value}: raise it`,
      );
    }
  }
  if (limits.maxBatchTokens < limits.maxSequences) {
    throw new LoramuxError(
      'ERR_CONFIG',
      `expected maxBatchTokens to be at least maxSequences (${limits.maxSequences}), so that every running sequence ` +
        `gets its row in every step, got ${limits.maxBatchTokens}: raise maxBatchTokens or lower maxSequences`,
    );
  }
}

/** KV blocks that `tokens` tokens occupy. */
export function blocksFor(tokens: number, blockSize: number): number {
  return Math.ceil(tokens / blockSize);
}

/**
 * Refuses a request that could not finish even with the whole machine to itself; what passes always completes,
 * because preemption can give it every block. The last token generated is never fed back, so it needs no KV. No new
 * token at all is fine where the prompt is scored.
 * Errors: ERR_VALIDATION for an empty prompt or output, ERR_PROMPT_TOO_LONG with the numbers otherwise.
 */
export function checkRequest(
  request: Pick<GenerateRequest, 'promptIds' | 'maxNewTokens' | 'promptLogprobs'>,
  limits: Pick<SchedulerLimits, 'maxModelLen' | 'kvBlocks' | 'blockSize'>,
): void {
  const prompt = request.promptIds.length;
  const output = request.maxNewTokens;
  const least = request.promptLogprobs === null ? 1 : 0;
  if (prompt < 1 || !Number.isSafeInteger(output) || output < least) {
    throw new LoramuxError(
      'ERR_VALIDATION',
      `expected at least one prompt token and at least ${least} new tokens, got ${prompt} and ${output}: send both`,
    );
  }
  if (prompt + output > limits.maxModelLen) {
    throw new LoramuxError(
      'ERR_PROMPT_TOO_LONG',
      `expected prompt plus new tokens to be at most ${limits.maxModelLen}, got ${prompt} + ${output}: ` +
        'shorten the prompt or ask for fewer new tokens',
    );
  }
  const blocks = blocksFor(Math.max(prompt, prompt + output - 1), limits.blockSize);
  if (blocks > limits.kvBlocks) {
    throw new LoramuxError(
      'ERR_PROMPT_TOO_LONG',
      `expected a request to need at most ${limits.kvBlocks} KV blocks of ${limits.blockSize} tokens, but ${prompt} ` +
        `prompt and ${output} new tokens need ${blocks}: shorten the request or give the server more KV memory`,
    );
  }
}

/**
 * Of the prefill rows of a step that decodes, what prompts may take that have more rows than such a step may hold: each
 * a quarter, so that one that arrives alone delays running sequences little in each of its many steps, and together all
 * but a quarter, so that shorter prompts need not wait until they have been read.
 */
export function longPromptRows(maxPrefillRows: number): { each: number; together: number } {
  const quarter = Math.ceil(maxPrefillRows / 4);
  return { each: quarter, together: Math.max(quarter, maxPrefillRows - quarter) };
}

/** Memory for the logits of a step's scored rows: beyond it, a prompt is scored in more steps. */
const SCORED_LOGITS_BYTES = 64 * 2 ** 20;

/** Rows that one step may score, so that their float32 logits take at most 64 MiB; at least one. */
export function maxScoredRows(vocabSize: number): number {
  return Math.max(1, Math.floor(SCORED_LOGITS_BYTES / (4 * vocabSize)));
}

/** What is left for admissions while a step is being planned. */
export interface Headroom {
  readonly rows: number;
  readonly slots: number;
  readonly blocks: number;
}

/** True when a sequence that takes `blocks` of what is available for its whole prefill may join the step being planned. */
export function canAdmit(headroom: Headroom, blocks: number): boolean {
  return headroom.rows > 0 && headroom.slots > 0 && blocks <= headroom.blocks;
}

/** Why a generation ends with `token`, its `generated`-th one, or null when it goes on. Length comes before EOS. */
export function finishReason(
  request: Pick<GenerateRequest, 'maxNewTokens' | 'stopIds'>,
  generated: number,
  token: number,
): 'length' | 'eos_token' | null {
  if (generated >= request.maxNewTokens) return 'length';
  return request.stopIds.includes(token) ? 'eos_token' : null;
}
