import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { pack } from 'tar-stream';
import { adapterDigest } from '../../../../src/adapters/digest.js';
import { Fetcher, type FetchJob } from '../../../../src/adapters/sources/fetcher.js';
import type { Resolve } from '../../../../src/adapters/sources/guarded-http.js';
import type { FetchedFile, FetchLimits, FetchSettings, HostRules } from '../../../../src/core/adapter-fetch.js';
import { type LocalServer, rangeOf, startServer } from '../../../helpers/local-server.js';
import { temporaryDirectory, writeAdapter } from '../support.js';

export const CONFIG = 'adapter_config.json';
export const WEIGHTS = 'adapter_model.safetensors';

/** Small and impatient. */
export const LIMITS: FetchLimits = {
  maxBytes: 2 ** 20,
  maxFiles: 30,
  totalMs: 10_000,
  stallMs: 1_000,
  retry: { attempts: 3, firstDelayMs: 1, maxDelayMs: 4 },
};

export type Files = Readonly<Record<string, Uint8Array>>;

/** The files of an adapter that is large enough to break off in. */
export async function adapterFiles(t: TestContext, fill = 1, rank = 64): Promise<Files> {
  const directory = await temporaryDirectory(t);
  await writeAdapter(directory, { rank, fill });
  const files: Record<string, Uint8Array> = {};
  for (const name of await readdir(directory)) files[name] = await readFile(join(directory, name));
  return files;
}

/** The digest that the files must come to, wherever they came from. */
export function digestOf(files: Files): string {
  const digested = Object.entries(files).map(([path, bytes]) => ({
    path,
    bytes: bytes.byteLength,
    sha256: createHash('sha256').update(bytes).digest('hex'),
  }));
  return adapterDigest(digested);
}

export type Handler = (request: IncomingMessage, response: ServerResponse, bytes: Uint8Array, name: string) => boolean;

/** Strong ETag of some bytes. */
export function tagOf(bytes: Uint8Array): string {
  return `"${createHash('sha256').update(bytes).digest('hex').slice(0, 16)}"`;
}

/** Serves one file as a good server does: strong ETag, conditions, ranges. */
export function serveFile(request: IncomingMessage, response: ServerResponse, bytes: Uint8Array): void {
  const etag = tagOf(bytes);
  const headers = { etag, 'accept-ranges': 'bytes' };
  if (request.headers['if-none-match'] === etag) {
    response.writeHead(304, headers).end();
    return;
  }
  const range = rangeOf(request, bytes);
  const ifRange = request.headers['if-range'];
  if (range !== null && (ifRange === undefined || ifRange === etag)) {
    const contentRange = `bytes ${range.first}-${range.first + range.part.length - 1}/${bytes.length}`;
    response.writeHead(206, { ...headers, 'content-range': contentRange, 'content-length': range.part.length });
    response.end(range.part);
    return;
  }
  response.writeHead(200, { ...headers, 'content-length': bytes.length }).end(bytes);
}

/** Serves `files` below `/a/`; `odd` may answer instead, by returning true. */
export function startFiles(t: TestContext, files: Files, odd: Handler = () => false): Promise<LocalServer> {
  return startServer(t, (request, response) => {
    const { pathname } = new URL(request.url ?? '', 'http://local');
    const name = pathname.slice('/a/'.length);
    const bytes = files[name];
    if (odd(request, response, bytes ?? new Uint8Array(), name)) return;
    if (bytes === undefined) response.writeHead(404).end();
    else serveFile(request, response, bytes);
  });
}

/** Rules under which these servers may be asked although they are on loopback. */
export function allowing(...servers: readonly LocalServer[]): HostRules {
  return { hosts: [], privateHosts: servers.map(({ port }) => ({ host: '127.0.0.1', port })) };
}

export interface Rig {
  readonly directory: string;
  readonly fetch: (job: Pick<FetchJob, 'source'> & Partial<FetchJob>) => Promise<readonly FetchedFile[]>;
  /** Digest of what lies in `directory`. */
  readonly arrived: () => Promise<string>;
  readonly progress: { bytes: number; total: number | null }[];
}

/** A fetcher with a directory to fetch into. */
export async function fetchRig(t: TestContext, start: Partial<FetchSettings> = {}, resolve?: Resolve): Promise<Rig> {
  const defaults = { limits: LIMITS, rules: { hosts: [], privateHosts: [] }, hub: { endpoint: null, token: null } };
  const fetcher = new Fetcher({ ...defaults, s3Endpoint: null, ...start }, resolve);
  const directory = join(await temporaryDirectory(t), 'in');
  const progress: Rig['progress'] = [];
  return {
    directory,
    progress,
    fetch: (job) =>
      fetcher.fetch({
        directory,
        previous: null,
        signal: new AbortController().signal,
        onProgress: (each) => progress.push(each),
        ...job,
      }),
    arrived: async () => {
      const files: Record<string, Uint8Array> = {};
      for (const name of await readdir(directory)) files[name] = await readFile(join(directory, name));
      return digestOf(files);
    },
  };
}

/** A tar archive of these members. */
export async function tarOf(
  members: readonly (readonly [header: Parameters<ReturnType<typeof pack>['entry']>[0], content?: Uint8Array])[],
): Promise<Buffer> {
  const archive = pack({});
  for (const [header, content] of members) archive.entry(header, Buffer.from(content ?? []));
  archive.finalize();
  const chunks: Buffer[] = [];
  for await (const chunk of archive) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

/** A tar archive of the files of an adapter, in `folder` (empty, or ending in a slash). */
export function tarOfFiles(files: Files, folder = ''): Promise<Buffer> {
  return tarOf(Object.entries(files).map(([name, bytes]) => [{ name: `${folder}${name}` }, bytes]));
}
