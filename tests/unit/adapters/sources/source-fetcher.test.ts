import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { AdapterRegistry } from '../../../../src/adapters/registry.js';
import { DiskTier } from '../../../../src/adapters/sources/disk-tier.js';
import { Fetcher } from '../../../../src/adapters/sources/fetcher.js';
import type { OpenRequest } from '../../../../src/adapters/sources/remote-sources.js';
import { SourceFetcher } from '../../../../src/adapters/sources/source-fetcher.js';
import type { HttpSource, HubSource } from '../../../../src/core/adapter-source.js';
import type { Telemetry } from '../../../../src/core/telemetry.js';
import type { LocalServer } from '../../../helpers/local-server.js';
import { startHub } from '../../model/helpers/hub-server.js';
import { coded, ScriptedBackend, temporaryDirectory, tinyBase, until, writeAdapter } from '../support.js';
import { adapterFiles, allowing, digestOf, type Files, type Handler, LIMITS, startFiles, WEIGHTS } from './support.js';

const COMMIT = '0123456789abcdef0123456789abcdef01234567';

interface Rig {
  readonly sources: SourceFetcher;
  readonly root: string;
  readonly registry: AdapterRegistry;
  readonly backend: ScriptedBackend;
  readonly facts: Telemetry[];
}

async function rig(
  t: TestContext,
  servers: readonly LocalServer[],
  options: { hub?: string; hubOffline?: boolean; root?: string; roots?: string[] } = {},
): Promise<Rig> {
  const root = options.root ?? (await temporaryDirectory(t));
  const rules = allowing(...servers);
  const limits = { ...LIMITS, stallMs: 5_000 };
  const hub = { endpoint: options.hub ?? null, token: null };
  const facts: Telemetry[] = [];
  const sources = new SourceFetcher({
    disk: await DiskTier.open(root, 2 ** 20),
    backend: new Fetcher({ limits, rules, hub, s3Endpoint: null }),
    rules,
    hubOffline: options.hubOffline ?? false,
    emit: (fact) => facts.push(fact),
  });
  const backend = new ScriptedBackend();
  const registry = new AdapterRegistry({
    backend,
    base: tinyBase(),
    roots: options.roots ?? [],
    sources,
    capacityBytes: 2 ** 20,
    emit: () => undefined,
  });
  return { sources, root, registry, backend, facts };
}

function request(changes: Partial<OpenRequest> = {}): OpenRequest {
  return { refresh: true, signal: new AbortController().signal, onProgress: () => undefined, ...changes };
}

function at(server: LocalServer, token: string | null = null): HttpSource {
  return { type: 'http', location: `${server.url}/a`, token };
}

/** Holds the weights back until `open` is called. */
function gate(): { odd: Handler; open: () => void } {
  const waiting: (() => void)[] = [];
  let isOpen = false;
  return {
    odd: (_request, response, bytes, name) => {
      if (name !== WEIGHTS) return false;
      const send = (): void => {
        response.writeHead(200, { 'content-length': bytes.length }).end(bytes);
      };
      if (isOpen) send();
      else waiting.push(send);
      return true;
    },
    open: () => {
      isOpen = true;
      for (const send of waiting) send();
    },
  };
}

async function started(t: TestContext, files?: Files) {
  const held = gate();
  const server = await startFiles(t, files ?? (await adapterFiles(t)), held.odd);
  return { held, server };
}

const isAsked = (server: LocalServer) => () => server.requests.some(({ path }) => path.includes(WEIGHTS));

test('all who want a source share one fetch; it goes on while one of them waits', async (t) => {
  const files = await adapterFiles(t);
  const { held, server } = await started(t, files);
  const { sources, root } = await rig(t, [server]);
  const leaver = new AbortController();
  const gone = sources.open(at(server), request({ signal: leaver.signal }));
  const both = Promise.all([sources.open(at(server), request()), sources.open(at(server), request())]);
  await until(isAsked(server));
  leaver.abort();
  await assert.rejects(gone, coded('ERR_ABORTED', /./));
  held.open();
  const copies = await both;
  assert.deepEqual(
    copies.map(({ digest }) => digest),
    [digestOf(files), digestOf(files)],
  );
  assert.equal(server.requests.filter(({ path }) => path.includes(WEIGHTS)).length, 1);
  assert.deepEqual(await readdir(join(root, 'incoming')), []);
  for (const copy of copies) copy.release();
  assert.equal(sources.tier().pinned, 0);
});

test('a fetch that nobody wants any more ends; the next one begins anew', async (t) => {
  const { held, server } = await started(t);
  const { sources, root } = await rig(t, [server]);
  const leaver = new AbortController();
  const gone = sources.open(at(server), request({ signal: leaver.signal }));
  await until(isAsked(server));
  leaver.abort();
  await assert.rejects(gone, coded('ERR_ABORTED', /./));
  held.open();
  (await sources.open(at(server), request())).release();
  await until(() => readdirSync(join(root, 'incoming')).length === 0);
});

test('a copy serves without the source unless an operator asks; a token is needed where one was', async (t) => {
  const files = { ...(await adapterFiles(t)) };
  const server = await startFiles(t, files, (asked, response) => {
    const isOpen = asked.headers.authorization === 'Bearer key';
    if (!isOpen) response.writeHead(401).end();
    return !isOpen;
  });
  const { sources, root } = await rig(t, [server]);
  (await sources.open(at(server, 'key'), request())).release();
  const asked = server.requests.length;
  const again = await rig(t, [server], { root });
  const copy = await again.sources.open(at(server, 'key'), request({ refresh: false }));
  assert.equal(copy.digest, digestOf(files));
  assert.equal(server.requests.length, asked);
  await assert.rejects(
    again.sources.open(at(server, 'other'), request({ refresh: false })),
    coded('ERR_ADAPTER_SOURCE', /401/),
  );
  const changed = await adapterFiles(t, 7);
  files[WEIGHTS] = changed[WEIGHTS] ?? Buffer.of();
  assert.equal((await again.sources.open(at(server, 'key'), request())).digest, digestOf(files));
});

test('a commit is asked for once, a branch each time, and neither when the hub is switched off', async (t) => {
  const files = await adapterFiles(t);
  const hub = await startHub(t, { repo: 'org/sql', commit: COMMIT, files });
  const from = (revision: string): HubSource => ({ type: 'hub', location: 'org/sql', revision, token: null });
  const { sources, root } = await rig(t, [], { hub: hub.endpoint });
  for (const revision of [COMMIT, 'main']) (await sources.open(from(revision), request())).release();
  const downloads = (): number => hub.requests.filter((path) => path.includes('/resolve/')).length;
  const asked = hub.requests.length;
  const loaded = downloads();
  (await sources.open(from(COMMIT), request())).release();
  assert.equal(hub.requests.length, asked);
  (await sources.open(from('main'), request())).release();
  assert.ok(hub.requests.length > asked);
  assert.equal(downloads(), loaded);
  const offline = await rig(t, [], { hub: hub.endpoint, hubOffline: true, root });
  const before = hub.requests.length;
  assert.equal((await offline.sources.open(from('main'), request())).digest, digestOf(files));
  await assert.rejects(
    offline.sources.open(from('v2'), request()),
    coded('ERR_ADAPTER_NOT_FOUND', /hub is switched off/),
  );
  assert.equal(hub.requests.length, before);
});

test('a load from a remote source shows its progress and holds no directory up', async (t) => {
  const files = await adapterFiles(t);
  const { held, server } = await started(t, files);
  const directories = await temporaryDirectory(t);
  for (const name of ['x', 'y']) await writeAdapter(join(directories, name), { fill: 3 });
  const { registry } = await rig(t, [server], { roots: [directories] });
  const loads = ['a', 'b', 'c'].map((name) =>
    registry.load({ name, source: at(server, name), pin: false, wait: true, replace: true }),
  );
  await until(isAsked(server));
  (await registry.acquire('x')).release();
  (await registry.acquire('y')).release();
  const waiting = await registry.get('a');
  assert.equal(waiting.state, 'fetching');
  assert.equal(waiting.source, `${server.url}/a`);
  assert.ok((waiting.progress?.bytes ?? 0) > 0, 'the configuration has come');
  held.open();
  for (const { outcome, adapter } of await Promise.all(loads)) {
    assert.equal(outcome, 'created');
    assert.equal(adapter.digest, digestOf(files));
    assert.equal(adapter.progress, undefined);
  }
  const { tiers } = await registry.list();
  assert.deepEqual(
    tiers.map(({ tier }) => tier),
    ['disk', 'host'],
  );
});

test('an unload ends the fetch of its name', async (t) => {
  const { server } = await started(t);
  const { registry, root } = await rig(t, [server]);
  const load = registry.load({ name: 'a', source: at(server), pin: false, wait: true, replace: true });
  const failed = assert.rejects(load, coded('ERR_ADAPTER_UNLOADED'));
  await until(isAsked(server));
  await registry.unload('a');
  await failed;
  await until(() => readdirSync(join(root, 'incoming')).length === 0);
});

test('an evicted adapter comes back from its copy; a damaged copy is not served', async (t) => {
  const files = await adapterFiles(t);
  const server = await startFiles(t, files);
  const { registry, root, backend } = await rig(t, [server]);
  await registry.load({ name: 'a', source: at(server), pin: false, wait: true, replace: true });
  const asked = server.requests.length;
  await registry.unload('a');
  backend.onOpen = async (path) => {
    await writeFile(path, Buffer.concat([files[WEIGHTS] ?? Buffer.of(), Buffer.from('x')]));
    backend.onOpen = async () => undefined;
  };
  await assert.rejects(
    registry.load({ name: 'a', source: at(server), pin: false, wait: true, replace: true }),
    coded('ERR_ADAPTER_SOURCE', /damaged/),
  );
  assert.deepEqual(await readdir(join(root, 'content')), []);
  assert.ok(server.requests.length > asked);
  const { adapter } = await registry.load({ name: 'a', source: at(server), pin: false, wait: true, replace: true });
  assert.equal(adapter.digest, digestOf(files));
});

test('hosts outside of the list are refused before there is a name', async (t) => {
  const server = await startFiles(t, {});
  const { registry } = await rig(t, []);
  await assert.rejects(
    registry.load({ name: 'a', source: at(server), pin: false, wait: false, replace: true }),
    coded('ERR_ADAPTER_FORBIDDEN', /--adapter-hosts/),
  );
  assert.equal(server.requests.length, 0);
  await assert.rejects(registry.get('a'), coded('ERR_ADAPTER_NOT_FOUND'));
});

test('fetches, their bytes and failures, and what the disk had, are told', async (t) => {
  const files = { ...(await adapterFiles(t)) };
  const server = await startFiles(t, files);
  const { sources, facts } = await rig(t, [server]);
  const open = async (refresh: boolean): Promise<void> =>
    (await sources.open(at(server), request({ refresh }))).release();
  const told = (): unknown[] =>
    facts.splice(0).map((fact) => ({ ...fact, ...('seconds' in fact ? { seconds: 0 } : {}) }));
  const fetched = (bytes: number) => ({ kind: 'adapter-fetch', source: 'http', code: null, seconds: 0, bytes });
  const [hit, miss] = (['hit', 'miss'] as const).map((result) => ({ kind: 'disk-lookup', result }));
  await open(true);
  assert.deepEqual(told(), [miss, fetched(Object.values(files).reduce((sum, file) => sum + file.length, 0))]);
  await open(false);
  assert.deepEqual(told(), [hit]);
  files['tokenizer.json'] = Buffer.from('{"new": 1}');
  await open(true);
  assert.deepEqual(told(), [miss, fetched(10)]);
  const missing = { ...at(server), location: `${server.url}/nothing` };
  await assert.rejects(sources.open(missing, request()), coded('ERR_ADAPTER_NOT_FOUND'));
  assert.deepEqual(told(), [miss, { ...fetched(0), code: 'ERR_ADAPTER_NOT_FOUND' }]);
});

test('a restart forgets names; an upload and what its alias stood for are found again by their digest', async (t) => {
  const before = await rig(t, []);
  const files = await adapterFiles(t);
  const directory = join(before.root, 'incoming', 'upload');
  await mkdir(directory);
  for (const [name, bytes] of Object.entries(files)) await writeFile(join(directory, name), bytes);
  const digest = digestOf(files);
  const source = { type: 'upload', location: digest, received: null } as const;
  const call = { name: 'a', pin: false, wait: true, replace: true };
  await before.registry.load({ ...call, source: { ...source, received: { directory, bytes: 40_000 } } });
  await before.registry.setAlias('prod', { digest });
  await before.registry.close();

  const { registry } = await rig(t, [], { root: before.root });
  for (const name of ['a', 'prod']) await assert.rejects(registry.acquire(name), coded('ERR_ADAPTER_NOT_FOUND'));
  const reply = await registry.load({ ...call, source });
  assert.deepEqual(
    [reply.outcome, reply.adapter.digest, reply.adapter.source],
    ['created', digest, `upload:${digest}`],
  );
  await registry.setAlias('prod', { digest });
  const lease = await registry.acquire('prod');
  assert.equal(lease.digest, digest);
  lease.release();
  const unknown = { ...source, location: 'e'.repeat(64) };
  await assert.rejects(
    registry.load({ ...call, name: 'b', source: unknown }),
    coded('ERR_ADAPTER_NOT_FOUND', /upload them again/),
  );
});
