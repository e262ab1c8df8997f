import type { RemoteSource } from '../../core/adapter-source.js';
import { LoramuxError } from '../../core/errors.js';
import { BASE_NAME, isAdapterName, LORAX_BASE_NAME } from '../../core/names.js';
import { readSource } from '../admin/source-request.js';
import { invalidField, type JsonObject, readOptionalString } from '../fields.js';

/** Where requests may have adapters loaded from, beside those that the server has by name. */
export type RequestSource = 'hub' | 's3';

/** What a call's adapter names mean. `local`: the server's own names. */
export interface AdapterOrigin {
  readonly kind: 'local' | RequestSource;
  /** For private repositories; from the body alone. */
  readonly token: string | null;
}

/** Printable, and no comma, which separates names in headers. */
const SHOWABLE = /^[\x21-\x2b\x2d-\x7e]{1,512}$/;

/** `adapter_source` and `api_token`. Throws ERR_VALIDATION for sources that `allowed` does not list. */
export function readOrigin(fields: JsonObject, allowed: readonly RequestSource[]): AdapterOrigin {
  const kind = (readOptionalString('adapter_source', fields.adapter_source) ?? 'local').toLowerCase();
  const token = readOptionalString('api_token', fields.api_token);
  const known = (['local', ...allowed] as const).find((candidate) => candidate === kind);
  if (known === undefined) {
    const expected = ['local', ...allowed].join(', ');
    throw invalidField('adapter_source', `\`adapter_source\` must be one of ${expected} or null on this server`);
  }
  if (token !== null && token !== '' && known !== 'hub')
    throw invalidField(
      'api_token',
      '`api_token` opens repositories of a hub: leave it out, or set `adapter_source` to hub',
    );
  return { kind: known, token: token === '' ? null : token };
}

/** The adapter that `name` means, as requests, headers and logs name it; LoRAX's spellings of the base are translated. */
export function readAdapterName(field: string, name: string, origin: AdapterOrigin): string {
  if (name === '' || name === BASE_NAME || name === LORAX_BASE_NAME) return BASE_NAME;
  if (origin.kind !== 'local') return shownName(readRemote(field, name, origin));
  if (isAdapterName(name)) return name;
  throw invalidField(
    field,
    `\`${field}\` must be an adapter name: letters, digits, ".", "_" and "-", at most one "/", up to 128 characters a part`,
  );
}

/** Where each of `names`, as readAdapterName returned them, is to be loaded from; undefined for the server's own. */
export function sourcesOf(
  names: readonly string[],
  origin: AdapterOrigin,
): ReadonlyMap<string, RemoteSource> | undefined {
  const adapters = names.filter((name) => name !== BASE_NAME);
  if (origin.kind === 'local' || adapters.length === 0) return undefined;
  return new Map(adapters.map((name) => [name, readRemote('adapter_id', name, origin)]));
}

function readRemote(field: string, location: string, { kind, token }: AdapterOrigin): RemoteSource {
  try {
    const source = readSource({ type: kind, location, ...(token === null ? {} : { token }) });
    const isFit = source.type !== 'dir' && SHOWABLE.test(shownName(source));
    if (isFit && (source.type !== 'hub' || isAdapterName(source.location))) return source;
  } catch (thrown) {
    if (!(thrown instanceof LoramuxError)) throw thrown;
    if (thrown.details?.field === 'source.token')
      throw invalidField('api_token', '`api_token` must be printable ASCII without spaces, up to 1024 characters');
  }
  const form = kind === 'hub' ? 'ORG/NAME, optionally with @REVISION' : 's3://BUCKET/PREFIX without commas';
  throw invalidField(field, `\`${field}\` must be ${form}, because \`adapter_source\` is ${kind}`);
}

function shownName(source: RemoteSource): string {
  if (source.type !== 'hub' || source.revision === 'main') return source.location;
  return `${source.location}@${source.revision}`;
}
