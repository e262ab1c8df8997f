import { join } from 'node:path';
import { loadSync, type PackageDefinition, type ServiceDefinition } from '@grpc/proto-loader';
import { protoPath as HEALTH_FILE } from 'grpc-health-check';
import { reflectedFiles } from './reflected-files.js';

const FILES = { generation: 'loramux/v1/generation.proto', adapterAdmin: 'loramux/v1/adapter_admin.proto' } as const;
/** The name by which others import the standard health service. */
const HEALTH_NAME = 'grpc/health/v1/health.proto';

/** The services of `proto/`, as the gRPC library wants them. */
export interface Protos {
  readonly generation: ServiceDefinition;
  readonly adapterAdmin: ServiceDefinition;
  /** What reflection tells of a listener: the service's file and that of the health service. */
  readonly reflected: (service: keyof typeof FILES) => PackageDefinition;
}

/**
 * Reads the files below `directory`. Messages then have camelCase names, 64-bit integers and enums as strings, lists
 * that are never absent, and everything else absent where it is not set.
 */
export function loadProtos(directory: string): Protos {
  const options = { includeDirs: [directory], longs: String, enums: String, arrays: true, oneofs: true };
  const generation = loadSync(FILES.generation, options);
  const adapterAdmin = loadSync(FILES.adapterAdmin, options);
  return {
    generation: generation['loramux.v1.Generation'] as ServiceDefinition,
    adapterAdmin: adapterAdmin['loramux.v1.AdapterAdmin'] as ServiceDefinition,
    reflected: (service) => ({
      ...reflectedFiles(FILES[service], join(directory, FILES[service])),
      ...reflectedFiles(HEALTH_NAME, HEALTH_FILE),
    }),
  };
}
