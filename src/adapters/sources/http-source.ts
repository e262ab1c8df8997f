import type { IncomingMessage } from 'node:http';
import type { HttpSource } from '../../core/adapter-source.js';
import { ADAPTER_FILES, CONFIG_FILE, PICKLE_FILE, WEIGHTS_FILE } from '../adapter-directory.js';
import {
  ask,
  download,
  type FetchContext,
  type NoBytes,
  type OpenedFile,
  type OpenFile,
  type ResumePoint,
} from './download.js';
import { AttemptFailure, noAdapterAt, statusFailure } from './fetch-errors.js';
import type { GuardedHttp } from './guarded-http.js';
import type { ByteSink } from './incoming-directory.js';
import { TarSink } from './tar-sink.js';

/** True for a URL of one archive instead of a directory. */
function isArchive(url: URL): boolean {
  return url.pathname.toLowerCase().endsWith('.tar');
}

/** The address of a file in the directory that `base` names; its query stays. */
function fileIn(base: URL, name: string): URL {
  const url = new URL(base.href);
  url.pathname = `${url.pathname.replace(/\/+$/, '')}/${name}`;
  return url;
}

/** Strong ETags name bytes; weak ones do not. */
function strongTag({ headers }: IncomingMessage): string | null {
  const { etag } = headers;
  return etag?.startsWith('"') === true ? etag : null;
}

/** First byte and whole length of a 206 reply. */
function rangeOf({ headers }: IncomingMessage): { first: number; total: number } | null {
  const match = /^bytes (\d{1,15})-\d{1,15}\/(\d{1,15})$/.exec(headers['content-range'] ?? '');
  return match === null ? null : { first: Number(match[1]), total: Number(match[2]) };
}

function lengthOf({ headers }: IncomingMessage): number | null {
  const length = headers['content-length'];
  return length !== undefined && /^\d{1,15}$/.test(length) ? Number(length) : null;
}

/** Fetches adapters from web servers: a directory by the names of its files, or a tar archive. */
export class HttpFetcher {
  constructor(private readonly http: GuardedHttp) {}

  /** Fills the incoming directory. Errors: those of `download`, ERR_ADAPTER_FORBIDDEN, ERR_ADAPTER_NOT_FOUND. */
  async fetch(source: HttpSource, context: FetchContext): Promise<void> {
    const url = new URL(source.location);
    if (isArchive(url)) await this.#archive(url, source.token, context);
    else await this.#directory(url, source.token, context);
  }

  async #archive(url: URL, token: string | null, context: FetchContext): Promise<void> {
    const { incoming } = context;
    const known = incoming.previous?.files[0]?.validator ?? null;
    const found = await this.#resource(url, 'archive', token, known, context, {
      makeSink: async () => new TarSink(incoming),
      reuse: () => incoming.reuseAll(known),
    });
    if (!found) throw noAdapterAt(incoming.label, 'a tar archive');
  }

  async #directory(base: URL, token: string | null, context: FetchContext): Promise<void> {
    const { incoming } = context;
    for (const name of ADAPTER_FILES) {
      const known = incoming.previous?.files.find((file) => file.path === name)?.validator ?? null;
      const found = await this.#resource(fileIn(base, name), name, token, known, context, {
        makeSink: () => incoming.file(name),
        reuse: () => incoming.reuse(name, known),
      });
      if (found) continue;
      if (name === CONFIG_FILE) throw noAdapterAt(incoming.label, CONFIG_FILE);
      if (name !== WEIGHTS_FILE) continue;
      incoming.requireComplete(await this.#exists(fileIn(base, PICKLE_FILE), token, context));
    }
  }

  /** One file or archive, from the copy that is here if the server says that it is current; false when there is none. */
  async #resource(
    url: URL,
    name: string,
    token: string | null,
    known: string | null,
    context: FetchContext,
    { makeSink, reuse }: { makeSink: () => Promise<ByteSink>; reuse: () => Promise<boolean> },
  ): Promise<boolean> {
    const outcome = await download(context, name, this.#opener(url, token, known), makeSink);
    if (outcome !== 'unchanged') return outcome === 'fetched';
    if (await reuse()) return true;
    return (await download(context, name, this.#opener(url, token, null), makeSink)) === 'fetched';
  }

  #exists(url: URL, token: string | null, context: FetchContext): Promise<boolean> {
    return ask(context, async (signal) => {
      const response = await this.http.request(url, { method: 'HEAD', headers: {}, token, signal });
      response.destroy();
      return response.statusCode === 200;
    });
  }

  /** `known` is the validator of a copy that is here, or null to have the bytes in any case. */
  #opener(url: URL, token: string | null, known: string | null): OpenFile {
    return async (from, signal) => {
      const condition = from === null ? (known === null ? {} : { 'if-none-match': known }) : resumeHeaders(from);
      const response = await this.http.request(url, { method: 'GET', headers: condition, token, signal });
      try {
        return openedBy(response, from);
      } catch (thrown) {
        response.destroy();
        throw thrown;
      }
    };
  }
}

function resumeHeaders({ offset, validator }: ResumePoint): Record<string, string> {
  return { range: `bytes=${offset}-`, 'if-range': validator };
}

function openedBy(response: IncomingMessage, from: ResumePoint | null): OpenedFile | NoBytes {
  const { statusCode = 0, headers } = response;
  if (statusCode === 404 || statusCode === 410 || statusCode === 304) {
    response.destroy();
    return statusCode === 304 ? 'unchanged' : 'missing';
  }
  const coding = headers['content-encoding'] ?? 'identity';
  if (coding !== 'identity')
    throw new AttemptFailure(`it sends ${coding} where plain bytes were asked`, 'failed', false);
  const validator = strongTag(response);
  if (statusCode === 206 && from !== null) {
    const range = rangeOf(response);
    if (range?.first !== from.offset || (validator !== null && validator !== from.validator)) {
      throw new AttemptFailure('it resumes somewhere else than asked', 'failed', false);
    }
    return { stream: response, bytes: range.total, resumed: true, validator: from.validator, isResumable: true };
  }
  if (statusCode !== 200) throw statusFailure(statusCode);
  const isResumable = validator !== null && headers['accept-ranges'] === 'bytes';
  return { stream: response, bytes: lengthOf(response), resumed: false, validator, isResumable };
}
