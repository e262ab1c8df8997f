import type { TestContext } from 'node:test';
import { type Client, credentials, makeClientConstructor, type ServiceError } from '@grpc/grpc-js';
import { loadSync, type ServiceDefinition } from '@grpc/proto-loader';
import { pino } from 'pino';
import { createGeneration } from '../../src/app.js';
import { packageRoot } from '../../src/engine/addon.js';
import { type GrpcDeps, startGrpc } from '../../src/grpc.js';
import { Lifecycle } from '../../src/server/lifecycle.js';
import { ByteTokenizer, openByteTokenizer } from './byte-tokenizer.js';
import { RecordingMetrics } from './http-app.js';
import { ScriptedEngine } from './scripted-engine.js';

/** The services as clients see them: fields at their defaults are there. */
const options = {
  includeDirs: [`${packageRoot()}/proto`],
  longs: String,
  enums: String,
  arrays: true,
  defaults: true,
  oneofs: true,
};
const definitions = loadSync(['loramux/v1/generation.proto', 'loramux/v1/adapter_admin.proto'], options);
export const PROTOS = {
  generation: definitions['loramux.v1.Generation'] as ServiceDefinition,
  adapterAdmin: definitions['loramux.v1.AdapterAdmin'] as ServiceDefinition,
};

export interface TestGrpc {
  readonly engine: ScriptedEngine;
  readonly metrics: RecordingMetrics;
  readonly lifecycle: Lifecycle;
  readonly lines: string[];
  /** Addresses of the listeners. */
  readonly address: string;
  readonly adminAddress: string;
  /** A client of one of the services; closed when the test ends. */
  client(service: ServiceDefinition, address: string): CallableClient;
}

/** A client whose methods are looked up by name, as generated code would have them. */
export type CallableClient = Client & Readonly<Record<string, (...args: unknown[]) => unknown>>;

/** Both listeners over a scripted engine and a byte tokenizer; closed when the test ends. */
export async function startGrpcApp(
  test: TestContext,
  overrides: Partial<Pick<GrpcDeps, 'keys'>> & { readonly maxBufferedBytes?: number } = {},
): Promise<TestGrpc> {
  const engine = new ScriptedEngine();
  const lifecycle = new Lifecycle();
  lifecycle.markReady();
  const health = { isReady: () => lifecycle.ready, isDraining: () => lifecycle.draining };
  const metrics = new RecordingMetrics({ engine, version: '0.0.0', now: () => Date.now(), ...health });
  const lines: string[] = [];
  const logger = pino({ level: 'debug' }, { write: (line: string) => lines.push(line) });
  const tokenizer = new ByteTokenizer();
  const { maxBufferedBytes, keys = null } = overrides;
  const buffer = maxBufferedBytes === undefined ? {} : { maxBufferedBytes };
  const generation = createGeneration({ engine, tokenizer, openTokenizer: openByteTokenizer, metrics, ...buffer });
  const openai = {
    servedNames: [],
    maxChoices: 16,
    maxBestOf: 2,
    toolCallFormat: 'auto' as const,
    vllmLoraApi: 'off' as const,
    vllmUnloadMissing: 404 as const,
  };
  const deps = { engine, generation, tokenizer, lifecycle, metrics, logger, openai, keys, drawSeed: () => 7n };
  const listeners = await startGrpc(deps, {
    generation: { host: '127.0.0.1', port: 0 },
    admin: { host: '127.0.0.1', port: 0 },
  });
  const clients: Client[] = [];
  test.after(async () => {
    for (const client of clients) client.close();
    await listeners.close();
    metrics.close();
  });
  return {
    engine,
    metrics,
    lifecycle,
    lines,
    address: listeners.address ?? '',
    adminAddress: listeners.adminAddress ?? '',
    client: (service, address) => {
      const client = connect(service, address);
      clients.push(client);
      return client;
    },
  };
}

/** A client of `service` at `host:port`. */
export function connect(service: ServiceDefinition, address: string): CallableClient {
  const Constructor = makeClientConstructor(service, 'test');
  return new Constructor(address, credentials.createInsecure()) as unknown as CallableClient;
}

/** Carries out a unary call. Rejects with the ServiceError. */
export function unary(client: CallableClient, method: string, message: object, ...rest: unknown[]): Promise<Reply> {
  return new Promise((resolve, reject) => {
    client[method]?.(message, ...rest, (error: ServiceError | null, reply: Reply) => {
      if (error === null) resolve(reply);
      else reject(error);
    });
  });
}

export type Reply = ReturnType<typeof JSON.parse>;
