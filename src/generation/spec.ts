import type { Composition } from '../core/composition.js';
import type { FinishReason, SamplingParams, ServedBy } from '../core/request.js';

/** A validated generation as any surface (REST, WebSocket, gRPC) asks for it. */
export interface GenerationSpec {
  /** Route pattern or call name: a label of metrics, never user text. */
  readonly route: string;
  /** Adapter name, or `__base__`; of a composition the names of its members, joined by commas. */
  readonly adapter: string;
  readonly composition?: Composition;
  readonly prompt: string;
  /** Let the tokenizer add its beginning-of-text token; false for text made by a chat template. */
  readonly addSpecialTokens: boolean;
  /** Keep only the last n prompt tokens; null = keep all. */
  readonly truncate: number | null;
  /** null = up to the model length. */
  readonly maxNewTokens: number | null;
  /** Strings that end the generation wherever they appear; none is empty. */
  readonly stop: readonly string[];
  /** The stop string stays at the end of the text. */
  readonly includeStop: boolean;
  readonly ignoreEos: boolean;
  readonly sampling: SamplingParams;
  readonly logprobs: boolean;
}

/** One generated token as users see it. */
export interface GeneratedToken {
  readonly id: number;
  /** Decoded in context with special tokens shown; `''` while a character is incomplete; cut after a stop string. */
  readonly text: string;
  readonly special: boolean;
  /** NaN unless the spec asks for it. */
  readonly logprob: number;
}

/** Moments of one generation, in milliseconds of the main thread's clock; null = not reached. */
export interface GenerationTimes {
  readonly receivedMs: number;
  readonly submittedMs: number;
  readonly admittedMs: number | null;
  readonly firstTokenMs: number | null;
  readonly endedMs: number;
}

export interface GenerationResult {
  readonly reason: FinishReason;
  /** All text deltas joined: special tokens skipped, nothing after a stop string. */
  readonly text: string;
  readonly promptTokens: number;
  readonly generatedTokens: number;
  readonly servedBy: ServedBy;
  readonly times: GenerationTimes;
}

/**
 * What a generation yields, in order. The last token comes with `finish`, because only then its text is certain.
 * `finish` or a thrown LoramuxError is the one terminal outcome.
 */
export type GenerationEvent =
  | { readonly kind: 'admitted'; readonly servedBy: ServedBy }
  | { readonly kind: 'token'; readonly token: GeneratedToken; readonly delta: string }
  | {
      readonly kind: 'finish';
      readonly token: GeneratedToken;
      readonly delta: string;
      readonly result: GenerationResult;
    };
