import type { FastifyInstance } from 'fastify';
import { type Caller, requireUse } from '../../core/caller.js';
import type { EngineClient } from '../../core/engine-client.js';
import { BASE_NAME } from '../../core/names.js';
import { MODEL_BY_ID, MODELS } from '../schemas/openai.js';
import type { OpenAiDeps } from './deps.js';
import { adapterCard, allCards, baseCard, type CardContext, type NamedCard } from './model-cards.js';
import { readModel, unknownModel } from './model-name.js';

/** Gateways may ask many times a second; loads and evictions are seen at once, aliases after this time. */
const KEPT_MS = 1_000;

type ByPath = { Params: { '*': string } };

/** `GET /v1/models` and `GET /v1/models/{id}`, whose id may hold a slash, plain or as `%2F`. */
export function registerModels(app: FastifyInstance, { engine, base, vllmLoraApi }: OpenAiDeps): void {
  const startedAt = Math.floor(Date.now() / 1_000);
  const context: CardContext = { base, limits: engine.limits, startedAt, showPaths: vllmLoraApi !== 'off' };
  const list = new ModelList(engine, context);

  app.get('/models', { config: { doc: MODELS } }, async ({ caller }, reply) =>
    reply.type('application/json').send(await list.body(caller)),
  );

  app.get<ByPath>('/models/*', { config: { doc: MODEL_BY_ID } }, async (request) => {
    const id = request.params['*'];
    const model = readModel(id, base);
    requireUse(request.caller, [model.adapter]);
    if (model.adapter === BASE_NAME) return baseCard(id === '' ? base[0] : id, context);
    const adapter = await engine.admin({ op: 'get', name: model.adapter });
    // Of an alias, the adapter.
    requireUse(request.caller, [adapter.name]);
    if (model.digest !== null && adapter.digest?.startsWith(model.digest) !== true) throw unknownModel(id);
    return adapterCard(model.shown, adapter, context);
  });
}

interface KeptList {
  readonly cards: Promise<readonly NamedCard[]>;
  /** All of them as JSON text. */
  readonly body: Promise<string>;
  readonly atMs: number;
}

/** The list, made again only when it may have changed. */
class ModelList {
  readonly #engine: EngineClient;
  readonly #context: CardContext;
  #kept: KeptList | null = null;

  constructor(engine: EngineClient, context: CardContext) {
    this.#engine = engine;
    this.#context = context;
    engine.onTelemetry(({ kind }) => {
      if (kind === 'adapter-load' || kind === 'adapter-evict') this.#kept = null;
    });
  }

  /** What the caller may use, as JSON text. */
  async body(caller: Caller): Promise<string> {
    const { cards, body } = this.#fresh();
    if (caller.adapters === null) return body;
    return listOf((await cards).filter(({ names }) => names.every((name) => caller.mayUse(name))));
  }

  #fresh(): KeptList {
    const now = performance.now();
    if (this.#kept !== null && now - this.#kept.atMs < KEPT_MS) return this.#kept;
    const cards = this.#make();
    const kept = { cards, body: cards.then(listOf), atMs: now };
    this.#kept = kept;
    kept.body.catch(() => {
      if (this.#kept === kept) this.#kept = null;
    });
    return kept;
  }

  async #make(): Promise<readonly NamedCard[]> {
    const { adapters } = await this.#engine.admin({ op: 'list' });
    return allCards(adapters, this.#context);
  }
}

function listOf(cards: readonly NamedCard[]): string {
  return JSON.stringify({ object: 'list', data: cards.map(({ card }) => card) });
}
