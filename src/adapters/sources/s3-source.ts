import { Readable } from 'node:stream';
import type { S3Client } from '@aws-sdk/client-s3';
import type { S3Source } from '../../core/adapter-source.js';
import { ADAPTER_FILES, CONFIG_FILE, PICKLE_FILE } from '../adapter-directory.js';
import { ask, download, type FetchContext, type OpenFile } from './download.js';
import { AttemptFailure, failureOf, noAdapterAt, statusFailure } from './fetch-errors.js';

type S3Library = typeof import('@aws-sdk/client-s3');

interface Listed {
  readonly key: string;
  readonly bytes: number;
  readonly etag: string | null;
}

interface Bucket {
  readonly library: S3Library;
  readonly client: S3Client;
  readonly name: string;
  /** Empty, or ends in a slash. */
  readonly prefix: string;
}

/**
 * Fetches adapters from S3 or a service that speaks its protocol. Credentials and region come from the places where
 * AWS clients look: environment, profile files, container and instance roles.
 */
export class S3Fetcher {
  #client: Promise<{ library: S3Library; client: S3Client }> | null = null;

  /** `endpoint` is another service's base URL, addressed path-style; null = AWS, or AWS_ENDPOINT_URL_S3. */
  constructor(private readonly endpoint: string | null) {}

  /** Fills the incoming directory from the objects right below the prefix. Errors: those of `download`. */
  async fetch(source: S3Source, context: FetchContext): Promise<void> {
    const { incoming } = context;
    this.#client ??= connect(this.endpoint);
    const [, name = '', path = ''] = /^s3:\/\/([^/]+)\/?(.*)$/s.exec(source.location) ?? [];
    const bucket = { ...(await this.#client), name, prefix: path === '' ? '' : `${path}/` };
    const listed = await list(bucket, context);
    if (!listed.has(CONFIG_FILE)) throw noAdapterAt(incoming.label, CONFIG_FILE);
    for (const file of ADAPTER_FILES) {
      const object = listed.get(file);
      if (object === undefined || (await incoming.reuse(file, object.etag))) continue;
      incoming.announce(file, object.bytes);
      if ((await download(context, file, opener(bucket, object, context), () => incoming.file(file))) !== 'fetched') {
        throw new AttemptFailure(`it lists ${file} and does not serve it`, 'failed', false);
      }
    }
    incoming.requireComplete(listed.has(PICKLE_FILE));
  }
}

async function connect(endpoint: string | null): Promise<{ library: S3Library; client: S3Client }> {
  // Loaded on demand: it is the largest dependency of the server, and most start without it.
  const library = await import('@aws-sdk/client-s3');
  // Retries are ours, so that caps, progress and resumption see every try.
  const own =
    endpoint === null ? {} : { endpoint, forcePathStyle: true, region: process.env.AWS_REGION ?? 'us-east-1' };
  return { library, client: new library.S3Client({ maxAttempts: 1, followRegionRedirects: true, ...own }) };
}

function list({ library, client, name, prefix }: Bucket, context: FetchContext): Promise<Map<string, Listed>> {
  const { label, limits } = context.incoming;
  return ask(context, async (signal) => {
    const found = new Map<string, Listed>();
    let seen = 0;
    let token: string | undefined;
    do {
      const command = new library.ListObjectsV2Command({
        Bucket: name,
        Prefix: prefix,
        Delimiter: '/',
        ...(token === undefined ? {} : { ContinuationToken: token }),
      });
      const page = await client.send(command, { abortSignal: signal }).catch((thrown) => {
        throw refine(thrown, label);
      });
      for (const { Key: key = '', Size: bytes = 0, ETag: etag = null } of page.Contents ?? []) {
        const file = key.slice(prefix.length);
        seen += 1;
        if (ADAPTER_FILES.includes(file) || file === PICKLE_FILE) found.set(file, { key, bytes, etag });
      }
      if (seen > limits.maxFiles) {
        throw new AttemptFailure(
          `more than ${limits.maxFiles} objects lie there: expected one adapter`,
          'failed',
          false,
        );
      }
      token = page.IsTruncated === true ? page.NextContinuationToken : undefined;
    } while (token !== undefined);
    return found;
  });
}

/** An object by its ETag: one that was overwritten meanwhile is refused by the service instead of mixed. */
function opener({ library, client, name }: Bucket, object: Listed, context: FetchContext): OpenFile {
  const { key, bytes, etag } = object;
  return async (from, signal) => {
    const command = new library.GetObjectCommand({
      Bucket: name,
      Key: key,
      ...(etag === null ? {} : { IfMatch: etag }),
      ...(from === null ? {} : { Range: `bytes=${from.offset}-` }),
    });
    const { Body: body, ContentRange: range } = await client.send(command, { abortSignal: signal }).catch((thrown) => {
      throw refine(thrown, context.incoming.label);
    });
    if (!(body instanceof Readable)) throw new AttemptFailure('it sent no body', 'failed', true);
    const resumed = from !== null && range?.startsWith(`bytes ${from.offset}-`) === true;
    return { stream: body, bytes, resumed, validator: etag, isResumable: etag !== null };
  };
}

interface AwsFailure {
  readonly name?: string;
  readonly $metadata?: { readonly httpStatusCode?: number };
}

/** The service's errors by name and status; messages of the client hold host names and keys. */
function refine(thrown: unknown, label: string): Error {
  const { name = '', $metadata } = thrown as AwsFailure;
  const status = $metadata?.httpStatusCode;
  if (name === 'NoSuchBucket' || name === 'NoSuchKey' || status === 404) return noAdapterAt(label, CONFIG_FILE);
  if (name === 'CredentialsProviderError') {
    return new AttemptFailure('the server has no AWS credentials: set them in its environment', 'failed', false);
  }
  if (status === 412) return new AttemptFailure('an object changed while it was read', 'failed', false);
  if (status === 401 || status === 403) {
    return new AttemptFailure(`it answered ${status}: the server's AWS credentials may not read it`, 'failed', false);
  }
  if (name === 'TimeoutError') return new AttemptFailure('it took too long', 'timeout', true);
  return status === undefined || status < 300 ? failureOf(thrown) : statusFailure(status);
}
