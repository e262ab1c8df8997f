import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import type { FastifyInstance } from 'fastify';
import { type Logger, pino } from 'pino';
import { buildAdminApp, buildApp, createGeneration, monotonicNow, randomSeed } from './app.js';
import type { Config } from './config/config.js';
import { startDevice } from './device-start.js';
import { loadBinding } from './engine/addon.js';
import { WorkerEngineClient } from './engine/worker-client.js';
import { type GrpcListeners, startGrpc } from './grpc.js';
import { startKeys } from './keys-start.js';
import { Metrics } from './metrics/metrics.js';
import { prepareModel } from './model/prepare-model.js';
import { createProgressDisplay } from './model/progress.js';

import { Lifecycle } from './server/lifecycle.js';
import { sourcesStart } from './sources-start.js';

/**
 * Once nothing runs any more, replies on their way get this long; then connections are cut. Without it, one that was
 * opened and never used would keep the process up for a minute.
 */
const FLUSH_MS = 2_000;

/** A server that answers. */
export interface RunningServer {
  /** `http://host:port` of the public and the admin listener. */
  readonly url: string;
  readonly adminUrl: string;
  /** `host:port` of the gRPC services; null = not served. */
  readonly grpcAddress: string | null;
  readonly grpcAdminAddress: string | null;
  readonly modelId: string;
  readonly logger: Logger;
  /** Resolves when somebody asked for a drain over HTTP; `stop` then carries it out. */
  readonly drainRequested: Promise<void>;
  /** Reads the file of API keys now instead of within two seconds; does nothing where no keys are configured. */
  reloadKeys(): void;
  /**
   * Refuses new work, lets what runs finish within the drain timeout, then frees everything. Idempotent.
   */
  stop(): Promise<void>;
}

/**
 * Prepares the model, starts the engine and listens on both ports; resolves once a token was generated.
 * Errors: LoramuxError of the part that failed; nothing is left running then.
 */
export async function serve(config: Config, memoryBytes: number, version: string): Promise<RunningServer> {
  // Standard output belongs to the ready lines.
  const logger = pino({ level: config.logLevel, base: null }, pino.destination({ fd: 2, sync: false }));
  const keys = startKeys(config, (level, event, text) => logger[level]({ event }, text));
  const device = startDevice(config, (text) => logger.warn({ event: 'device.fallback' }, text));
  logger.info({ event: 'device.chosen' }, `computing on ${device.title}`);
  const binding = loadBinding();
  const progress = createProgressDisplay();
  const model = await prepareModel({
    model: config.model,
    precision: device.precision(config),
    device: device.kind,
    cacheDir: config.cacheDir,
    checksumFile: (path) => binding.crc32File(path),
    onProgress: progress.report,
    memoryBytes,
    instructionSet: binding.instructionSet(),
    hub: {
      offline: config.hubOffline,
      ...(config.hubEndpoint === null ? {} : { endpoint: config.hubEndpoint }),
      ...(config.hubToken === null ? {} : { token: config.hubToken }),
    },
  }).finally(() => progress.stop());
  logger.info(
    { event: 'model.ready' },
    `${model.manifest.modelId} in ${model.manifest.precision}: ${model.precisionReason}`,
  );

  const tokenizer = binding.Tokenizer.fromFile(join(model.directory, model.manifest.tokenizer.file));
  const { threads, maxModelLen, maxBatchTokens, maxSequences, maxQueue, prefixCache, speculation } = config;
  const sources = sourcesStart(config);
  const engine = await WorkerEngineClient.start({
    start: {
      model,
      tokenCount: tokenizer.vocabSize(),
      adapterRoots: config.adapters === null ? [] : [config.adapters],
      sources,
      maxAdapterBytes: config.maxAdapterBytes,
      adapterDtype: config.adapterDtype,
      ...(config.kvDtype === null ? {} : { kvDtype: config.kvDtype }),
      threads,
      ...device.start,
      ...device.memory(config, model.manifest, memoryBytes),
      adapterHostMemoryBytes: device.hostMemory(config, memoryBytes),
      maxModelLen,
      maxBatchTokens,
      maxPrefillRows: device.prefillRows(config),
      maxSequences,
      maxQueue,
      prefixCache,
      speculation,
      launchAhead: device.launchAhead(config),
    },
    log: (level, event, text) => logger[level]({ event }, text),
  });

  const lifecycle = new Lifecycle();
  const metrics = new Metrics({
    engine,
    version,
    now: monotonicNow,
    isReady: () => lifecycle.ready,
    isDraining: () => lifecycle.draining,
  });
  const { servedNames, maxChoices, maxBestOf, toolCallFormat, vllmLoraApi, vllmUnloadMissing, requestSources } = config;
  const openai = { servedNames, maxChoices, maxBestOf, toolCallFormat, vllmLoraApi, vllmUnloadMissing };
  const access = { keys: keys?.ring ?? null, publicMetrics: config.publicMetrics };
  const shared = { engine, lifecycle, metrics, logger, version, access };
  const generation = createGeneration({
    engine,
    tokenizer,
    openTokenizer: (json) => binding.Tokenizer.fromJson(json),
    metrics,
  });
  const app = buildApp({
    ...shared,
    generation,
    tokenizer,
    maxBestOf,
    requestSources,
    openai,
    corsOrigins: config.corsOrigins,
    streamOrigins: config.streamOrigins,
  });
  const uploads = { directory: sources.directory, limits: sources.fetch.limits };
  const admin = buildAdminApp({ ...shared, boundTo: config.adminHost, uploads });
  let grpc: GrpcListeners | null = null;
  const close = async (): Promise<void> => {
    const apps = [app, admin];
    const cut = setTimeout(() => {
      for (const { server } of apps) server.closeAllConnections();
    }, FLUSH_MS);
    await Promise.all([...apps, grpc].map((each) => each?.close()));
    clearTimeout(cut);
    metrics.close();
    keys?.close();
    await engine.close();
  };
  try {
    await app.listen({ host: config.host, port: config.port });
    await admin.listen({ host: config.adminHost, port: config.adminPort });
    const at = (host: string, port: number | null) => (port === null ? null : { host, port });
    grpc = await startGrpc(
      { ...shared, generation, tokenizer, openai, keys: access.keys, drawSeed: randomSeed },
      { generation: at(config.host, config.grpcPort), admin: at(config.adminHost, config.grpcAdminPort) },
    );
  } catch (error) {
    await close();
    throw error;
  }
  keys?.watch();
  lifecycle.markReady();

  let stopped: Promise<void> | null = null;
  const stop = async (): Promise<void> => {
    lifecycle.beginDrain();
    logger.info({ event: 'drain.start' }, 'draining');
    await engine.drain(config.drainTimeoutMs);
    await close();
    logger.info({ event: 'drain.end' }, 'stopped');
  };
  return {
    url: urlOf(app, config.host),
    adminUrl: urlOf(admin, config.adminHost),
    grpcAddress: grpc.address,
    grpcAdminAddress: grpc.adminAddress,
    modelId: engine.limits.modelId,
    logger,
    drainRequested: new Promise((resolve) => lifecycle.onDrain(resolve)),
    reloadKeys: () => keys?.reload(),
    stop: () => {
      stopped ??= stop();
      return stopped;
    },
  };
}

/** The bound port may differ from the configured one, which can be 0. */
function urlOf(app: FastifyInstance, host: string): string {
  const { port } = app.server.address() as AddressInfo;
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
}
