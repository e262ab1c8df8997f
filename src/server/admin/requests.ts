import type { AdapterInfo } from '../../core/adapter.js';
import type { AliasTarget } from '../../core/adapter-admin.js';
import type { FileSource } from '../../core/adapter-source.js';
import { LoramuxError } from '../../core/errors.js';
import { isAdapterName } from '../../core/names.js';
import { isJsonObject, type JsonObject } from '../fields.js';
import { readSource } from './source-request.js';

/** Refuses a part of an admin request, which is always the caller's mistake: 400. */
function refuse(field: string, message: string): LoramuxError {
  return new LoramuxError('ERR_BAD_REQUEST', message, { field });
}

function refuseOthers(object: JsonObject, known: readonly string[], what: string): void {
  const stranger = Object.keys(object).find((name) => !known.includes(name));
  if (stranger !== undefined) throw refuse(stranger, `unknown ${what} "${stranger}": expected ${known.join(', ')}`);
}

function flag(body: JsonObject, field: string, fallback: boolean): boolean {
  const value = body[field] ?? fallback;
  if (typeof value !== 'boolean') throw refuse(field, `"${field}" must be true or false`);
  return value;
}

/** An adapter name from a path or body. */
export function readName(value: unknown): string {
  if (typeof value === 'string' && isAdapterName(value)) return value;
  throw refuse(
    'name',
    '"name" must be one or two parts (joined by "/") of letters, digits, ".", "_" and "-", up to 128 characters each',
  );
}

export interface LoadRequest {
  readonly name: string;
  readonly source: FileSource;
  readonly pin: boolean;
  readonly wait: boolean;
  readonly replace: boolean;
  /** All of it but keeping the adapter. */
  readonly dryRun: boolean;
}

/** Body of `POST /adapters`. */
export function readLoadRequest(body: unknown): LoadRequest {
  if (!isJsonObject(body)) throw refuse('body', 'expected a JSON object with "name" and "source"');
  refuseOthers(body, ['name', 'source', 'pin', 'wait', 'replace', 'dryRun'], 'field');
  return { name: readName(body.name), source: readSource(body.source), ...readLoadFlags(body) };
}

/** What a load may be told beside name and source. */
export type LoadFlags = Omit<LoadRequest, 'name' | 'source'>;

function readLoadFlags(given: JsonObject): LoadFlags {
  const dryRun = flag(given, 'dryRun', false);
  const wait = flag(given, 'wait', true);
  if (dryRun && !wait)
    throw refuse('wait', '"wait" must be true with "dryRun": the reply is all that a dry run leaves');
  return { pin: flag(given, 'pin', false), wait, replace: flag(given, 'replace', true), dryRun };
}

/** Query of `PUT /adapters/{name}`: each flag bare, `=true` or `=false`. */
export function readUploadQuery(query: JsonObject): LoadFlags {
  const names = ['pin', 'wait', 'replace', 'dryRun'];
  refuseOthers(query, names, 'query parameter');
  const given = names.filter((name) => query[name] !== undefined).map((name) => [name, readSwitch(query, name)]);
  return readLoadFlags(Object.fromEntries(given) as JsonObject);
}

const DIGEST = /^[0-9a-f]{64}$/;

/** Body of `PUT /aliases/{name}`. */
export function readAliasTarget(body: unknown): AliasTarget {
  if (!isJsonObject(body)) throw refuse('body', 'expected a JSON object with "digest" or "adapter"');
  refuseOthers(body, ['digest', 'adapter'], 'field');
  const { digest, adapter } = body;
  if ((digest === undefined) === (adapter === undefined)) {
    throw refuse('body', 'expected one of "digest" and "adapter"');
  }
  if (digest !== undefined) {
    if (typeof digest === 'string' && DIGEST.test(digest)) return { digest };
    throw refuse('digest', '"digest" must be 64 lower-case hex digits, as the list of adapters shows them');
  }
  if (typeof adapter === 'string' && isAdapterName(adapter)) return { adapter };
  throw refuse('adapter', '"adapter" must be the name of an adapter');
}

const STATES = ['queued', 'fetching', 'validating', 'ready', 'draining', 'failed'] as const;
const TIERS = ['disk', 'host', 'device'] as const;

export interface ListRequest {
  readonly state: (typeof STATES)[number] | null;
  readonly tier: (typeof TIERS)[number] | null;
  /** Names up to and including this one were on earlier pages. */
  readonly after: string | null;
}

function oneOf<T extends string>(query: JsonObject, field: string, choices: readonly T[]): T | null {
  const value = query[field];
  if (value === undefined) return null;
  const choice = choices.find((candidate) => candidate === value);
  if (choice === undefined) throw refuse(field, `"${field}" must be one of ${choices.join(', ')}`);
  return choice;
}

/** Query of `GET /adapters`. */
export function readListRequest(query: JsonObject): ListRequest {
  refuseOthers(query, ['state', 'tier', 'cursor'], 'query parameter');
  const { cursor } = query;
  const after = typeof cursor === 'string' ? Buffer.from(cursor, 'base64url').toString() : null;
  if (cursor !== undefined && (after === null || !isAdapterName(after))) {
    throw refuse('cursor', '"cursor" must be the "next" of an earlier page');
  }
  return { state: oneOf(query, 'state', STATES), tier: oneOf(query, 'tier', TIERS), after };
}

export interface Page {
  readonly adapters: readonly AdapterInfo[];
  /** Cursor of the next page; null on the last. */
  readonly next: string | null;
}

/** One page of the adapters that match, in the order of their names. */
export function pageOf(all: readonly AdapterInfo[], { state, tier, after }: ListRequest, size: number): Page {
  const rest = all
    .filter((adapter) => (state === null || adapter.state === state) && (tier === null || adapter.tier === tier))
    .filter((adapter) => after === null || adapter.name > after)
    .sort((a, b) => (a.name < b.name ? -1 : 1));
  const adapters = rest.slice(0, size);
  const last = adapters.at(-1);
  const next = last !== undefined && rest.length > size ? Buffer.from(last.name).toString('base64url') : null;
  return { adapters, next };
}

/** Query of `DELETE /adapters/{name}`: `?force`, `?force=true` or `?force=false`. */
export function readForce(query: JsonObject): boolean {
  refuseOthers(query, ['force'], 'query parameter');
  return readSwitch(query, 'force');
}

function readSwitch(query: JsonObject, name: string): boolean {
  const value = query[name];
  if (value === undefined || value === 'false') return false;
  if (value === '' || value === 'true') return true;
  throw refuse(name, `"${name}" must be true or false`);
}
