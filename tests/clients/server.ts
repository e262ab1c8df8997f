import type { TestContext } from 'node:test';
import { ServerProcess } from '../helpers/server-process.js';

/** Flags of the server that all client tests share: the demo model with the adapters of the examples, on all listeners. */
export const SERVER_FLAGS: readonly string[] = [
  ...['--log-level', 'warn'],
  ...['--grpc-port', '0', '--grpc-admin-port', '0'],
];

/** Where the server under test listens. */
export interface Target {
  readonly url: string;
  readonly adminUrl: string;
  /** `host:port` of the gRPC services. */
  readonly grpc: string;
  readonly grpcAdmin: string;
}

/** Variables by which `with-server.ts` tells the tests, and these the Python suites, which server to talk to. */
const VARIABLES: Readonly<Record<keyof Target, string>> = {
  url: 'CLIENTS_URL',
  adminUrl: 'CLIENTS_ADMIN_URL',
  grpc: 'CLIENTS_GRPC',
  grpcAdmin: 'CLIENTS_GRPC_ADMIN',
};

export function targetOf({ url, adminUrl, grpcAddress, grpcAdminAddress }: ServerProcess): Target {
  return { url, adminUrl, grpc: grpcAddress, grpcAdmin: grpcAdminAddress };
}

/** The environment of a process that is to talk to `target`. */
export function environmentOf(target: Target): NodeJS.ProcessEnv {
  const pairs = Object.entries(VARIABLES).map(([field, name]) => [name, target[field as keyof Target]]);
  return { ...process.env, ...Object.fromEntries(pairs) };
}

/** The server under test. A file that is run by itself gets a server of its own until the test ends. */
export async function target(test: TestContext): Promise<Target> {
  const { [VARIABLES.url]: url, [VARIABLES.adminUrl]: adminUrl } = process.env;
  const { [VARIABLES.grpc]: grpc, [VARIABLES.grpcAdmin]: grpcAdmin } = process.env;
  if (url !== undefined && adminUrl !== undefined && grpc !== undefined && grpcAdmin !== undefined)
    return { url, adminUrl, grpc, grpcAdmin };
  const server = await ServerProcess.start(SERVER_FLAGS);
  test.after(() => server.kill());
  return targetOf(server);
}
