import type { TierInfo } from '../../core/adapter.js';
import type { FetchProgress, RemoteSource } from '../../core/adapter-source.js';

/** A complete copy of an adapter's files on this machine; it is not deleted before `release`. */
export interface LocalCopy {
  /** Absolute, below `root`. */
  readonly directory: string;
  readonly root: string;
  /** Of the files as they were when they arrived. */
  readonly digest: string;
  release(): void;
}

export interface OpenRequest {
  /** Ask the source whether it has moved on; false takes the copy that is there, if there is one. */
  readonly refresh: boolean;
  /** Ends the fetch, unless others wait for it too. */
  readonly signal: AbortSignal;
  readonly onProgress: (progress: FetchProgress) => void;
}

/** Brings adapters that are not directories of this machine to it. */
export interface RemoteSources {
  /**
   * Refuses what may never be fetched, and takes over received files; returns the source to remember.
   * ERR_ADAPTER_FORBIDDEN, ERR_ADAPTER_NO_SPACE.
   */
  admit(source: RemoteSource): Promise<RemoteSource>;
  /**
   * A local copy of the source. Errors: ERR_ADAPTER_FORBIDDEN, ERR_ADAPTER_NOT_FOUND, ERR_ADAPTER_INVALID,
   * ERR_ADAPTER_TOO_LARGE, ERR_ADAPTER_NO_SPACE, ERR_ADAPTER_SOURCE, ERR_ADAPTER_SOURCE_TIMEOUT, ERR_ABORTED.
   */
  open(source: RemoteSource, request: OpenRequest): Promise<LocalCopy>;
  /** Deletes a copy that turned out to be damaged. */
  discard(digest: string): Promise<void>;
  /** `isNamed` tells the uploads (by digest) that a name still stands for: nobody else has them. */
  keepUploads(isNamed: (digest: string) => boolean): void;
  /** Bytes of the disk tier. */
  tier(): TierInfo;
  close(): Promise<void>;
}
