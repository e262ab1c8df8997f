/** Messages of proto/loramux/v1 as they arrive: what is not set is absent. */

export interface GenerateRequestMessage {
  readonly model?: string;
  /** At most one of `prompt` and `tokenIds`. */
  readonly prompt?: string;
  readonly tokenIds?: { readonly ids: readonly number[] };
  readonly sampling?: SamplingMessage;
  readonly stopping?: StoppingMessage;
  readonly output?: OutputMessage;
  readonly constraint?: ConstraintMessage;
  readonly adapters: readonly { readonly name?: string; readonly weight?: number }[];
  readonly cacheSalt?: string;
}

export interface SamplingMessage {
  readonly temperature?: number;
  readonly topP?: number;
  readonly topK?: number;
  readonly minP?: number;
  readonly typicalP?: number;
  readonly repetitionPenalty?: number;
  readonly presencePenalty?: number;
  readonly frequencyPenalty?: number;
  /** Unsigned 64-bit, decimal. */
  readonly seed?: string;
  readonly n?: number;
  readonly logitBias?: Readonly<Record<string, number>>;
}

export interface StoppingMessage {
  readonly maxTokens?: number;
  readonly minTokens?: number;
  readonly stop: readonly string[];
  readonly stopTokenIds: readonly number[];
  readonly ignoreEos?: boolean;
  readonly includeStop?: boolean;
}

export interface OutputMessage {
  readonly tokenIds?: boolean;
  readonly logprobs?: number;
  readonly promptLogprobs?: number;
  readonly specialTokens?: boolean;
}

/** At most one is set. */
export interface ConstraintMessage {
  readonly jsonSchema?: string;
  readonly jsonObject?: boolean;
  readonly regex?: string;
  readonly choice?: { readonly choices: readonly string[] };
  readonly grammar?: string;
}

export interface TokenizeRequestMessage {
  readonly text?: string;
  readonly addSpecialTokens?: boolean;
}

export interface LoadAdapterMessage {
  readonly name?: string;
  readonly source?: string;
  readonly location?: string;
  readonly revision?: string;
  readonly pin?: boolean;
  readonly replace?: boolean;
  readonly dryRun?: boolean;
  readonly noWait?: boolean;
}

export interface UnloadAdapterMessage {
  readonly name?: string;
  readonly force?: boolean;
}

export interface ListAdaptersMessage {
  readonly pageSize?: number;
  readonly pageToken?: string;
}

export interface WatchAdaptersMessage {
  readonly names: readonly string[];
}
