import { randomBytes } from 'node:crypto';
import type { FastifyBaseLogger, FastifyInstance } from 'fastify';
import type { EngineClient } from './core/engine-client.js';
import { LoramuxError } from './core/errors.js';
import type { NativeTokenizer } from './engine/binding.js';
import { GenerationService, type ServiceDeps } from './generation/service.js';
import type { Metrics } from './metrics/metrics.js';
import { registerAdapterRoutes } from './server/admin/adapter-routes.js';
import { registerAliasRoutes } from './server/admin/alias-routes.js';
import { registerStateRoutes } from './server/admin/state-routes.js';
import type { UploadOptions } from './server/admin/upload-body.js';
import { registerUploadRoute } from './server/admin/upload-route.js';
import { ADMIN_WORDING } from './server/admin/wording.js';
import { createBaseApp, routesOf } from './server/base-app.js';
import { Health } from './server/health.js';
import type { Lifecycle } from './server/lifecycle.js';
import type { RequestSource } from './server/lorax/adapter-origin.js';
import { registerLoraxDocument } from './server/lorax/document-route.js';
import { registerGenerateRoutes } from './server/lorax/generate-routes.js';
import { registerInfo } from './server/lorax/info-route.js';
import { registerLoraxProbes } from './server/lorax/probe-routes.js';
import { registerTokenize } from './server/lorax/tokenize-route.js';
import { LORAX_LEFT_OUT, LORAX_WORDING } from './server/lorax/wording.js';
import { baseNames } from './server/openai/base-names.js';
import type { OpenAiSettings } from './server/openai/deps.js';
import { RequestIds } from './server/openai/request-ids.js';
import { OPENAI_PREFIX, registerOpenAi } from './server/openai/routes.js';
import { OPENAI_WORDING } from './server/openai/wording.js';
import { type AccessRules, ADMIN_ACCESS, PUBLIC_ACCESS } from './server/plugins/access.js';
import { registerMethodNotAllowed } from './server/plugins/errors.js';
import { registerOpenApi } from './server/plugins/openapi.js';
import { registerSameOrigin } from './server/plugins/same-origin.js';
import { registerDocsPage } from './server/routes/docs-page.js';
import { registerMetrics } from './server/routes/metrics.js';
import { registerProbes } from './server/routes/probes.js';
import { ADMIN_COMPONENTS } from './server/schemas/admin.js';
import { LORAX_COMPONENTS } from './server/schemas/lorax.js';
import { OPENAI_COMPONENTS } from './server/schemas/openai.js';
import { VLLM_COMPONENTS } from './server/schemas/vllm.js';
import type { SessionLimits } from './server/ws/session.js';
import { registerStream, STREAM_LIMITS } from './server/ws/stream-route.js';

/** Unread output of one stream above this ends the stream. */
const MAX_BUFFERED_BYTES = 2 ** 20;

export interface AppDeps {
  readonly engine: EngineClient;
  readonly generation: GenerationService;
  readonly tokenizer: Pick<NativeTokenizer, 'encodeSpans'>;
  readonly lifecycle: Lifecycle;
  readonly metrics: Metrics;
  readonly logger: FastifyBaseLogger;
  readonly version: string;
  readonly openai: OpenAiSettings;
  /** Largest `best_of` of a LoRAX call. */
  readonly maxBestOf: number;
  readonly access: AccessRules;
  /** Sites whose pages may read replies; `*` = all. */
  readonly corsOrigins: readonly string[];
  /** Sites whose pages may open WebSockets, beside the server's own. */
  readonly streamOrigins: readonly string[];
  readonly streamLimits?: SessionLimits;
  /** Where LoRAX calls may have adapters loaded from. */
  readonly requestSources: readonly RequestSource[];
  /** Milliseconds since the epoch, monotonic; the process's own clock by default. */
  readonly now?: () => number;
  /** Random by default; below 2^53. */
  readonly drawSeed?: () => bigint;
}

/** The process's clock: milliseconds since the epoch, never going back, the same in every thread. */
export function monotonicNow(): number {
  return performance.timeOrigin + performance.now();
}

/** Uniform below 2^53: clients that hold JSON numbers as doubles read it back unchanged. */
export function randomSeed(): bigint {
  return randomBytes(8).readBigUInt64LE() >> 11n;
}

export interface GenerationParts
  extends Pick<AppDeps, 'engine' | 'metrics' | 'now'>,
    Pick<ServiceDeps, 'tokenizer' | 'openTokenizer'> {
  /** Unread output of one stream above this ends the stream; 1 MiB by default. */
  readonly maxBufferedBytes?: number;
}

/** The one service that every surface of a process hands its generations to. */
export function createGeneration({
  engine,
  tokenizer,
  openTokenizer,
  metrics,
  now,
  maxBufferedBytes,
}: GenerationParts): GenerationService {
  return new GenerationService({
    engine,
    tokenizer,
    openTokenizer,
    observer: metrics,
    now: now ?? monotonicNow,
    maxBufferedBytes: maxBufferedBytes ?? MAX_BUFFERED_BYTES,
  });
}

/** The public app: LoRAX's routes, OpenAI's, and probes. Does not listen. */
export function buildApp(deps: AppDeps): FastifyInstance {
  const { engine, generation, tokenizer, openai, lifecycle, metrics, version, maxBestOf, requestSources } = deps;
  const now = deps.now ?? monotonicNow;
  const app = createBaseApp({
    logger: deps.logger,
    lifecycle,
    wording: LORAX_WORDING,
    leftOut: LORAX_LEFT_OUT,
    wordingBelow: { [OPENAI_PREFIX]: OPENAI_WORDING },
    access: deps.access,
    accessByMethod: PUBLIC_ACCESS,
    corsOrigins: deps.corsOrigins,
    onRequestEnd: (end) => metrics.requestEnded(end),
    model: engine.limits.modelId,
  });
  app.addHook('onRequest', async (request) => {
    if (request.method === 'POST' && lifecycle.draining) {
      metrics.rejected('ERR_DRAINING');
      throw new LoramuxError('ERR_DRAINING', 'the server is draining: send the request to another replica');
    }
  });
  const health = new Health({ engine, lifecycle, now });
  const drawSeed = deps.drawSeed ?? randomSeed;
  const routes = routesOf(app, () => {
    registerOpenApi(app, {
      title: 'loramux',
      version,
      components: { ...LORAX_COMPONENTS, ...OPENAI_COMPONENTS, ...VLLM_COMPONENTS },
      accessByMethod: PUBLIC_ACCESS,
      errors: [],
      errorSchema: 'LoraxError',
    });
    registerLoraxDocument(app);
    registerDocsPage(app);
    registerProbes(app, health, version);
    registerLoraxProbes(app, { health, generation });
    registerMetrics(app, metrics);
    registerInfo(app, engine, version, maxBestOf);
    registerGenerateRoutes(app, { engine, generation, drawSeed, maxBestOf, requestSources });
    registerTokenize(app, tokenizer);
  });
  registerMethodNotAllowed(app, routes, LORAX_WORDING);
  registerStream(app, {
    ...openai,
    ...{ engine, generation, drawSeed, version, lifecycle, requestSources, now },
    base: baseNames(openai.servedNames, engine.limits.modelId),
    requestIds: new RequestIds(),
    limits: deps.streamLimits ?? STREAM_LIMITS,
    keys: deps.access.keys,
    origins: deps.streamOrigins,
    onEnd: (end) => metrics.requestEnded(end),
    watch: (count) => metrics.watchSockets(count),
  });
  registerOpenAi(app, { engine, generation, drawSeed, version, requestSources, settings: openai });
  return app;
}

export interface AdminAppDeps {
  /** Address that the listener will be bound to. */
  readonly boundTo: string;
  readonly engine: EngineClient;
  readonly lifecycle: Lifecycle;
  readonly metrics: Metrics;
  readonly logger: FastifyBaseLogger;
  readonly version: string;
  readonly access: AccessRules;
  readonly uploads: UploadOptions;
  readonly now?: () => number;
}

/** The admin app, for a listener of its own: adapters, state, drain, and the probes again. Does not listen. */
export function buildAdminApp(deps: AdminAppDeps): FastifyInstance {
  const { engine, lifecycle, metrics, logger, version, uploads } = deps;
  const app = createBaseApp({
    logger,
    lifecycle,
    wording: ADMIN_WORDING,
    access: deps.access,
    accessByMethod: ADMIN_ACCESS,
    // Uploads take their time; one that stands still is ended by its route.
    requestTimeoutMs: uploads.limits.totalMs,
    onRequestEnd: (end) => metrics.requestEnded(end),
    model: engine.limits.modelId,
  });
  registerSameOrigin(app, deps.boundTo);
  const routes = routesOf(app, () => {
    registerOpenApi(app, {
      title: 'loramux admin',
      version,
      components: ADMIN_COMPONENTS,
      accessByMethod: ADMIN_ACCESS,
      // Pages of other origins.
      errors: [403],
      errorSchema: 'AdminError',
    });
    registerProbes(app, new Health({ engine, lifecycle, now: deps.now ?? monotonicNow }), version);
    registerMetrics(app, metrics);
    registerAdapterRoutes(app, { engine, lifecycle });
    registerUploadRoute(app, { engine, lifecycle, uploads });
    registerAliasRoutes(app, engine);
    registerStateRoutes(app, { engine, lifecycle, version });
  });
  registerMethodNotAllowed(app, routes, ADMIN_WORDING);
  return app;
}
