import type { TestContext } from 'node:test';
import { ServerProcess } from '../helpers/server-process.js';

/** Flags of the server that all client tests share: the demo model with the adapters of the examples. */
export const SERVER_FLAGS: readonly string[] = ['--log-level', 'warn'];

/** Where `with-server.ts` says which server the tests should talk to. */
export const URL_VARIABLE = 'CLIENTS_URL';

/** Address of the server under test. A file that is run by itself gets a server of its own until the test ends. */
export async function serverUrl(test: TestContext): Promise<string> {
  const given = process.env[URL_VARIABLE];
  if (given !== undefined) return given;
  const server = await ServerProcess.start(SERVER_FLAGS);
  test.after(() => server.kill());
  return server.url;
}
