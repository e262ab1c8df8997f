import { Readable } from 'node:stream';
import type { ReadableStream } from 'node:stream/web';
import type { HubAccess } from '../../core/adapter-fetch.js';
import type { HubSource } from '../../core/adapter-source.js';
import { ADAPTER_FILES, CONFIG_FILE, PICKLE_FILE } from '../adapter-directory.js';
import { ask, download, type FetchContext, type OpenFile } from './download.js';
import { AttemptFailure, noAdapterAt, statusFailure } from './fetch-errors.js';

type HubLibrary = typeof import('@huggingface/hub');

/** One file of the repository at the commit. */
interface Listed {
  readonly name: string;
  readonly bytes: number;
  /** Git or LFS object id. */
  readonly id: string;
  /** Known for LFS files. */
  readonly sha256: string | null;
}

/** Fetches adapters from a model hub. */
export class HubFetcher {
  constructor(private readonly access: HubAccess) {}

  /** Fills the incoming directory from the commit that the revision stands for now. Errors: those of `download`. */
  async fetch(source: HubSource, context: FetchContext): Promise<void> {
    const { incoming } = context;
    // Loaded on demand: most servers fetch from one kind of source.
    const library = await import('@huggingface/hub');
    const repository = new Repository(library, source, this.access, context);
    const listed = await repository.list();
    if (!listed.has(CONFIG_FILE)) throw noAdapterAt(incoming.label, CONFIG_FILE);
    for (const name of ADAPTER_FILES) {
      const file = listed.get(name);
      if (file === undefined || (await incoming.reuse(name, file.id))) continue;
      incoming.announce(name, file.bytes);
      if ((await download(context, name, repository.opener(file), () => incoming.file(name))) !== 'fetched') {
        throw new AttemptFailure(`it lists ${name} and does not serve it`, 'failed', false);
      }
      const sha256 = incoming.files.find(({ path }) => path === name)?.sha256;
      if (file.sha256 !== null && sha256 !== file.sha256) {
        throw new AttemptFailure(`${name} has SHA-256 ${sha256}, it lists ${file.sha256}`, 'failed', false);
      }
    }
    incoming.requireComplete(listed.has(PICKLE_FILE));
  }
}

class Repository {
  #commit = '';

  constructor(
    private readonly library: HubLibrary,
    private readonly source: HubSource,
    private readonly access: HubAccess,
    private readonly context: FetchContext,
  ) {}

  /** Resolves the revision and lists the top-level files. */
  list(): Promise<Map<string, Listed>> {
    const { location, revision } = this.source;
    return ask(this.context, async (signal) => {
      try {
        const params = this.#params(signal);
        const { sha } = await this.library.modelInfo({
          name: location,
          revision,
          additionalFields: ['sha'],
          ...params,
        });
        if (!/^[0-9a-f]{40}$/.test(sha)) throw new AttemptFailure('it names no commit', 'failed', false);
        this.#commit = sha;
        const files = new Map<string, Listed>();
        let seen = 0;
        for await (const entry of this.library.listFiles({ repo: location, revision: sha, ...params })) {
          seen += 1;
          if (seen > this.context.incoming.limits.maxFiles) {
            throw new AttemptFailure('the repository has too many files to be an adapter', 'failed', false);
          }
          const { path, size, type, lfs, oid } = entry;
          if (type !== 'file' || !(ADAPTER_FILES.includes(path) || path === PICKLE_FILE)) continue;
          files.set(path, { name: path, bytes: size, id: lfs?.oid ?? oid ?? sha, sha256: lfs?.oid ?? null });
        }
        return files;
      } catch (thrown) {
        throw this.#refine(thrown);
      }
    });
  }

  /** A commit never changes, so a download goes on wherever it broke off. */
  opener({ name, bytes, id }: Listed): OpenFile {
    return async (from, signal) => {
      try {
        const params = { repo: this.source.location, path: name, revision: this.#commit };
        const blob = await this.library.downloadFile({ ...params, ...this.#params(signal) });
        if (blob === null) return 'missing';
        const rest = from === null ? blob : blob.slice(from.offset, blob.size);
        const stream = Readable.fromWeb(rest.stream() as ReadableStream);
        return { stream, bytes, resumed: from !== null, validator: id, isResumable: true };
      } catch (thrown) {
        throw this.#refine(thrown);
      }
    };
  }

  #params(signal: AbortSignal) {
    const { endpoint } = this.access;
    const token = this.source.token ?? this.access.token;
    return {
      fetch: boundFetch(signal),
      ...(endpoint === null ? {} : { hubUrl: endpoint.replace(/\/+$/, '') }),
      ...(token === null ? {} : { accessToken: token }),
    };
  }

  /** The hub's errors by their status; their texts hold addresses that may be signed. */
  #refine(thrown: unknown): unknown {
    if (!(thrown instanceof this.library.HubApiError)) return thrown;
    if (thrown.statusCode === 404) return noAdapterAt(this.context.incoming.label, CONFIG_FILE);
    return statusFailure(thrown.statusCode);
  }
}

/** Node's fetch under one signal, which refuses a whole body where a part of it was asked. */
function boundFetch(signal: AbortSignal): typeof fetch {
  return async (input, init) => {
    const response = await fetch(input, { ...init, signal });
    const range = new Headers(init?.headers).get('range');
    const isPart = range !== null && range !== 'bytes=0-0';
    if (!isPart || response.status === 206 || !response.ok) return response;
    await response.body?.cancel();
    throw new AttemptFailure('it sends whole files where a part was asked', 'failed', false);
  };
}
