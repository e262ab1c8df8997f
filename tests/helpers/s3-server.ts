import { createHash } from 'node:crypto';
import type { TestContext } from 'node:test';
import { type LocalServer, rangeOf, startServer } from './local-server.js';

export interface S3Double {
  readonly bucket: string;
  /** Objects by their keys; tests may change them. */
  readonly objects: Map<string, Uint8Array>;
  /** Objects of one page of a listing. */
  readonly pageSize?: number;
  /** Keys whose next transfer is reset halfway. */
  readonly cuts?: Set<string>;
  /** Answers this status to the next requests, in order. */
  readonly failures?: number[];
}

function etagOf(bytes: Uint8Array): string {
  return `"${createHash('md5').update(bytes).digest('hex')}"`;
}

function xml(root: string, body: string): string {
  return `<?xml version="1.0" encoding="UTF-8"?><${root} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${body}</${root}>`;
}

function failure(code: string): string {
  return `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>no</Message></Error>`;
}

/** Speaks ListObjectsV2 and GetObject (ranges, If-Match) for one bucket, path-style, to clients that sign. */
export function startS3(t: TestContext, double: S3Double): Promise<LocalServer> {
  const { bucket, objects, pageSize = 1000, cuts = new Set(), failures = [] } = double;
  return startServer(t, (request, response) => {
    const url = new URL(request.url ?? '', 'http://s3');
    const send = (status: number, body: string) =>
      response.writeHead(status, { 'content-type': 'application/xml' }).end(body);
    if (request.headers.authorization?.startsWith('AWS4-HMAC-SHA256 ') !== true)
      return send(403, failure('AccessDenied'));
    const failed = failures.shift();
    if (failed !== undefined) return send(failed, failure(failed === 503 ? 'SlowDown' : 'InternalError'));
    const [, name, ...rest] = url.pathname.split('/').map(decodeURIComponent);
    if (name !== bucket) return send(404, failure('NoSuchBucket'));
    const key = rest.join('/');
    if (url.searchParams.get('list-type') === '2') {
      const prefix = url.searchParams.get('prefix') ?? '';
      const from = Number(url.searchParams.get('continuation-token') ?? 0);
      const all = [...objects.keys()].sort().filter((each) => each.startsWith(prefix));
      const direct = all.filter((each) => !each.slice(prefix.length).includes('/'));
      const page = direct.slice(from, from + pageSize);
      const isTruncated = from + pageSize < direct.length;
      const contents = page.map((each) => {
        const bytes = objects.get(each) ?? new Uint8Array();
        const etag = etagOf(bytes).replaceAll('"', '&quot;');
        return `<Contents><Key>${each}</Key><Size>${bytes.length}</Size><ETag>${etag}</ETag></Contents>`;
      });
      const next = isTruncated ? `<NextContinuationToken>${from + pageSize}</NextContinuationToken>` : '';
      return send(200, xml('ListBucketResult', `<IsTruncated>${isTruncated}</IsTruncated>${next}${contents.join('')}`));
    }
    const bytes = objects.get(key);
    if (bytes === undefined) return send(404, failure('NoSuchKey'));
    const etag = etagOf(bytes);
    const condition = request.headers['if-match'];
    if (condition !== undefined && condition !== etag) return send(412, failure('PreconditionFailed'));
    const headers = { etag, 'accept-ranges': 'bytes', 'content-type': 'application/octet-stream' };
    const range = rangeOf(request, bytes);
    if (cuts.delete(key)) {
      response.writeHead(200, { ...headers, 'content-length': bytes.length });
      // Time for what was sent to be read: a reset takes the rest with it.
      return response.write(bytes.subarray(0, bytes.length / 2), () =>
        setTimeout(() => response.socket?.resetAndDestroy(), 250),
      );
    }
    if (range === null) return response.writeHead(200, { ...headers, 'content-length': bytes.length }).end(bytes);
    const contentRange = `bytes ${range.first}-${bytes.length - 1}/${bytes.length}`;
    return response
      .writeHead(206, { ...headers, 'content-range': contentRange, 'content-length': range.part.length })
      .end(range.part);
  });
}
