import { createHash } from 'node:crypto';
import { rm } from 'node:fs/promises';
import type { TierInfo } from '../../core/adapter.js';
import type { FetchableSource, FetchedFile, HostRules } from '../../core/adapter-fetch.js';
import { describeSource, type RemoteSource, type UploadSource } from '../../core/adapter-source.js';
import { type ErrorCode, LoramuxError, toLoramuxError } from '../../core/errors.js';
import type { Telemetry } from '../../core/telemetry.js';
import { type Deferred, deferred } from '../deferred.js';
import { adapterDigest } from '../digest.js';
import type { DiskTier, KnownCopy } from './disk-tier.js';
import type { FetchJob } from './fetcher.js';
import { requireListed } from './guarded-http.js';
import type { LocalCopy, OpenRequest, RemoteSources } from './remote-sources.js';

/** Fetches at a time; further ones wait. */
const MAX_FETCHES = 4;
const COMMIT = /^[0-9a-f]{40}$/;

/** Carries out fetches, in this thread or another. */
export interface FetchBackend {
  fetch(job: FetchJob): Promise<readonly FetchedFile[]>;
  close(): Promise<void>;
}

export interface SourceFetcherOptions {
  readonly disk: DiskTier;
  readonly backend: FetchBackend;
  readonly rules: HostRules;
  /** Serve hub adapters from what was fetched before, and ask the hub nothing. */
  readonly hubOffline: boolean;
  readonly emit: (fact: Telemetry) => void;
}

/** A fetch that succeeded. */
interface Landed {
  readonly copy: LocalCopy;
  readonly files: readonly FetchedFile[];
}

interface Flight {
  readonly controller: AbortController;
  readonly waiters: Set<Deferred<LocalCopy> & Pick<OpenRequest, 'onProgress'>>;
}

/** Remote sources on the disk tier: each is fetched by one fetch at a time, whoever asks for it meanwhile. */
export class SourceFetcher implements RemoteSources {
  readonly #options: SourceFetcherOptions;
  readonly #flights = new Map<string, Flight>();
  readonly #queue: (() => void)[] = [];
  #running = 0;

  constructor(options: SourceFetcherOptions) {
    this.#options = options;
  }

  keepUploads(isNamed: (digest: string) => boolean): void {
    this.#options.disk.keepUploads(isNamed);
  }

  async admit(source: RemoteSource): Promise<RemoteSource> {
    if (source.type === 'http') requireListed(new URL(source.location), this.#options.rules);
    if (source.type !== 'upload' || source.received === null) return source;
    const { directory, bytes } = source.received;
    const copy = await this.#options.disk.adopt(directory, source.location, bytes);
    copy.release();
    return { ...source, received: null };
  }

  async open(source: RemoteSource, request: OpenRequest): Promise<LocalCopy> {
    if (source.type === 'upload') return this.#openUpload(source);
    const key = keyOf(source);
    const known = await this.#options.disk.find(key);
    if (known !== null && !this.#mustAsk(source, request)) {
      const copy = await this.#options.disk.hold(known.digest);
      if (copy !== null) {
        this.#options.emit({ kind: 'disk-lookup', result: 'hit' });
        return copy;
      }
    }
    this.#options.emit({ kind: 'disk-lookup', result: 'miss' });
    if (source.type === 'hub' && this.#options.hubOffline) {
      throw new LoramuxError(
        'ERR_ADAPTER_NOT_FOUND',
        `${describeSource(source)} was not fetched before and the hub is switched off: go online once, or load a directory`,
      );
    }
    request.signal.throwIfAborted();
    return this.#join(this.#flights.get(key) ?? this.#depart(key, source, known), request);
  }

  discard(digest: string): Promise<void> {
    return this.#options.disk.discard(digest);
  }

  tier(): TierInfo {
    return this.#options.disk.tier();
  }

  async close(): Promise<void> {
    for (const flight of this.#flights.values()) flight.controller.abort();
    await this.#options.backend.close();
  }

  async #openUpload({ location }: UploadSource): Promise<LocalCopy> {
    const copy = await this.#options.disk.hold(location);
    this.#options.emit({ kind: 'disk-lookup', result: copy === null ? 'miss' : 'hit' });
    if (copy !== null) return copy;
    throw new LoramuxError(
      'ERR_ADAPTER_NOT_FOUND',
      `the uploaded files of upload:${location} are no longer on the disk: upload them again`,
    );
  }

  /** A commit never changes. Other sources are asked when an operator loads, and when nothing is here. */
  #mustAsk(source: FetchableSource, { refresh }: OpenRequest): boolean {
    if (source.type === 'hub' && (this.#options.hubOffline || COMMIT.test(source.revision))) return false;
    return refresh;
  }

  async #join(flight: Flight, { signal, onProgress }: OpenRequest): Promise<LocalCopy> {
    const waiter = { ...deferred<LocalCopy>(), onProgress };
    const leave = (): void => {
      if (!flight.waiters.delete(waiter)) return;
      waiter.reject(toLoramuxError(signal.reason, 'ERR_ABORTED'));
      if (flight.waiters.size === 0) flight.controller.abort();
    };
    flight.waiters.add(waiter);
    signal.addEventListener('abort', leave, { once: true });
    try {
      return await waiter.promise;
    } finally {
      signal.removeEventListener('abort', leave);
    }
  }

  #depart(key: string, source: FetchableSource, known: KnownCopy | null): Flight {
    const flight: Flight = { controller: new AbortController(), waiters: new Set() };
    this.#flights.set(key, flight);
    const land = (): void => {
      if (this.#flights.get(key) === flight) this.#flights.delete(key);
    };
    // Nobody may join what is being ended.
    flight.controller.signal.addEventListener('abort', land, { once: true });
    void this.#reported(source, known, () => this.#fly(key, source, known, flight)).then(
      ({ copy }) => {
        land();
        for (const waiter of flight.waiters) waiter.resolve(this.#options.disk.retain(copy.digest));
        flight.waiters.clear();
        copy.release();
      },
      (thrown: unknown) => {
        land();
        for (const waiter of flight.waiters) waiter.reject(toLoramuxError(thrown, 'ERR_ADAPTER_SOURCE'));
        flight.waiters.clear();
      },
    );
    return flight;
  }

  /** `fly`, told as a fact when it ends. */
  async #reported(source: FetchableSource, known: KnownCopy | null, fly: () => Promise<Landed>): Promise<Landed> {
    const startedMs = performance.now();
    const report = (code: ErrorCode | null, bytes: number): void => {
      const seconds = (performance.now() - startedMs) / 1000;
      this.#options.emit({ kind: 'adapter-fetch', source: source.type, code, seconds, bytes });
    };
    try {
      const landed = await fly();
      report(null, newBytes(landed.files, known?.files ?? []));
      return landed;
    } catch (thrown) {
      report(toLoramuxError(thrown, 'ERR_ADAPTER_SOURCE').code, 0);
      throw thrown;
    }
  }

  async #fly(key: string, source: FetchableSource, known: KnownCopy | null, flight: Flight): Promise<Landed> {
    const { disk, backend } = this.#options;
    await this.#takeTurn();
    const directory = disk.newIncoming();
    // The files that a new fetch may link to must not go meanwhile.
    const previous = known === null ? null : await disk.hold(known.digest);
    try {
      const files = await backend.fetch({
        source,
        directory,
        previous: previous === null || known === null ? null : { directory: known.directory, files: known.files },
        signal: flight.controller.signal,
        onProgress: (progress) => {
          for (const waiter of flight.waiters) waiter.onProgress(progress);
        },
      });
      const digest = adapterDigest(files);
      const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
      const copy = await disk.adopt(directory, digest, bytes);
      await disk.remember(key, digest, files);
      return { copy, files };
    } finally {
      previous?.release();
      await rm(directory, { recursive: true, force: true });
      this.#endTurn();
    }
  }

  async #takeTurn(): Promise<void> {
    if (this.#running < MAX_FETCHES) {
      this.#running += 1;
      return;
    }
    await new Promise<void>((resolve) => this.#queue.push(resolve));
  }

  #endTurn(): void {
    const next = this.#queue.shift();
    if (next === undefined) this.#running -= 1;
    else next();
  }
}

/** Bytes of the files that an earlier fetch did not leave here. */
function newBytes(files: readonly FetchedFile[], before: readonly FetchedFile[]): number {
  const had = new Set(before.map(({ path, sha256 }) => `${path} ${sha256}`));
  return files.reduce((sum, { path, sha256, bytes }) => sum + (had.has(`${path} ${sha256}`) ? 0 : bytes), 0);
}

/** Names a source on the disk. What a token opened is found with that token only. */
function keyOf(source: FetchableSource): string {
  const token = source.type === 's3' ? null : source.token;
  const secret = token === null ? null : createHash('sha256').update(token).digest('hex');
  const revision = source.type === 'hub' ? source.revision : null;
  return createHash('sha256')
    .update(JSON.stringify([source.type, source.location, revision, secret]))
    .digest('hex');
}
