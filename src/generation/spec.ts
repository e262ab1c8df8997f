import type { Chat } from '../chat/chat-template.js';
import type { RemoteSource } from '../core/adapter-source.js';
import type { Caller } from '../core/caller.js';
import type { Composition } from '../core/composition.js';
import type { Constraint } from '../core/constraint.js';
import {
  type FinishReason,
  type LogprobOptions,
  PLAIN_REQUEST,
  type SamplingParams,
  type ServedBy,
} from '../core/request.js';

/** A prompt as it came: text for the tokenizer, ids that are its work already, or a conversation. */
export type Prompt =
  /** `addSpecialTokens`: let the tokenizer add its beginning-of-text token; false for text made by a chat template. */
  | { readonly text: string; readonly addSpecialTokens: boolean }
  | { readonly ids: Uint32Array }
  /** Rendered by the chat template of the model that answers. */
  | { readonly chat: Chat; readonly addSpecialTokens: boolean };

/** A validated generation as any surface (REST, WebSocket, gRPC) asks for it. */
export interface GenerationSpec {
  /** Route pattern or call name: a label of metrics, never user text. */
  readonly route: string;
  /** Adapter name, or `__base__`; of a composition the names of its members, joined by commas. */
  readonly adapter: string;
  readonly composition?: Composition;
  /** As in GenerateRequest. */
  readonly adapterSources?: ReadonlyMap<string, RemoteSource>;
  /** Who asks: `request.caller` of HTTP routes. */
  readonly caller: Caller;
  readonly prompt: Prompt;
  /** Keep only n prompt tokens; null = keep all. */
  readonly truncate: number | null;
  /** Where a truncated prompt loses its tokens: at its beginning or its end. */
  readonly truncateSide: 'left' | 'right';
  /** null = up to the model length. */
  readonly maxNewTokens: number | null;
  /** Strings that end the generation wherever they appear; none is empty. */
  readonly stop: readonly string[];
  /** The stop string stays at the end of the text. */
  readonly includeStop: boolean;
  readonly ignoreEos: boolean;
  /** Ids that end the generation beside the model's own. */
  readonly stopTokenIds: readonly number[];
  /** EOS and `stopTokenIds` are not sampled before this many tokens. */
  readonly minNewTokens: number;
  /** Leave special tokens out of the text. */
  readonly skipSpecialTokens: boolean;
  readonly sampling: SamplingParams;
  /** As in GenerateRequest, as are the fields below. */
  readonly choice: number;
  readonly constraint: Constraint | null;
  readonly logprobs: LogprobOptions | null;
  readonly promptLogprobs: { readonly top: number } | null;
  readonly cacheSalt: string | null;
}

/** The fields of a spec that most leave as they are; `caller` is never among them. */
export const PLAIN_SPEC = {
  truncate: null,
  truncateSide: 'left',
  stop: [],
  includeStop: true,
  ignoreEos: false,
  stopTokenIds: [],
  skipSpecialTokens: true,
  ...PLAIN_REQUEST,
} as const satisfies Partial<GenerationSpec>;

/** One generated token as users see it. */
export interface GeneratedToken {
  readonly id: number;
  /** Decoded in context with special tokens shown; `''` while a character is incomplete; cut after a stop string. */
  readonly text: string;
  readonly special: boolean;
  /** NaN unless the spec asks for it. */
  readonly logprob: number;
  /** Likeliest tokens of the position, as many as the spec asks for. */
  readonly top: readonly AlternativeToken[];
  /** A right guess made a step of its own needless. */
  readonly speculated: boolean;
}

/** A token that could have come in a place. */
export interface AlternativeToken {
  readonly id: number;
  /** Decoded on its own, special tokens shown. */
  readonly text: string;
  readonly logprob: number;
}

/** A token of the prompt, when the spec asks for its log-probability. */
export interface PromptToken extends AlternativeToken {
  /** Likeliest tokens of the position; empty for the first, whose `logprob` is NaN. */
  readonly top: readonly AlternativeToken[];
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
  /** The stop string or the one of `stopTokenIds` that ended it; null for the end token and for `length`. */
  readonly stop: string | number | null;
  /** All text deltas joined: special tokens skipped, nothing after a stop string. */
  readonly text: string;
  readonly promptTokens: number;
  /** Those of them whose KV was there already. */
  readonly cachedTokens: number;
  readonly generatedTokens: number;
  /** Those of them that took no step of their own. */
  readonly speculatedTokens: number;
  readonly servedBy: ServedBy;
  readonly times: GenerationTimes;
}

/**
 * What a generation yields, in order. The last token comes with `finish`, because only then its text is certain; it is
 * null when the prompt was only scored. `finish` or a thrown LoramuxError is the one terminal outcome.
 */
export type GenerationEvent =
  | { readonly kind: 'admitted'; readonly servedBy: ServedBy }
  /** Before the first token, when the spec asks for `promptLogprobs`. */
  | { readonly kind: 'prompt'; readonly tokens: readonly PromptToken[] }
  | { readonly kind: 'token'; readonly token: GeneratedToken; readonly delta: string }
  | {
      readonly kind: 'finish';
      readonly token: GeneratedToken | null;
      readonly delta: string;
      readonly result: GenerationResult;
    };
