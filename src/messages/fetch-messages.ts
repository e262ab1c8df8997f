import type { FetchableSource, FetchedFile, PreviousFetch } from '../core/adapter-fetch.js';
import type { FetchProgress } from '../core/adapter-source.js';
import type { ErrorRecord } from '../core/errors.js';

/** Everything that crosses between the engine worker and the fetch worker: plain data. */

export type ToFetchWorker =
  | {
      readonly type: 'fetch';
      readonly id: number;
      readonly source: FetchableSource;
      /** Where the files go; created if it is not there. */
      readonly directory: string;
      readonly previous: PreviousFetch | null;
    }
  | { readonly type: 'abort'; readonly id: number };

export type FromFetchWorker =
  | { readonly type: 'progress'; readonly id: number; readonly progress: FetchProgress }
  | { readonly type: 'done'; readonly id: number; readonly files: readonly FetchedFile[] }
  | { readonly type: 'failed'; readonly id: number; readonly error: ErrorRecord };
