import type { Composition } from './composition.js';

/** How one token is chosen from a row of logits. Neutral values are spelled out, never undefined. */
export interface SamplingParams {
  /** True: the highest logit (lowest id on a tie); the fields below except the penalty are then unused. */
  readonly greedy: boolean;
  /** > 0. */
  readonly temperature: number;
  /** Keep the k most likely tokens; 0 = all. */
  readonly topK: number;
  /** Keep the smallest set whose probability reaches this; in (0, 1], 1 = all. */
  readonly topP: number;
  /** > 0; 1 = off. Divides positive and multiplies negative logits of tokens seen in prompt or output. */
  readonly repetitionPenalty: number;
  /** Unsigned 64-bit. The generator is keyed by (seed, choice, position), so batching changes nothing. */
  readonly seed: bigint;
}

/** One generation as the engine sees it: tokens in, tokens out. Text concerns stay on the main thread. */
export interface GenerateRequest {
  /** Unique while the process lives. */
  readonly id: number;
  /** Adapter name, or `__base__`; of a composition the names of its members, joined by commas. */
  readonly adapter: string;
  /** Several adapters instead of one, or one at another strength. */
  readonly composition?: Composition;
  /** [promptLength], at least one id, each below the vocabulary size. */
  readonly promptIds: Uint32Array;
  /** > 0; promptLength + maxNewTokens is at most the model length. */
  readonly maxNewTokens: number;
  /** Ids that end the generation; empty when EOS is ignored. */
  readonly stopIds: readonly number[];
  readonly sampling: SamplingParams;
  /** Report the chosen token's log-probability after all logit processing; otherwise it is NaN. */
  readonly logprobs: boolean;
}

export type FinishReason = 'length' | 'eos_token' | 'stop_sequence';

/** Which adapter really answered, for headers and details. */
export interface ServedBy {
  /** As in the request. */
  readonly adapter: string;
  /** Hex SHA-256 of the adapter's files; null for the base. Of a sum one for each member, joined by commas. */
  readonly digest: string | null;
  /** Where the adapter was when the request arrived; of several, the farthest. */
  readonly tierAtArrival: 'host' | 'disk' | null;
}

/** What the engine reports about one request. Exactly one terminal event (`finish` or `error`) per request. */
export type SequenceEvent =
  | { readonly kind: 'admitted'; readonly id: number; readonly atMs: number; readonly servedBy: ServedBy }
  | { readonly kind: 'token'; readonly id: number; readonly token: number; readonly logprob: number }
  | { readonly kind: 'finish'; readonly id: number; readonly reason: 'length' | 'eos_token' }
  | { readonly kind: 'error'; readonly id: number; readonly error: import('./errors.js').ErrorRecord };
