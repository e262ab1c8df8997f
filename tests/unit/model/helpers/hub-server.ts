import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { TestContext } from 'node:test';

export interface HubDouble {
  readonly endpoint: string;
  /** Paths asked for, in order. */
  readonly requests: string[];
}

export interface HubDoubleOptions {
  readonly repo: string;
  readonly commit: string;
  readonly files: Readonly<Record<string, Uint8Array>>;
  readonly token?: string;
  /** Replaces the body of one file, keeping what the listing says about it. */
  readonly tamper?: Readonly<Record<string, Uint8Array>>;
}

/** Serves one repository over the hub's model, tree and resolve endpoints; closes when the test ends. */
export async function startHub(context: TestContext, options: HubDoubleOptions): Promise<HubDouble> {
  const { repo, commit, files, token, tamper = {} } = options;
  const requests: string[] = [];
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url ?? '', 'http://hub');
    requests.push(pathname);
    const json = (status: number, body: unknown) =>
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    if (token !== undefined && request.headers.authorization !== `Bearer ${token}`)
      return json(401, { error: 'Unauthorized' });
    if (pathname.startsWith(`/api/models/${repo}/revision/`)) {
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
          const oid = createHash('sha256').update(bytes).digest('hex');
          const lfs = path.endsWith('.safetensors') ? { lfs: { oid, size: bytes.length, pointerSize: 130 } } : {};
          return { type: 'file', path, size: bytes.length, oid: 'x', ...lfs };
        }),
      );
    }
    const name = pathname.slice(`/${repo}/resolve/${commit}/`.length);
    const bytes = tamper[name] ?? files[name];
    if (!pathname.startsWith(`/${repo}/resolve/${commit}/`) || bytes === undefined)
      return json(404, { error: 'Not found' });
    const headers = { etag: '"x"', 'accept-ranges': 'bytes' };
    if (request.headers.range !== undefined) {
      return response
        .writeHead(206, { ...headers, 'content-range': `bytes 0-0/${bytes.length}` })
        .end(bytes.subarray(0, 1));
    }
    return response.writeHead(200, { ...headers, 'content-length': bytes.length }).end(bytes);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  context.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests };
}
