import type { FastifyBaseLogger } from 'fastify';
import type { KeyRing } from './auth/key-ring.js';
import type { EngineClient } from './core/engine-client.js';
import { packageRoot } from './engine/addon.js';
import type { NativeTokenizer } from './engine/binding.js';
import type { GenerationService } from './generation/service.js';
import type { Metrics } from './metrics/metrics.js';
import { type GrpcListener, listen } from './server/grpc/listener.js';
import { loadProtos } from './server/grpc/protos.js';
import { adapterAdminService, generationService } from './server/grpc/services.js';
import type { Lifecycle } from './server/lifecycle.js';
import { baseNames } from './server/openai/base-names.js';
import type { OpenAiSettings } from './server/openai/deps.js';
import type { SeedSource } from './server/openai/sampling.js';

export interface GrpcDeps {
  readonly engine: EngineClient;
  readonly generation: GenerationService;
  readonly tokenizer: Pick<NativeTokenizer, 'encode'>;
  readonly lifecycle: Lifecycle;
  readonly metrics: Metrics;
  readonly logger: FastifyBaseLogger;
  readonly drawSeed: SeedSource;
  /** Names of the base and limits of choices are those of OpenAI's routes. */
  readonly openai: OpenAiSettings;
  /** null = everything is open to everyone. */
  readonly keys: KeyRing | null;
}

/** Where a service listens; null = it is not served. Port 0 = any free one. */
export interface GrpcAddresses {
  readonly generation: { readonly host: string; readonly port: number } | null;
  readonly admin: { readonly host: string; readonly port: number } | null;
}

/** What listens. */
export interface GrpcListeners {
  /** `host:port` of the service Generation, and of AdapterAdmin. */
  readonly address: string | null;
  readonly adminAddress: string | null;
  close(): Promise<void>;
}

/** Starts the gRPC services that have an address. ERR_CONFIG when one cannot be bound; nothing listens then. */
export async function startGrpc(deps: GrpcDeps, { generation, admin }: GrpcAddresses): Promise<GrpcListeners> {
  const { engine, lifecycle, metrics, logger, keys, openai } = deps;
  const protos = loadProtos(`${packageRoot()}/proto`);
  const calls = {
    keys,
    logger,
    onEnd: (end: Parameters<Metrics['requestEnded']>[0]) => metrics.requestEnded(end),
    model: engine.limits.modelId,
  };
  const base = baseNames(openai.servedNames, engine.limits.modelId);
  const open: GrpcListener[] = [];
  const close = async (): Promise<void> => {
    await Promise.all(open.map((listener) => listener.close()));
  };
  const start = async (
    where: GrpcAddresses['generation'],
    service: Parameters<typeof listen>[2],
  ): Promise<string | null> => {
    if (where === null) return null;
    const listener = await listen(where.host, where.port, service, protos, lifecycle);
    open.push(listener);
    return listener.address;
  };
  try {
    const address = await start(generation, generationService({ ...deps, ...openai, base }, calls));
    const adminAddress = await start(admin, adapterAdminService(deps, calls));
    return { address, adminAddress, close };
  } catch (thrown) {
    await close();
    throw thrown;
  }
}
