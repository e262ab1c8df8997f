import { resolve } from 'node:path';
import type { FileSource } from '../../core/adapter-source.js';
import { LoramuxError } from '../../core/errors.js';
import { parseHubId } from '../../model/fetch/hub-model.js';
import { isJsonObject, type JsonObject } from '../fields.js';

const FORMS = 'dir:PATH, a path, hub:ORG/NAME[@REVISION], s3://BUCKET/PREFIX, https://HOST/PATH or upload:DIGEST';
const FIELDS = ['type', 'location', 'revision', 'token'];
const TYPES = ['dir', 'hub', 's3', 'http', 'upload'] as const;
const DIGEST = /^[0-9a-f]{64}$/;
const BUCKET = /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/;
const MAX_LOCATION = 2048;
/** Printable ASCII: what an HTTP header can hold. */
const TOKEN = /^[\x21-\x7e]{1,1024}$/;

function refuse(field: string, message: string): LoramuxError {
  return new LoramuxError('ERR_BAD_REQUEST', message, { field });
}

interface Given {
  readonly location: string;
  readonly revision: string | null;
  readonly token: string | null;
  /** The part of the request that holds the location. */
  readonly field: string;
}

/**
 * `source` of a load: a string in one of the forms of `FORMS`, or `{type, location, revision?, token?}`. Relative paths
 * count from the server's working directory. ERR_BAD_REQUEST for anything else.
 */
export function readSource(value: unknown): FileSource {
  if (isJsonObject(value)) return readObject(value);
  if (typeof value !== 'string') throw refuse('source', `"source" must be ${FORMS}`);
  const [, scheme, rest = ''] = /^([A-Za-z][A-Za-z0-9+.-]*):(.*)$/s.exec(value) ?? [];
  const given = { revision: null, token: null, field: 'source' };
  switch (scheme?.toLowerCase()) {
    case undefined:
      return readDirectory({ ...given, location: value });
    case 'dir':
      return readDirectory({ ...given, location: rest });
    case 'hub':
      return readHub({ ...given, location: rest });
    case 's3':
      return readBucket({ ...given, location: value });
    case 'http':
    case 'https':
      return readUrl({ ...given, location: value });
    case 'upload':
      return readUpload({ ...given, location: rest });
    default:
      throw refuse('source', `unknown source type "${scheme}": expected ${FORMS}`);
  }
}

function readObject(source: JsonObject): FileSource {
  const stranger = Object.keys(source).find((name) => !FIELDS.includes(name));
  if (stranger !== undefined) {
    throw refuse(stranger, `unknown field of source "${stranger}": expected ${FIELDS.join(', ')}`);
  }
  const type = TYPES.find((known) => known === source.type);
  if (type === undefined) throw refuse('source.type', `"source.type" must be one of ${TYPES.join(', ')}`);
  const location = readText(source, 'location');
  if (location === null) throw refuse('source.location', '"source.location" must be a string');
  const given = {
    location,
    revision: readText(source, 'revision'),
    token: readText(source, 'token'),
    field: 'source.location',
  };
  switch (type) {
    case 'dir':
      return readDirectory(given);
    case 'hub':
      return readHub(given);
    case 's3':
      return readBucket(given);
    case 'http':
      return readUrl(given);
    case 'upload':
      return readUpload(given);
  }
}

function readText(source: JsonObject, field: string): string | null {
  const value = source[field] ?? null;
  if (value !== null && typeof value !== 'string')
    throw refuse(`source.${field}`, `"source.${field}" must be a string`);
  return value;
}

function refuseUnused({ revision, token }: Given, type: string, unused: readonly ('revision' | 'token')[]): void {
  for (const field of unused) {
    const value = field === 'revision' ? revision : token;
    if (value !== null) throw refuse(`source.${field}`, `"source.${field}" means nothing for ${type}: leave it out`);
  }
}

function readToken({ token }: Given): string | null {
  if (token === null || TOKEN.test(token)) return token;
  throw refuse('source.token', '"source.token" must be printable ASCII without spaces, up to 1024 characters');
}

function readDirectory(given: Given): FileSource {
  refuseUnused(given, 'a directory', ['revision', 'token']);
  const { location, field } = given;
  if (location === '' || location.includes('\0')) throw refuse(field, `"${field}" must name a directory`);
  return { type: 'dir', location: resolve(location) };
}

function readHub(given: Given): FileSource {
  const { field } = given;
  const location = given.location.replace(/^hub:/, '');
  const id = parseHubId(given.revision === null ? location : `${location}@${given.revision}`);
  if (id === undefined || location.length > MAX_LOCATION) {
    throw refuse(field, `"${field}" must be ORG/NAME, optionally with @REVISION (branch, tag or commit)`);
  }
  return { type: 'hub', location: id.repo, revision: id.revision, token: readToken(given) };
}

/** Files that were uploaded before, and are still on the disk. */
function readUpload(given: Given): FileSource {
  refuseUnused(given, 'an upload', ['revision', 'token']);
  const { location, field } = given;
  if (!DIGEST.test(location))
    throw refuse(field, `"${field}" must name an upload by its digest, 64 hexadecimal digits`);
  return { type: 'upload', location, received: null };
}

function readBucket(given: Given): FileSource {
  refuseUnused(given, 'S3: its credentials come from the environment of the server', ['revision', 'token']);
  const { field } = given;
  const [, bucket = '', prefix = ''] = /^(?:s3:\/\/)?([^/]+)(?:\/(.*))?$/s.exec(given.location) ?? [];
  const path = prefix.replace(/\/+$/, '');
  const isClean = !/[\p{Cc}?#]/u.test(path) && path.length <= 1024;
  if (!BUCKET.test(bucket) || !isClean) throw refuse(field, `"${field}" must be s3://BUCKET/PREFIX`);
  return { type: 's3', location: path === '' ? `s3://${bucket}` : `s3://${bucket}/${path}` };
}

function readUrl(given: Given): FileSource {
  refuseUnused(given, 'a URL', ['revision']);
  const { location, field } = given;
  const url = URL.canParse(location) && location.length <= MAX_LOCATION ? new URL(location) : null;
  if (url === null || !/^https?:$/.test(url.protocol)) throw refuse(field, `"${field}" must be an http or https URL`);
  if (url.username !== '' || url.password !== '') {
    throw refuse(field, `"${field}" must hold no credentials: give them as "source.token", sent as a bearer token`);
  }
  url.hash = '';
  return { type: 'http', location: url.href, token: readToken(given) };
}
