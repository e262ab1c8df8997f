import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { DEMO_ADAPTERS, TEST_CACHE } from '../helpers/paths.js';
import { ServerProcess } from '../helpers/server-process.js';
import { type HubDouble, type HubDoubleOptions, startHub } from '../unit/model/helpers/hub-server.js';
import { runSuite } from './python-suite.js';
import { environmentOf, SERVER_FLAGS, targetOf } from './server.js';

const REPO = 'demo/mood';
const COMMIT = '0123456789abcdef0123456789abcdef01234567';
const WEIGHTS = 'adapter_model.safetensors';
/** Of the request, and of the server, which must not be used then. */
const TOKENS = { request: 'hf_of_the_request', server: 'hf_of_the_server' };

const FILES = Object.fromEntries(
  ['adapter_config.json', WEIGHTS].map((name) => [name, readFileSync(join(DEMO_ADAPTERS, 'sentiment', name))]),
);

/** The cache of the tests, with a disk tier of its own that goes when the test ends. */
function cacheOf(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), 'loramux-hub-'));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  for (const part of ['downloads', 'digests', 'models']) {
    mkdirSync(join(TEST_CACHE, part), { recursive: true });
    symlinkSync(join(TEST_CACHE, part), join(directory, part));
  }
  return directory;
}

/** A hub with one adapter of the demo model, and a server that asks it. */
async function start(
  t: TestContext,
  changes: Partial<HubDoubleOptions> = {},
  flags: readonly string[] = [],
): Promise<{ readonly hub: HubDouble; readonly server: ServerProcess }> {
  const hub = await startHub(t, { repo: REPO, commit: COMMIT, files: FILES, revisions: ['main', 'v2'], ...changes });
  const access = ['--hub-endpoint', hub.endpoint, '--hub-token', TOKENS.server];
  const own = ['--cache-dir', cacheOf(t), '--log-level', 'trace'];
  const server = await ServerProcess.start([...SERVER_FLAGS, ...own, ...access, ...flags]);
  t.after(() => server.kill());
  return { hub, server };
}

function suite(server: ServerProcess, ...cases: readonly string[]): Promise<void> {
  return runSuite('hub.py', { ...environmentOf(targetOf(server)), CLIENTS_HUB_TOKEN: TOKENS.request }, cases);
}

function assertNoToken({ stdout, log }: ServerProcess): void {
  const said = `${stdout}${JSON.stringify(log)}`;
  for (const token of Object.values(TOKENS)) assert.ok(!said.includes(token), `a token was logged: ${token}`);
}

test('lorax-client: the first request fetches the adapter with its own token, the next finds it resident', async (t) => {
  const { hub, server } = await start(t, { token: TOKENS.request });
  await suite(server, 'OnDemand');
  const downloads = hub.requests.filter((path) => path.endsWith(WEIGHTS));
  assert.ok(downloads.length > 0 && downloads.every((path) => path.includes(COMMIT)), downloads.join('\n'));
  // The suite also asks with a token that opens nothing.
  const used = new Set(hub.authorizations);
  assert.deepEqual(used, new Set([`Bearer ${TOKENS.request}`, 'Bearer hf_wrong']));
  assertNoToken(server);
  await server.stop();
});

test('lorax-client: a hub that stalls, and one that lies, fail that request alone', async (t) => {
  const stalling = await start(t, { stall: [WEIGHTS] }, ['--adapter-fetch-timeout', '2s']);
  await suite(stalling.server, 'Stalling');
  await stalling.server.kill();
  for (const lie of [
    { sizes: { [WEIGHTS]: 1_000 } },
    { sizes: { [WEIGHTS]: (FILES[WEIGHTS]?.length ?? 0) + 1 } },
    { tamper: { [WEIGHTS]: Buffer.alloc(FILES[WEIGHTS]?.length ?? 0) } },
  ]) {
    const { server } = await start(t, lie, ['--adapter-fetch-timeout', '20s']);
    await suite(server, 'Lying');
    await server.kill();
  }
});
