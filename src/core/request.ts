import type { AdapterTier } from './adapter.js';
import type { RemoteSource } from './adapter-source.js';
import type { AdapterText } from './adapter-text.js';
import type { Composition } from './composition.js';
import type { Constraint } from './constraint.js';

/**
 * How one token is chosen from a row of logits, in this order: penalties, bias, constraint, temperature, top-k, top-p,
 * min-p, typical-p, draw. Neutral values are spelled out, never undefined.
 */
export interface SamplingParams {
  /** True: the highest logit (lowest id on a tie); temperature and what comes after it are then unused. */
  readonly greedy: boolean;
  /** > 0. */
  readonly temperature: number;
  /** Keep the k most likely tokens; 0 = all. */
  readonly topK: number;
  /** Keep the smallest set whose probability reaches this; in (0, 1], 1 = all. */
  readonly topP: number;
  /** Keep tokens at least this share as likely as the likeliest; in [0, 1], 0 = all. */
  readonly minP: number;
  /** Keep the tokens nearest to the expected information until their probability reaches this; in (0, 1], 1 = all. */
  readonly typicalP: number;
  /** > 0; 1 = off. Divides positive and multiplies negative logits of tokens seen in prompt or output. */
  readonly repetitionPenalty: number;
  /** Subtracted once from logits of tokens seen in the scope; 0 = off. */
  readonly presencePenalty: number;
  /** Subtracted for each occurrence in the scope; 0 = off. */
  readonly frequencyPenalty: number;
  /** `output`: occurrences in the output, as OpenAI counts. `sequence`: in prompt and output, the count divided by their length, as LoRAX does. */
  readonly penaltyScope: 'output' | 'sequence';
  /** Added to logits by token id; each id at most once. */
  readonly logitBias: ReadonlyMap<number, number>;
  /** Unsigned 64-bit. The generator is keyed by (seed, choice, position), so batching changes nothing. */
  readonly seed: bigint;
}

/** Greedy, with everything else off. */
export const GREEDY_SAMPLING: SamplingParams = {
  greedy: true,
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  typicalP: 1,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  penaltyScope: 'output',
  logitBias: new Map(),
  seed: 0n,
};

/** Which log-probabilities are reported. */
export interface LogprobOptions {
  /** `raw`: the model's own, before penalties, bias, constraint and temperature. `processed`: after all processing. */
  readonly of: 'raw' | 'processed';
  /** Most likely tokens reported beside each, likeliest first; 0 = none. */
  readonly top: number;
}

/** The likeliest tokens of one position, likeliest first. */
export interface TopLogprobs {
  readonly ids: Uint32Array;
  readonly logprobs: Float32Array;
}

/** Raw log-probabilities of a prompt's tokens, each given what came before it. */
export interface PromptLogprobs {
  /** float32 [promptLength]; NaN for the first token. */
  readonly logprobs: Float32Array;
  /** [promptLength], empty for the first token; null when no alternatives were asked for. */
  readonly top: readonly TopLogprobs[] | null;
}

/** One generation as the engine sees it: tokens in, tokens out. Text concerns stay on the main thread. */
export interface GenerateRequest {
  /** Unique while the process lives. */
  readonly id: number;
  /** Adapter name, or `__base__`; of a composition the names of its members, joined by commas. */
  readonly adapter: string;
  /** Patterns (core/name-pattern.ts) one of which an adapter behind an alias must match; without it any may answer. */
  readonly allowed?: readonly string[];
  /** Several adapters instead of one, or one at another strength. */
  readonly composition?: Composition;
  /** Where adapters that the request names are to be loaded from; the others are the server's own by their names. */
  readonly adapterSources?: ReadonlyMap<string, RemoteSource>;
  /**
   * Digest of the text handling that made the prompt, null for the base's: a `text` event follows if the adapter has
   * another. Absent = ids are all that matters.
   */
  readonly textDigest?: string | null;
  /** [promptLength], at least one id, each below the vocabulary size. */
  readonly promptIds: Uint32Array;
  /** promptLength + maxNewTokens is at most the model length. 0 only with `promptLogprobs`: the prompt is scored, no more. */
  readonly maxNewTokens: number;
  /** Ids in `stopIds` are not sampled before this many tokens; at most `maxNewTokens`. */
  readonly minNewTokens: number;
  /** Ids that end the generation; empty when EOS is ignored. */
  readonly stopIds: readonly number[];
  readonly sampling: SamplingParams;
  /** Which of a caller's parallel choices this is: keys the generator beside the seed. */
  readonly choice: number;
  /** What the output must look like; null = anything. */
  readonly constraint: Constraint | null;
  /** Log-probabilities of the output's tokens; null = none, then they are NaN. */
  readonly logprobs: LogprobOptions | null;
  /** Alternatives reported beside each raw log-probability of the prompt's tokens; null = none of them is reported. */
  readonly promptLogprobs: { readonly top: number } | null;
  /** Only requests of the same salt share cached KV. */
  readonly cacheSalt: string | null;
}

export type FinishReason = 'length' | 'eos_token' | 'stop_sequence';

/** The fields of a request that most leave as they are: sampled freely, nothing reported but tokens. */
export const PLAIN_REQUEST = {
  minNewTokens: 0,
  choice: 0,
  constraint: null,
  logprobs: null,
  promptLogprobs: null,
  cacheSalt: null,
} as const satisfies Partial<GenerateRequest>;

/** Which adapter really answered, for headers and details. */
export interface ServedBy {
  /** As in the request. */
  readonly adapter: string;
  /** Hex SHA-256 of the adapter's files; null for the base. Of a sum one for each member, joined by commas. */
  readonly digest: string | null;
  /** Where the adapter was when the request arrived; of several, the farthest. */
  readonly tierAtArrival: AdapterTier | null;
}

/** What the engine reports about one request. Exactly one terminal event (`finish` or `error`) per request. */
export type SequenceEvent =
  | {
      readonly kind: 'admitted';
      readonly id: number;
      readonly atMs: number;
      readonly servedBy: ServedBy;
      /** Prompt tokens whose KV was there already. */
      readonly cachedTokens: number;
    }
  /**
   * Instead of `admitted`, at most once: the prompt was made with another `textDigest` than this text's. The adapter is
   * held until the request is submitted again under the same id, or aborted.
   */
  | { readonly kind: 'text'; readonly id: number; readonly text: AdapterText | null }
  /** Before the first token, when asked for. */
  | { readonly kind: 'prompt'; readonly id: number; readonly prompt: PromptLogprobs }
  | {
      readonly kind: 'token';
      readonly id: number;
      readonly token: number;
      readonly logprob: number;
      readonly top: TopLogprobs | null;
      /** It came from the step of the token before it, which had guessed that one. */
      readonly speculated: boolean;
    }
  | { readonly kind: 'finish'; readonly id: number; readonly reason: 'length' | 'eos_token' }
  | { readonly kind: 'error'; readonly id: number; readonly error: import('./errors.js').ErrorRecord };
