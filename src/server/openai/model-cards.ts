import type { AdapterInfo } from '../../core/adapter.js';
import type { EngineLimits } from '../../core/engine-client.js';
import { BASE_NAME } from '../../core/names.js';
import type { BaseNames } from './model-name.js';

/** One entry of `GET /v1/models`: OpenAI's four fields, vLLM's, and our own in `loramux`. */
export interface ModelCard {
  readonly id: string;
  readonly object: 'model';
  /** Seconds since the epoch. */
  readonly created: number;
  readonly owned_by: 'loramux';
  /** What the name stands for: of an alias its adapter. */
  readonly root: string;
  /** The base; null for the base itself. */
  readonly parent: string | null;
  readonly max_model_len?: number;
  readonly permission: readonly never[];
  readonly loramux?: Readonly<Record<string, unknown>>;
}

/** Where cards get what adapters do not say themselves. */
export interface CardContext {
  readonly base: BaseNames;
  readonly limits: EngineLimits;
  /** When the server started, in seconds since the epoch. */
  readonly startedAt: number;
  /** vLLM's controllers look for the path of an adapter in `root`. */
  readonly showPaths: boolean;
}

/** The base under one of its names. */
export function baseCard(id: string, { limits, startedAt }: CardContext): ModelCard {
  return {
    id,
    object: 'model',
    created: startedAt,
    owned_by: 'loramux',
    root: limits.modelId,
    parent: null,
    max_model_len: limits.maxModelLen,
    permission: [],
  };
}

/** An adapter under its name or an alias. */
export function adapterCard(id: string, adapter: AdapterInfo, { base, startedAt, showPaths }: CardContext): ModelCard {
  const { name, digest, tier, state, ranks, bytes, loadedAt, source } = adapter;
  const path = showPaths ? source.replace(/^dir:/, '') : name;
  return {
    id,
    object: 'model',
    created: loadedAt === null ? startedAt : Math.floor(Date.parse(loadedAt) / 1_000),
    owned_by: 'loramux',
    root: id === name ? path : name,
    parent: base[0],
    permission: [],
    loramux: { digest, tier, state, rank: ranks?.max ?? null, bytes },
  };
}

/** A card, and the names that a caller must be allowed to use it: of an alias its own and its adapter's. */
export interface NamedCard {
  readonly card: ModelCard;
  readonly names: readonly string[];
}

/** All cards: the base first, then the adapters that a request can name, each followed by its aliases. */
export function allCards(adapters: readonly AdapterInfo[], context: CardContext): readonly NamedCard[] {
  const served = adapters.filter(({ state }) => state !== 'draining' && state !== 'failed');
  return [
    ...[...new Set(context.base)].map((name) => ({ card: baseCard(name, context), names: [BASE_NAME] })),
    ...served.flatMap((adapter) =>
      [adapter.name, ...adapter.aliases].map((id) => ({
        card: adapterCard(id, adapter, context),
        names: [id, adapter.name],
      })),
    ),
  ];
}
