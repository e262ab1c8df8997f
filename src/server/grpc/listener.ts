import { Server, ServerCredentials } from '@grpc/grpc-js';
import type { ServiceDefinition } from '@grpc/proto-loader';
import { ReflectionService } from '@grpc/reflection';
import { HealthImplementation } from 'grpc-health-check';
import { LoramuxError } from '../../core/errors.js';
import type { Lifecycle } from '../lifecycle.js';
import type { Protos } from './protos.js';

const MAX_MESSAGE_BYTES = 4 * 2 ** 20;
const MAX_STREAMS = 256;
const KEEPALIVE_MS = 30_000;
/** Calls that still run this long after the drain are cut. */
const FLUSH_MS = 2_000;

/** Which service a listener has. */
export interface GrpcService {
  readonly kind: 'generation' | 'adapterAdmin';
  readonly implementation: Parameters<Server['addService']>[1];
}

/** A bound gRPC server. */
export interface GrpcListener {
  /** `host:port`. */
  readonly address: string;
  /** Refuses new calls, lets those that run finish for two seconds, then cuts them. */
  close(): Promise<void>;
}

/**
 * Serves one service with the standard health service and reflection, in plain text: encryption is a proxy's or mesh's.
 * Health says NOT_SERVING while the server starts or drains. ERR_CONFIG when the address cannot be bound.
 */
export async function listen(
  host: string,
  port: number,
  { kind, implementation }: GrpcService,
  protos: Protos,
  lifecycle: Lifecycle,
): Promise<GrpcListener> {
  const server = new Server({
    'grpc.max_receive_message_length': MAX_MESSAGE_BYTES,
    'grpc.max_concurrent_streams': MAX_STREAMS,
    'grpc.keepalive_time_ms': KEEPALIVE_MS,
  });
  const definition: ServiceDefinition = protos[kind];
  server.addService(definition, implementation);
  const name = kind === 'generation' ? 'loramux.v1.Generation' : 'loramux.v1.AdapterAdmin';
  const health = new HealthImplementation({ '': 'NOT_SERVING', [name]: 'NOT_SERVING' });
  const setHealth = (state: 'SERVING' | 'NOT_SERVING'): void => {
    for (const service of ['', name]) health.setStatus(service, state);
  };
  lifecycle.onReady(() => setHealth('SERVING'));
  lifecycle.onDrain(() => setHealth('NOT_SERVING'));
  health.addToServer(server);
  new ReflectionService(protos.reflected(kind)).addToServer(server);
  const bound = await bind(server, host, port);
  return { address: `${host}:${bound}`, close: () => close(server) };
}

function bind(server: Server, host: string, port: number): Promise<number> {
  const address = `${host.includes(':') ? `[${host}]` : host}:${port}`;
  return new Promise((resolve, reject) => {
    server.bindAsync(address, ServerCredentials.createInsecure(), (error, bound) => {
      if (error === null) resolve(bound);
      else reject(new LoramuxError('ERR_CONFIG', `gRPC cannot listen on ${address}: ${error.message}`));
    });
  });
}

function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    const cut = setTimeout(() => server.forceShutdown(), FLUSH_MS);
    server.tryShutdown(() => {
      clearTimeout(cut);
      resolve();
    });
  });
}
