import type { ReadText, TextFile } from '../core/adapter-text.js';
import type { ErrorRecord } from '../core/errors.js';
import type { SpecialTokens } from '../core/tokenizer-config.js';

/** What the text worker is started with: the base, and where its tokenizer lies. */
export interface TextStart {
  readonly tokenizerPath: string;
  readonly template: string | null;
  readonly specialTokens: SpecialTokens;
  readonly eosTokenIds: readonly number[];
  readonly vocabSize: number;
  readonly tokenCount: number;
}

export interface ToTextWorker {
  readonly id: number;
  /** Directory of the adapter, for messages. */
  readonly place: string;
  readonly files: readonly TextFile[];
}

export type FromTextWorker =
  | { readonly type: 'done'; readonly id: number; readonly read: ReadText }
  | { readonly type: 'failed'; readonly id: number; readonly error: ErrorRecord };
