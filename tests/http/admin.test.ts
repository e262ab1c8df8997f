import assert from 'node:assert/strict';
import { resolve } from 'node:path';
import { test } from 'node:test';
import type { AdapterInfo } from '../../src/core/adapter.js';
import type { AdapterSource } from '../../src/core/adapter-source.js';
import { LoramuxError } from '../../src/core/errors.js';
import { adapterInfo as adapter } from '../helpers/adapter-info.js';
import { startApp } from '../helpers/http-app.js';
import { IDLE } from '../helpers/scripted-engine.js';

const OUTCOMES = [
  ['created', null, 201],
  ['unchanged', null, 200],
  ['replaced', 'e'.repeat(64), 200],
  ['accepted', null, 202],
] as const;

for (const [outcome, replaced, status] of OUTCOMES) {
  test(`a load that is ${outcome} answers ${status}`, async (t) => {
    const { admin, engine } = startApp(t);
    engine.onAdmin = () => ({ outcome, replaced, adapter: adapter('org/sql') });
    const payload = { name: 'org/sql', source: 'dir:some/where', pin: true, wait: false, replace: false };
    const reply = await admin.inject({ method: 'POST', url: '/adapters', payload });
    assert.equal(reply.statusCode, status);
    assert.equal(reply.json().name, 'org/sql');
    assert.equal(reply.json().replaced, replaced ?? undefined);
    assert.equal('failure' in reply.json(), false);
    const source = { type: 'dir', location: resolve('some/where') };
    assert.deepEqual(engine.adminCalls, [
      { op: 'load', name: 'org/sql', source, pin: true, wait: false, replace: false },
    ]);
  });
}

test('a dry run is checked, not loaded, and answers 200', async (t) => {
  const { admin, engine } = startApp(t);
  engine.onAdmin = () => adapter('a', { tier: 'disk' });
  const payload = { name: 'a', source: '/x', dryRun: true, pin: true, replace: false };
  const reply = await admin.inject({ method: 'POST', url: '/adapters', payload });
  assert.equal(reply.statusCode, 200);
  assert.deepEqual(reply.json().proof, { maxLogitDelta: 1.5, probeTokens: 2 });
  const source = { type: 'dir', location: '/x' };
  assert.deepEqual(engine.adminCalls, [{ op: 'check', name: 'a', source, replace: false }]);
});

const SOURCES: readonly (readonly [unknown, AdapterSource])[] = [
  ['dir:/x/y', { type: 'dir', location: '/x/y' }],
  ['/x/y', { type: 'dir', location: '/x/y' }],
  [
    { type: 'dir', location: '/x/y', revision: null },
    { type: 'dir', location: '/x/y' },
  ],
  ['hub:org/name', { type: 'hub', location: 'org/name', revision: 'main', token: null }],
  ['hub:org/name@v1', { type: 'hub', location: 'org/name', revision: 'v1', token: null }],
  [
    { type: 'hub', location: 'org/name', revision: 'refs/pr/1', token: 'hf_x' },
    { type: 'hub', location: 'org/name', revision: 'refs/pr/1', token: 'hf_x' },
  ],
  ['s3://bucket', { type: 's3', location: 's3://bucket' }],
  ['s3://bucket/a/b/', { type: 's3', location: 's3://bucket/a/b' }],
  [
    { type: 's3', location: 'bucket/a' },
    { type: 's3', location: 's3://bucket/a' },
  ],
  [`upload:${'0f'.repeat(32)}`, { type: 'upload', location: '0f'.repeat(32), received: null }],
  ['HTTPS://Host.example/a?b=c#d', { type: 'http', location: 'https://host.example/a?b=c', token: null }],
  [
    { type: 'http', location: 'http://127.1:80/a.tar', token: 't' },
    { type: 'http', location: 'http://127.0.0.1/a.tar', token: 't' },
  ],
];

for (const [source, read] of SOURCES) {
  test(`the source ${JSON.stringify(source)} is read as ${JSON.stringify(read)}`, async (t) => {
    const { admin, engine } = startApp(t);
    engine.onAdmin = () => ({ outcome: 'created', replaced: null, adapter: adapter('a') });
    const reply = await admin.inject({ method: 'POST', url: '/adapters', payload: { name: 'a', source } });
    assert.equal(reply.statusCode, 201);
    const expected = { op: 'load', name: 'a', source: read, pin: false, wait: true, replace: true };
    assert.deepEqual(engine.adminCalls.at(-1), expected);
  });
}

const MALFORMED: readonly (readonly [unknown, string])[] = [
  [undefined, 'body'],
  [[], 'body'],
  [{ source: 'x' }, 'name'],
  [{ name: '__base__', source: 'x' }, 'name'],
  [{ name: 'a:b', source: 'x' }, 'name'],
  [{ name: 'a' }, 'source'],
  [{ name: 'a', source: '' }, 'source'],
  [{ name: 'a', source: 'dir:' }, 'source'],
  [{ name: 'a', source: 'ftp://host/x' }, 'source'],
  [{ name: 'a', source: 'hub:name' }, 'source'],
  [{ name: 'a', source: 's3://' }, 'source'],
  [{ name: 'a', source: 's3://bucket/a?versionId=1' }, 'source'],
  [{ name: 'a', source: 'https://' }, 'source'],
  [{ name: 'a', source: 'https://user:secret@host/x' }, 'source'],
  [{ name: 'a', source: { type: 'merge', location: 'x' } }, 'source.type'],
  [{ name: 'a', source: { type: 'upload', location: 'x' } }, 'source.location'],
  [{ name: 'a', source: 'upload:../x' }, 'source'],
  [{ name: 'a', source: { type: 'hub', location: 'x' } }, 'source.location'],
  [{ name: 'a', source: { type: 'hub', location: 'a/b', token: 'has space' } }, 'source.token'],
  [{ name: 'a', source: { type: 's3', location: 'bucket/x', token: 't' } }, 'source.token'],
  [{ name: 'a', source: { type: 'http', location: 'http://h/x', revision: 'r' } }, 'source.revision'],
  [{ name: 'a', source: { type: 'dir' } }, 'source.location'],
  [{ name: 'a', source: { type: 'dir', location: 'x', token: 't' } }, 'source.token'],
  [{ name: 'a', source: { type: 'dir', location: 'x', extra: 1 } }, 'extra'],
  [{ name: 'a', source: 'x', pin: 'yes' }, 'pin'],
  [{ name: 'a', source: 'x', dryRun: 'yes' }, 'dryRun'],
  [{ name: 'a', source: 'x', dryRun: true, wait: false }, 'wait'],
  [{ name: 'a', source: 'x', nonsense: 1 }, 'nonsense'],
];

for (const [payload, field] of MALFORMED) {
  test(`a load of ${JSON.stringify(payload)?.slice(0, 70)} is a 400 about ${field}`, async (t) => {
    const { admin, engine } = startApp(t);
    const body = payload === undefined ? {} : { payload: payload as object };
    const reply = await admin.inject({ method: 'POST', url: '/adapters', ...body });
    assert.equal(reply.statusCode, 400, reply.body);
    assert.equal(reply.json().code, 'ERR_BAD_REQUEST');
    assert.equal(reply.json().field, field);
    assert.equal(engine.adminCalls.length, 0);
  });
}

test('failures of a load keep their status and details', async (t) => {
  const { admin, engine } = startApp(t);
  const offenders = [{ tensor: 'lora_A', expected: '[8, 64]', found: '[8, 32]' }];
  const bytes = { needed: 10, free: 1, evictable: 2 };
  const cases = [
    [new LoramuxError('ERR_ADAPTER_INVALID', 'bad', { offenders }), 422, { offenders }],
    [new LoramuxError('ERR_ADAPTER_NO_SPACE', 'full', { bytes }), 507, bytes],
    [new LoramuxError('ERR_ADAPTER_FORBIDDEN', 'no'), 403, {}],
    [new LoramuxError('ERR_ADAPTER_TOO_LARGE', 'big'), 413, {}],
    [new LoramuxError('ERR_ADAPTER_SOURCE', 'down'), 502, {}],
    [new LoramuxError('ERR_ADAPTER_NOT_FOUND', 'none'), 404, {}],
  ] as const;
  for (const [error, status, details] of cases) {
    engine.onAdmin = () => {
      throw error;
    };
    const reply = await admin.inject({ method: 'POST', url: '/adapters', payload: { name: 'a', source: '/x' } });
    assert.equal(reply.statusCode, status);
    assert.deepEqual(reply.json(), { error: error.message, code: error.code, ...details });
  }
});

test('the list is sorted, filtered and paged', async (t) => {
  const { admin, engine } = startApp(t);
  const names = Array.from({ length: 250 }, (_, at) => `a${String(at).padStart(3, '0')}`);
  const adapters = names.map((name, at) => adapter(name, at % 50 === 0 ? { state: 'failed', tier: 'disk' } : {}));
  engine.onAdmin = () => ({ adapters: [...adapters].reverse(), tiers: IDLE.tiers });
  const seen: string[] = [];
  let cursor = '';
  for (let pages = 0; ; pages += 1) {
    const reply = await admin.inject({ url: `/adapters${cursor}` });
    const { adapters: page, next, tiers } = reply.json();
    seen.push(...page.map(({ name }: AdapterInfo) => name));
    assert.deepEqual(tiers, IDLE.tiers);
    if (next === null) {
      assert.equal(pages, 2);
      break;
    }
    cursor = `?cursor=${next}`;
  }
  assert.deepEqual(seen, names);
  assert.equal((await admin.inject({ url: '/adapters?state=failed' })).json().adapters.length, 5);
  assert.equal((await admin.inject({ url: '/adapters?tier=disk&state=ready' })).json().adapters.length, 0);
  for (const query of ['state=odd', 'tier=moon', 'cursor=%00', 'limit=5']) {
    assert.equal((await admin.inject({ url: `/adapters?${query}` })).statusCode, 400, query);
  }
});

test('names with a slash are addressed with %2F, decoded once', async (t) => {
  const { admin, engine } = startApp(t);
  engine.onAdmin = (call) => {
    if (call.op === 'unload') return { drained: 2, rowsCut: 0 };
    return adapter('name' in call ? call.name : '', {
      failure: { code: 'ERR_ADAPTER_INVALID', message: 'bad', details: { file: 'x' } },
    });
  };
  const long = `${'o'.repeat(128)}%2F${'n'.repeat(128)}`;
  const shown = await admin.inject({ url: `/adapters/${long}` });
  assert.equal(shown.json().name, decodeURIComponent(long));
  assert.deepEqual(shown.json().failure, { code: 'ERR_ADAPTER_INVALID', message: 'bad', file: 'x' });
  assert.equal((await admin.inject({ url: '/adapters/org%252Fsql' })).statusCode, 400);
  const pin = await admin.inject({ method: 'POST', url: '/adapters/org%2Fsql/pin' });
  assert.equal(pin.statusCode, 200);
  const json = { 'content-type': 'application/json' };
  await admin.inject({ method: 'DELETE', url: '/adapters/org%2Fsql/pin', headers: json });
  const gone = await admin.inject({ method: 'DELETE', url: '/adapters/org%2Fsql' });
  assert.deepEqual(gone.json(), { drained: 2, rowsCut: 0 });
  await admin.inject({ method: 'DELETE', url: '/adapters/org%2Fsql?force' });
  assert.deepEqual(engine.adminCalls.slice(1), [
    { op: 'pin', name: 'org/sql', pinned: true },
    { op: 'pin', name: 'org/sql', pinned: false },
    { op: 'unload', name: 'org/sql', force: false },
    { op: 'unload', name: 'org/sql', force: true },
  ]);
  assert.equal((await admin.inject({ method: 'DELETE', url: '/adapters/a?force=maybe' })).statusCode, 400);
});

test('the state shows the engine, the drain and the versions', async (t) => {
  const { admin, engine, lifecycle } = startApp(t);
  engine.onAdmin = () => IDLE;
  lifecycle.beginDrain();
  const state = (await admin.inject({ url: '/state' })).json();
  assert.deepEqual(state, { ...IDLE, draining: true, version: '0.0.0', node: process.version, model: 'tiny' });
});

test('a web page of another origin is refused, programs and the listener itself are not', async (t) => {
  const { admin, lifecycle } = startApp(t);
  const drain = (origin?: string, host = '127.0.0.1:8081') =>
    admin.inject({
      method: 'POST',
      url: '/drain',
      headers: { host, ...(origin === undefined ? {} : { origin }) },
    });
  const refused = await drain('https://elsewhere.example');
  assert.equal(refused.statusCode, 403);
  assert.equal(refused.json().code, 'ERR_FORBIDDEN');
  assert.equal((await drain(undefined, 'rebound.example:8081')).statusCode, 403);
  assert.equal((await drain('http://rebound.example', 'rebound.example')).statusCode, 403);
  assert.equal(lifecycle.draining, false);
  assert.ok((await drain('http://127.0.0.1:8081')).statusCode < 300);
  assert.ok((await drain(undefined, 'localhost')).statusCode < 300);
  assert.ok((await drain(undefined, '[::1]:8081')).statusCode < 300);
  assert.ok((await drain()).statusCode < 300);
});

test('routes that are not built do not exist', async (t) => {
  const { admin } = startApp(t);
  for (const [method, url, status] of [
    ['PATCH', '/aliases/x', 405],
    ['PATCH', '/adapters/x', 405],
    ['POST', '/generate', 404],
  ] as const) {
    const reply = await admin.inject({ method, url, payload: {} });
    assert.equal(reply.statusCode, status);
    assert.equal(reply.json().code, 'ERR_BAD_REQUEST');
  }
});
