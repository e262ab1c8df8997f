import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { TestContext } from 'node:test';
import { rangeOf } from '../../../helpers/local-server.js';

export interface HubDouble {
  readonly endpoint: string;
  /** Paths asked for, in order. */
  readonly requests: string[];
  /** First bytes of the parts that were served. */
  readonly parts: number[];
  /** Authorization headers of the requests, in order; '' where there was none. */
  readonly authorizations: string[];
}

export interface HubDoubleOptions {
  readonly repo: string;
  readonly commit: string;
  readonly files: Readonly<Record<string, Uint8Array>>;
  readonly token?: string;
  /** Replaces the body of one file, keeping what the listing says about it. */
  readonly tamper?: Readonly<Record<string, Uint8Array>>;
  /** Files whose first transfer is reset halfway. */
  readonly cut?: readonly string[];
  /** Revisions that exist; all by default. */
  readonly revisions?: readonly string[];
  /** Sizes that the listing says, where they are not those of the files. */
  readonly sizes?: Readonly<Record<string, number>>;
  /** Files of which only the first half ever comes. */
  readonly stall?: readonly string[];
  /** Whether parts of files are served; otherwise a request for one gets the whole. */
  readonly ranges?: boolean;
}

/** Serves one repository over the hub's model, tree and resolve endpoints; closes when the test ends. */
export async function startHub(context: TestContext, options: HubDoubleOptions): Promise<HubDouble> {
  const {
    repo,
    commit,
    files,
    token,
    tamper = {},
    cut = [],
    stall = [],
    sizes = {},
    revisions,
    ranges = true,
  } = options;
  const requests: string[] = [];
  const parts: number[] = [];
  const authorizations: string[] = [];
  const cuts = new Set(cut);
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url ?? '', 'http://hub');
    requests.push(pathname);
    authorizations.push(request.headers.authorization ?? '');
    const json = (status: number, body: unknown) =>
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    if (token !== undefined && request.headers.authorization !== `Bearer ${token}`)
      return json(401, { error: 'Unauthorized' });
    const asRevision = `/api/models/${repo}/revision/`;
    if (pathname.startsWith(asRevision)) {
      const revision = pathname.slice(asRevision.length);
      if (revisions?.includes(revision) === false) return json(404, { error: 'Revision not found' });
      return json(200, {
        _id: '1',
        id: repo,
        sha: commit,
        lastModified: '2020-01-01T00:00:00Z',
        likes: 0,
        downloads: 0,
      });
    }
    if (pathname === `/api/models/${repo}/tree/${commit}`) {
      return json(
        200,
        Object.entries(files).map(([path, bytes]) => {
          const size = sizes[path] ?? bytes.length;
          const oid = createHash('sha256').update(bytes).digest('hex');
          const lfs = path.endsWith('.safetensors') ? { lfs: { oid, size, pointerSize: 130 } } : {};
          return { type: 'file', path, size, oid: 'x', ...lfs };
        }),
      );
    }
    const name = pathname.slice(`/${repo}/resolve/${commit}/`.length);
    const bytes = tamper[name] ?? files[name];
    if (!pathname.startsWith(`/${repo}/resolve/${commit}/`) || bytes === undefined)
      return json(404, { error: 'Not found' });
    const headers = { etag: '"x"', 'accept-ranges': 'bytes' };
    const range = rangeOf(request, bytes);
    if (range !== null && range.part.length <= 1) {
      return response
        .writeHead(206, { ...headers, 'content-range': `bytes 0-0/${bytes.length}` })
        .end(bytes.subarray(0, 1));
    }
    if (stall.includes(name)) {
      response.writeHead(200, { ...headers, 'content-length': bytes.length });
      return response.write(bytes.subarray(0, bytes.length / 2));
    }
    if (cuts.delete(name)) {
      response.writeHead(200, { ...headers, 'content-length': bytes.length });
      // Time for what was sent to be read: a reset takes the rest with it.
      return response.write(bytes.subarray(0, bytes.length / 2), () =>
        setTimeout(() => response.socket?.resetAndDestroy(), 250),
      );
    }
    if (range !== null && ranges) {
      parts.push(range.first);
      const contentRange = `bytes ${range.first}-${bytes.length - 1}/${bytes.length}`;
      return response.writeHead(206, { ...headers, 'content-range': contentRange }).end(range.part);
    }
    return response.writeHead(200, { ...headers, 'content-length': bytes.length }).end(bytes);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  context.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests, parts, authorizations };
}
