import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { type ClientReadableStream, type ServiceError, status } from '@grpc/grpc-js';
import type { AdapterInfo } from '../../src/core/adapter.js';
import { LoramuxError } from '../../src/core/errors.js';
import { PROTOS, type Reply, startGrpcApp, unary } from '../helpers/grpc-app.js';

function adapter(name: string, changes: Partial<AdapterInfo> = {}): AdapterInfo {
  return {
    name,
    aliases: ['prod'],
    digest: 'a'.repeat(64),
    state: 'ready',
    tier: 'host',
    bytes: 2 ** 33,
    ranks: { min: 4, max: 16 },
    variant: ['lora'],
    modules: { inFile: 30, applied: 30 },
    proof: { maxLogitDelta: 1.5, probeTokens: 12 },
    baseModel: 'base',
    text: null,
    source: `dir:/adapters/${name}`,
    pins: { rows: 2, operator: true },
    loadedAt: '2026-01-02T03:04:05.500Z',
    lastUsedAt: null,
    requests: 3,
    failure: null,
    ...changes,
  };
}

test('a load carries its source and flags, and answers with the adapter', async (t) => {
  const app = await startGrpcApp(t);
  const client = app.client(PROTOS.adapterAdmin, app.adminAddress);
  app.engine.onAdmin = () => ({ outcome: 'created', replaced: null, adapter: adapter('sql') });
  const reply = await unary(client, 'loadAdapter', {
    name: 'sql',
    source: 'HUB',
    location: 'org/sql',
    revision: 'v2',
    pin: true,
    noWait: true,
  });
  assert.deepEqual(app.engine.adminCalls, [
    {
      op: 'load',
      name: 'sql',
      source: { type: 'hub', location: 'org/sql', revision: 'v2', token: null },
      pin: true,
      replace: false,
      wait: false,
    },
  ]);
  assert.equal(reply.outcome, 'CREATED');
  const { name, digest, bytes, rankMin, rankMax, modules, pinned, loadedAt, maxLogitDelta } = reply.adapter;
  assert.deepEqual([name, digest, bytes, rankMin, rankMax], ['sql', 'a'.repeat(64), String(2 ** 33), 4, 16]);
  assert.deepEqual([modules, pinned, maxLogitDelta], [30, true, 1.5]);
  assert.deepEqual(loadedAt, { seconds: String(Date.parse('2026-01-02T03:04:05Z') / 1_000), nanos: 500_000_000 });
});

test('a dry run checks and keeps nothing', async (t) => {
  const app = await startGrpcApp(t);
  const client = app.client(PROTOS.adapterAdmin, app.adminAddress);
  app.engine.onAdmin = () => adapter('sql');
  const message = { name: 'sql', source: 'S3', location: 's3://bucket/sql', dryRun: true };
  assert.equal((await unary(client, 'loadAdapter', message)).outcome, 'FITS');
  assert.equal(app.engine.adminCalls[0]?.op, 'check');
});

test('what is wrong with a request or an adapter has its status', async (t) => {
  const app = await startGrpcApp(t);
  const client = app.client(PROTOS.adapterAdmin, app.adminAddress);
  const failureOf = (method: string, message: object): Promise<ServiceError> =>
    unary(client, method, message).then(
      () => assert.fail('expected a failure'),
      (error: ServiceError) => error,
    );
  const noSource = await failureOf('loadAdapter', { name: 'sql', location: 'x' });
  assert.deepEqual([noSource.code, /LOCAL, HUB, S3, HTTPS/.test(noSource.details)], [status.INVALID_ARGUMENT, true]);
  const noName = await failureOf('unloadAdapter', { name: 'a b' });
  assert.equal(noName.code, status.INVALID_ARGUMENT);
  const tooMany = await failureOf('listAdapters', { pageSize: 1_001 });
  assert.equal(tooMany.code, status.INVALID_ARGUMENT);
  app.engine.onAdmin = () => {
    throw new LoramuxError('ERR_ADAPTER_INVALID', 'lora_A has another shape');
  };
  const invalid = await failureOf('loadAdapter', { name: 'sql', source: 'LOCAL', location: '/adapters/sql' });
  assert.deepEqual([invalid.code, invalid.details], [status.FAILED_PRECONDITION, 'lora_A has another shape']);
});

test('lists come in pages by name, with the tiers', async (t) => {
  const app = await startGrpcApp(t);
  const client = app.client(PROTOS.adapterAdmin, app.adminAddress);
  const tiers = [{ tier: 'host', bytes: 10, capacity: 100, pinned: 5 }] as const;
  app.engine.onAdmin = () => ({ adapters: ['c', 'a', 'b'].map((name) => adapter(name)), tiers });
  const first = await unary(client, 'listAdapters', { pageSize: 2 });
  const second = await unary(client, 'listAdapters', { pageSize: 2, pageToken: first.nextPageToken });
  const names = [first, second].map(({ adapters }) => adapters.map(({ name }: Reply) => name));
  assert.deepEqual([names, second.nextPageToken], [[['a', 'b'], ['c']], '']);
  assert.deepEqual(first.tiers, [{ tier: 'host', bytes: '10', capacity: '100', pinned: '5' }]);
});

test('an unload says how many requests ended and were cut', async (t) => {
  const app = await startGrpcApp(t);
  const client = app.client(PROTOS.adapterAdmin, app.adminAddress);
  app.engine.onAdmin = () => ({ drained: 1, rowsCut: 2 });
  assert.deepEqual(await unary(client, 'unloadAdapter', { name: 'sql', force: true }), { drained: 1, rowsCut: 2 });
  assert.deepEqual(app.engine.adminCalls, [{ op: 'unload', name: 'sql', force: true }]);
});

test('a watcher is told what there is, SYNCED, and what changes', async (t) => {
  const app = await startGrpcApp(t);
  const client = app.client(PROTOS.adapterAdmin, app.adminAddress);
  let adapters = [adapter('a'), adapter('b'), adapter('ignored')];
  app.engine.onAdmin = () => ({ adapters, tiers: [] });
  const stream = client.watchAdapters?.({ names: ['a', 'b', 'c'] }) as ClientReadableStream<Reply>;
  stream.on('error', () => undefined);
  const seen: string[] = [];
  stream.on('data', ({ type, adapter: each }: Reply) => {
    seen.push(each === null ? type : `${type} ${each.name} ${each.state}`);
  });
  const until = async (count: number): Promise<void> => {
    while (seen.length < count) await once(stream, 'data');
  };
  await until(3);
  adapters = [adapter('a', { state: 'draining' }), adapter('c'), adapter('b', { requests: 99 })];
  await until(5);
  adapters = [adapter('c')];
  await until(7);
  stream.cancel();
  assert.deepEqual(seen, [
    'ADDED a ready',
    'ADDED b ready',
    'SYNCED',
    'CHANGED a draining',
    'ADDED c ready',
    'REMOVED a draining',
    'REMOVED b ready',
  ]);
});
