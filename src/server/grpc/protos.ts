import { loadSync, type PackageDefinition, type ServiceDefinition } from '@grpc/proto-loader';

const FILES = ['loramux/v1/generation.proto', 'loramux/v1/adapter_admin.proto'];

/** The services of `proto/`, as the gRPC library wants them. */
export interface Protos {
  readonly generation: ServiceDefinition;
  readonly adapterAdmin: ServiceDefinition;
  /** One file's worth of definitions each, for reflection. */
  readonly packageOf: (service: 'generation' | 'adapterAdmin') => PackageDefinition;
}

/**
 * Reads the files below `directory`. Messages then have camelCase names, 64-bit integers and enums as strings, lists
 * that are never absent, and everything else absent where it is not set.
 */
export function loadProtos(directory: string): Protos {
  const options = { includeDirs: [directory], longs: String, enums: String, arrays: true, oneofs: true };
  const [generation, adapterAdmin] = FILES.map((file) => loadSync(file, options));
  const packages = { generation: generation as PackageDefinition, adapterAdmin: adapterAdmin as PackageDefinition };
  return {
    generation: packages.generation['loramux.v1.Generation'] as ServiceDefinition,
    adapterAdmin: packages.adapterAdmin['loramux.v1.AdapterAdmin'] as ServiceDefinition,
    packageOf: (service) => packages[service],
  };
}
