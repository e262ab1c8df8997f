import type { FetchableSource, FetchedFile, FetchSettings, PreviousFetch } from '../../core/adapter-fetch.js';
import { describeSource, type FetchProgress } from '../../core/adapter-source.js';
import { LoramuxError } from '../../core/errors.js';
import type { FetchContext } from './download.js';
import { AttemptFailure, failureOf, sourceFailure } from './fetch-errors.js';
import { GuardedHttp, type Resolve } from './guarded-http.js';
import { HttpFetcher } from './http-source.js';
import { HubFetcher } from './hub-source.js';
import { IncomingDirectory } from './incoming-directory.js';
import { S3Fetcher } from './s3-source.js';

export interface FetchJob {
  readonly source: FetchableSource;
  readonly directory: string;
  readonly previous: PreviousFetch | null;
  readonly signal: AbortSignal;
  readonly onProgress: (progress: FetchProgress) => void;
}

/** Brings the files of any source that is not on this machine into a directory. */
export class Fetcher {
  readonly #start: FetchSettings;
  readonly #hub: HubFetcher;
  readonly #s3: S3Fetcher;
  readonly #http: HttpFetcher;

  /** `resolve` looks names up; the system's resolver by default. */
  constructor(start: FetchSettings, resolve?: Resolve) {
    this.#start = start;
    this.#hub = new HubFetcher(start.hub);
    this.#s3 = new S3Fetcher(start.s3Endpoint);
    this.#http = new HttpFetcher(new GuardedHttp(start.rules, resolve));
  }

  /**
   * The files that were fetched. Errors: ERR_ADAPTER_FORBIDDEN, ERR_ADAPTER_NOT_FOUND, ERR_ADAPTER_INVALID,
   * ERR_ADAPTER_TOO_LARGE, ERR_ADAPTER_NO_SPACE, ERR_ADAPTER_SOURCE, ERR_ADAPTER_SOURCE_TIMEOUT; ERR_ABORTED by
   * `signal`. What is in the directory then is for the caller to delete.
   */
  async fetch({ source, directory, previous, signal, onProgress }: FetchJob): Promise<readonly FetchedFile[]> {
    const { limits } = this.#start;
    const label = describeSource(source);
    const late = new AbortController();
    const timer = setTimeout(() => {
      late.abort(new AttemptFailure(`it took longer than ${limits.totalMs / 1000} s`, 'timeout', false));
    }, limits.totalMs);
    const incoming = new IncomingDirectory(directory, label, limits, previous);
    const context = { incoming, onProgress, signal: AbortSignal.any([signal, late.signal]) };
    try {
      await incoming.create();
      await this.#from(source, context);
      return incoming.files;
    } catch (thrown) {
      if (signal.aborted) throw new LoramuxError('ERR_ABORTED', `${label}: nobody waits for it any more`);
      const failure = late.signal.aborted ? (late.signal.reason as AttemptFailure) : failureOf(thrown);
      throw failure instanceof AttemptFailure ? sourceFailure(label, failure, thrown) : failure;
    } finally {
      clearTimeout(timer);
    }
  }

  async close(): Promise<void> {}

  #from(source: FetchableSource, context: FetchContext): Promise<void> {
    switch (source.type) {
      case 'hub':
        return this.#hub.fetch(source, context);
      case 's3':
        return this.#s3.fetch(source, context);
      case 'http':
        return this.#http.fetch(source, context);
    }
  }
}
