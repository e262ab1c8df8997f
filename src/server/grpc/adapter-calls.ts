import type { AdapterInfo } from '../../core/adapter.js';
import type { EngineClient } from '../../core/engine-client.js';
import { LoramuxError } from '../../core/errors.js';
import { pageOf, readListRequest, readLoadRequest, readName } from '../admin/requests.js';
import type { JsonObject } from '../fields.js';
import type { Lifecycle } from '../lifecycle.js';
import { adapterMessage, tierMessage } from './adapter-messages.js';
import type { ListAdaptersMessage, LoadAdapterMessage, UnloadAdapterMessage } from './messages.js';

const DEFAULT_PAGE = 100;
const MAX_PAGE = 1_000;
/** `source.type` of the admin API for each source of the messages. */
const SOURCES: Readonly<Record<string, string>> = {
  LOCAL: 'dir',
  HUB: 'hub',
  S3: 's3',
  HTTPS: 'http',
  PUSH: 'upload',
};
const OUTCOMES = { created: 'CREATED', unchanged: 'UNCHANGED', replaced: 'REPLACED', accepted: 'ACCEPTED' } as const;

export interface AdapterCallDeps {
  readonly engine: EngineClient;
  readonly lifecycle: Lifecycle;
}

/** Unary calls of AdapterAdmin: what the admin API's routes do, by the same readers. */
export class AdapterCalls {
  readonly #engine: EngineClient;
  readonly #lifecycle: Lifecycle;

  constructor({ engine, lifecycle }: AdapterCallDeps) {
    this.#engine = engine;
    this.#lifecycle = lifecycle;
  }

  async load(message: LoadAdapterMessage): Promise<object> {
    const { dryRun, ...load } = readLoadRequest(loadBody(message));
    if (this.#lifecycle.draining) {
      throw new LoramuxError('ERR_DRAINING', 'the server is draining: load on another replica');
    }
    if (dryRun) {
      const { name, source, replace } = load;
      const adapter = await this.#engine.admin({ op: 'check', name, source, replace });
      return { outcome: 'FITS', adapter: adapterMessage(adapter) };
    }
    const { outcome, adapter } = await this.#engine.admin({ op: 'load', ...load });
    return { outcome: OUTCOMES[outcome], adapter: adapterMessage(adapter) };
  }

  async unload({ name, force = false }: UnloadAdapterMessage): Promise<object> {
    return this.#engine.admin({ op: 'unload', name: readName(name), force });
  }

  async list({ pageSize = 0, pageToken = '' }: ListAdaptersMessage): Promise<object> {
    if (pageSize > MAX_PAGE) {
      const message = `page_size must be at most ${MAX_PAGE}, got ${pageSize}`;
      throw new LoramuxError('ERR_BAD_REQUEST', message, { field: 'page_size' });
    }
    const request = readListRequest(pageToken === '' ? {} : { cursor: pageToken });
    const { adapters, tiers } = await this.#engine.admin({ op: 'list' });
    const page = pageOf(adapters, request, pageSize === 0 ? DEFAULT_PAGE : pageSize);
    return {
      adapters: page.adapters.map(adapterMessage),
      nextPageToken: page.next ?? '',
      tiers: tiers.map(tierMessage),
    };
  }

  /** Every adapter, for `WatchAdapters`. */
  async all(): Promise<readonly AdapterInfo[]> {
    return (await this.#engine.admin({ op: 'list' })).adapters;
  }
}

/** The body of `POST /adapters` that says the same. */
function loadBody(message: LoadAdapterMessage): JsonObject {
  const { name, source = '', location = '', revision = '', pin, replace, dryRun, noWait } = message;
  const type = SOURCES[source];
  if (type === undefined) {
    const expected = `source must be one of ${Object.keys(SOURCES).join(', ')}`;
    throw new LoramuxError('ERR_BAD_REQUEST', expected, { field: 'source' });
  }
  return {
    name,
    source: { type, location, ...(revision === '' ? {} : { revision }) },
    pin: pin ?? false,
    replace: replace ?? false,
    dryRun: dryRun ?? false,
    wait: noWait !== true,
  };
}
