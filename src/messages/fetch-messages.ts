import type { FetchLimits } from '../adapters/sources/fetch-limits.js';
import type { HostRules } from '../adapters/sources/host-rules.js';
import type { HubAccess } from '../adapters/sources/hub-source.js';
import type { FetchedFile, PreviousFetch } from '../adapters/sources/incoming-directory.js';
import type { FetchProgress, RemoteSource, UploadSource } from '../core/adapter-source.js';
import type { ErrorRecord } from '../core/errors.js';

/** Everything that crosses between the engine worker and the fetch worker: plain data. */

export type FetchableSource = Exclude<RemoteSource, UploadSource>;

/** What the fetch worker is started with. */
export interface FetchWorkerStart {
  readonly limits: FetchLimits;
  readonly rules: HostRules;
  readonly hub: HubAccess;
  readonly s3Endpoint: string | null;
}

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
