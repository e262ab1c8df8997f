import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { adapterDigest } from '../../../src/adapters/digest.js';
import { AdapterRegistry } from '../../../src/adapters/registry.js';
import type { OpenRequest, RemoteSources } from '../../../src/adapters/sources/remote-sources.js';
import type { HubSource, RemoteSource } from '../../../src/core/adapter-source.js';
import { LoramuxError } from '../../../src/core/errors.js';
import { type GenerateRequest, GREEDY_SAMPLING, PLAIN_REQUEST } from '../../../src/core/request.js';
import { claim, tryClaim } from '../../../src/worker/claim.js';
import { coded, RANK_BYTES, ScriptedBackend, temporaryDirectory, tinyBase, writeAdapter } from './support.js';

async function digestOf(directory: string): Promise<string> {
  const names = ['adapter_config.json', 'adapter_model.safetensors'];
  const files = names.map(async (path) => {
    const content = await readFile(join(directory, path));
    return { path, bytes: content.length, sha256: createHash('sha256').update(content).digest('hex') };
  });
  return adapterDigest(await Promise.all(files));
}

/** A hub with `org/open`, and `org/closed` behind the token `good`; it notes what was asked. */
class StubHub implements RemoteSources {
  readonly asked: (string | null)[] = [];

  constructor(private readonly root: string) {}

  async open(source: RemoteSource, _request: OpenRequest) {
    const { location, token } = source as HubSource;
    this.asked.push(token);
    const isOpen = location.startsWith('org/open') || (location === 'org/closed' && token === 'good');
    if (!isOpen) throw new LoramuxError('ERR_ADAPTER_NOT_FOUND', `nothing at ${location}`);
    const directory = join(this.root, location === 'org/closed' ? 'closed' : 'open');
    return { directory, root: this.root, digest: await digestOf(directory), release: () => undefined };
  }
  admit(source: RemoteSource) {
    return Promise.resolve(source);
  }
  async discard() {}
  keepUploads() {}
  tier() {
    return { tier: 'disk', bytes: 0, capacity: 1, pinned: 0 } as const;
  }
  async close() {}
}

async function rig(t: TestContext) {
  const root = await temporaryDirectory(t);
  await writeAdapter(join(root, 'remote', 'open'), { fill: 1 });
  await writeAdapter(join(root, 'remote', 'closed'), { fill: 2 });
  await writeAdapter(join(root, 'local', 'mine'), { fill: 3 });
  const hub = new StubHub(join(root, 'remote'));
  const registry = new AdapterRegistry({
    backend: new ScriptedBackend(),
    base: tinyBase(),
    roots: [join(root, 'local')],
    sources: hub,
    capacityBytes: 10 * RANK_BYTES,
    emit: () => undefined,
  });
  t.after(() => assert.deepEqual(registry.violations(), []));
  return { registry, hub };
}

function hubSource(location: string, token: string | null = null): HubSource {
  return { type: 'hub', location, revision: 'main', token };
}

let id = 0;
function asking(name: string, source: HubSource): GenerateRequest {
  id += 1;
  const adapterSources = new Map([[name, source]]);
  const request = { ...PLAIN_REQUEST, id, adapter: name, adapterSources, promptIds: Uint32Array.of(1) };
  return { ...request, maxNewTokens: 1, stopIds: [], sampling: GREEDY_SAMPLING };
}

const NEVER = new AbortController().signal;

test('an adapter that a request locates is loaded once, and answers under the name of the request', async (t) => {
  const { registry, hub } = await rig(t);
  const request = asking('org/open', hubSource('org/open'));
  assert.equal(tryClaim(registry, request), null);
  const first = await claim(registry, request, NEVER);
  assert.equal(first.servedBy.adapter, 'org/open');
  assert.equal(first.servedBy.tierAtArrival, 'disk');
  first.release();
  const second = tryClaim(registry, request);
  assert.equal(second?.servedBy.tierAtArrival, 'host');
  second?.release();
  assert.equal(hub.asked.length, 1);
  const [adapter] = (await registry.list()).adapters.filter(({ name }) => name === 'org/open');
  assert.equal(adapter?.source, 'hub:org/open@main');
});

test('what a token opened is for those who have the token', async (t) => {
  const { registry, hub } = await rig(t);
  const good = asking('org/closed', hubSource('org/closed', 'good'));
  const held = await claim(registry, good, NEVER);
  assert.equal(held.servedBy.adapter, 'org/closed');
  held.release();
  const strangers = [hubSource('org/closed', 'bad'), hubSource('org/closed')];
  for (const source of strangers) {
    const request = asking('org/closed', source);
    assert.equal(tryClaim(registry, request), null);
    await assert.rejects(claim(registry, request, NEVER), coded('ERR_ADAPTER_NOT_FOUND'));
  }
  const { adapterSources: _, ...plain } = good;
  assert.equal(tryClaim(registry, plain), null);
  await assert.rejects(claim(registry, plain, NEVER), coded('ERR_ADAPTER_NOT_FOUND'));
  assert.deepEqual(hub.asked, ['good', 'bad', null]);
  const again = tryClaim(registry, good);
  assert.ok(again !== null);
  again.release();
  const names = (await registry.list()).adapters.map(({ name }) => name).join(' ');
  assert.ok(!names.includes('good'), names);
});

test('a name that means something else here is refused, and one that the operator unloaded stays away', async (t) => {
  const { registry } = await rig(t);
  const mine = asking('mine', hubSource('mine'));
  await assert.rejects(claim(registry, mine, NEVER), coded('ERR_VALIDATION'));
  (await registry.acquire('mine')).release();
  assert.throws(() => tryClaim(registry, mine), coded('ERR_VALIDATION'));
  const request = asking('org/open', hubSource('org/open'));
  (await claim(registry, request, NEVER)).release();
  await registry.unload('org/open');
  await assert.rejects(claim(registry, request, NEVER), coded('ERR_ADAPTER_NOT_FOUND'));
});

test('adapters that nobody uses any more are forgotten when they become many', async (t) => {
  const { registry } = await rig(t);
  for (let at = 0; at < 300; at += 1) await registry.locate(`org/open${at}`, hubSource(`org/open${at}`));
  const { adapters } = await registry.list();
  assert.equal(adapters.length, 256 + 1);
  assert.ok(adapters.some(({ name }) => name === 'org/open299'));
  assert.ok(!adapters.some(({ name }) => name === 'org/open0'));
});
