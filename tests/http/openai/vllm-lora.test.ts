import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { LightMyRequestResponse as Response } from 'fastify';
import { KeyRing } from '../../../src/auth/key-ring.js';
import type { AdapterInfo } from '../../../src/core/adapter.js';
import type { AdminCall } from '../../../src/core/adapter-admin.js';
import { describeSource } from '../../../src/core/adapter-source.js';
import { type ErrorCode, LoramuxError } from '../../../src/core/errors.js';
import { startApp, type TestApp } from '../../helpers/http-app.js';
import { makeKey } from '../../unit/auth/support.js';
import { assertError, post } from './support.js';

type LoadCall = Extract<AdminCall, { op: 'load' }>;

/** An engine that knows adapters by name, source and content, as the registry does. */
function serveRegistry({ engine }: TestApp): { readonly loads: LoadCall[]; readonly files: Map<string, string> } {
  const known = new Map<string, { readonly source: string; readonly content: string }>();
  const files = new Map<string, string>();
  const loads: LoadCall[] = [];
  const info = (name: string, source: string): AdapterInfo => ({ name, source, aliases: [] }) as unknown as AdapterInfo;
  engine.onAdmin = (call) => {
    if (call.op === 'load') {
      loads.push(call);
      const source = describeSource(call.source);
      const content = files.get(source);
      if (content === undefined) throw new LoramuxError('ERR_ADAPTER_NOT_FOUND', `nothing at ${source}`);
      const before = known.get(call.name);
      if (before !== undefined && before.content !== content && !call.replace) {
        throw new LoramuxError('ERR_BAD_REQUEST', 'taken', { field: 'replace' });
      }
      known.set(call.name, { source, content });
      return {
        outcome: before === undefined ? 'created' : 'replaced',
        replaced: null,
        adapter: info(call.name, source),
      };
    }
    if (call.op !== 'get' && call.op !== 'unload') throw new RangeError(call.op);
    const found = known.get(call.name);
    if (found === undefined) throw new LoramuxError('ERR_ADAPTER_NOT_FOUND', `no adapter is called ${call.name}`);
    if (call.op === 'get') return info(call.name, found.source);
    known.delete(call.name);
    return { drained: 0, rowsCut: 0 };
  };
  return { loads, files };
}

/** Both of vLLM's error forms in one body. */
function assertVllmError(reply: Response, status: number, type: string, message: RegExp): void {
  assert.equal(reply.statusCode, status, reply.body);
  const { error, object, ...flat } = reply.json();
  assert.equal(object, 'error');
  assert.deepEqual(error, flat);
  assert.equal(flat.type, type);
  assert.equal(flat.code, status);
  assert.match(flat.message, message);
  assert.ok('param' in flat);
}

const load = ({ app }: TestApp, body: unknown): Promise<Response> => post(app, '/v1/load_lora_adapter', body);
const unload = ({ app }: TestApp, body: unknown): Promise<Response> => post(app, '/v1/unload_lora_adapter', body);

test('without the flag the routes are not there', async (t) => {
  const server = startApp(t);
  assertError(await load(server, {}), 404, 'unknown_url', null);
  assertError(await unload(server, {}), 404, 'unknown_url', null);
});

test('load, load again, move in place, unload, unload again', async (t) => {
  const server = startApp(t, { openai: { vllmLoraApi: 'on' } });
  const { loads, files } = serveRegistry(server);
  files.set('dir:/adapters/a', 'one').set('dir:/adapters/other', 'two').set('hub:org/a@main', 'three');
  const body = { lora_name: 'a', lora_path: '/adapters/a' };
  for (let times = 0; times < 2; times += 1) {
    const reply = await load(server, body);
    assert.equal(reply.statusCode, 200, reply.body);
    assert.match(String(reply.headers['content-type']), /^text\/plain/);
    assert.equal(reply.body, "Success: LoRA adapter 'a' added successfully.");
  }
  // The path is the same, what it holds is new: some controllers never change the path.
  files.set('dir:/adapters/a', 'one again');
  assert.equal((await load(server, body)).statusCode, 200);
  const elsewhere = { ...body, lora_path: '/adapters/other' };
  assertVllmError(await load(server, elsewhere), 400, 'InvalidUserInput', /has already been loaded/);
  assert.equal((await load(server, { ...elsewhere, load_inplace: true })).statusCode, 200);
  assert.equal((await load(server, { lora_name: 'hub', lora_path: 'huggingface://org/a' })).statusCode, 200);
  assert.deepEqual(loads.at(-1), {
    op: 'load',
    name: 'hub',
    source: { type: 'hub', location: 'org/a', revision: 'main', token: null },
    pin: false,
    wait: true,
    replace: false,
  });
  const removed = await unload(server, { lora_name: 'a', lora_int_id: null });
  assert.equal(removed.body, "Success: LoRA adapter 'a' removed successfully.");
  assertVllmError(await unload(server, { lora_name: 'a' }), 404, 'NotFoundError', /cannot be found/);
});

test('what controllers send beside the names is accepted when it says nothing new', async (t) => {
  const server = startApp(t, { openai: { vllmLoraApi: 'on' } });
  serveRegistry(server).files.set('dir:/adapters/a', 'one');
  const body = { lora_name: 'a', lora_path: '/adapters/a' };
  for (const extra of [
    { base_model_name: '' },
    { base_model_name: 'tiny' },
    { is_3d_lora_weight: false, lora_int_id: null },
  ]) {
    assert.equal((await load(server, { ...body, ...extra })).statusCode, 200);
  }
  for (const [extra, param] of [
    [{ base_model_name: 'other' }, 'base_model_name'],
    [{ is_3d_lora_weight: true }, 'is_3d_lora_weight'],
    [{ lora_int_id: 4 }, 'lora_int_id'],
    [{ nonsense: 1 }, 'nonsense'],
    [{ lora_name: 'tiny' }, 'lora_name'],
    [{ lora_name: '../a' }, 'lora_name'],
    [{ lora_path: 'ftp://x/y' }, 'lora_path'],
    [{ lora_path: '' }, 'lora_path'],
    [{ lora_name: undefined }, 'lora_name'],
  ] as const) {
    const reply = await load(server, { ...body, ...extra });
    assertVllmError(reply, 400, 'InvalidUserInput', /./);
    assert.equal(reply.json().param, param, reply.body);
  }
  assertVllmError(await unload(server, {}), 400, 'InvalidUserInput', /needs to be provided/);
});

test('faults of the adapter are not retried, trouble of its source is', async (t) => {
  const server = startApp(t, { openai: { vllmLoraApi: 'on' } });
  const body = { lora_name: 'a', lora_path: '/adapters/a' };
  const fail = (code: ErrorCode): void => {
    server.engine.onAdmin = (call) => {
      throw new LoramuxError(call.op === 'get' ? 'ERR_ADAPTER_NOT_FOUND' : code, 'because');
    };
  };
  for (const [code, status, type, message] of [
    ['ERR_ADAPTER_NOT_FOUND', 404, 'NotFoundError', /^Loading lora a failed: No adapter found for \/adapters\/a$/],
    ['ERR_ADAPTER_INVALID', 400, 'BadRequestError', /because/],
    ['ERR_ADAPTER_FORBIDDEN', 400, 'BadRequestError', /because/],
    ['ERR_ADAPTER_TOO_LARGE', 400, 'BadRequestError', /because/],
    ['ERR_ADAPTER_SOURCE', 503, 'ServiceUnavailableError', /Service Unavailable: .*because/],
    ['ERR_ADAPTER_NO_SPACE', 503, 'ServiceUnavailableError', /Service Unavailable/],
  ] as const) {
    fail(code);
    assertVllmError(await load(server, body), status, type, message);
  }
  fail('ERR_ENGINE_FATAL');
  assertError(await load(server, body), 500, 'engine_failed', null);
});

test('an unload of what is not there answers as the operator chose', async (t) => {
  for (const status of [200, 400] as const) {
    const server = startApp(t, { openai: { vllmLoraApi: 'on', vllmUnloadMissing: status } });
    serveRegistry(server);
    const reply = await unload(server, { lora_name: 'a' });
    if (status === 200) assert.equal(reply.body, "Success: LoRA adapter 'a' removed successfully.");
    else assertVllmError(reply, 400, 'InvalidUserInput', /cannot be found/);
  }
});

test('for callers on this machine only', async (t) => {
  const { app } = startApp(t, { openai: { vllmLoraApi: 'loopback' } });
  const from = (remoteAddress: string): Promise<Response> =>
    app.inject({ method: 'POST', url: '/v1/unload_lora_adapter', remoteAddress, payload: {} });
  for (const address of ['10.0.0.1', '::ffff:10.0.0.1', '127.0.0.1.example', 'fe80::1']) {
    assert.equal((await from(address)).statusCode, 403, address);
  }
  for (const address of ['127.0.0.1', '127.8.8.8', '::1', '::ffff:127.0.0.1']) {
    assert.equal((await from(address)).statusCode, 400, address);
  }
});

test('with keys configured, a key that may only generate loads nothing', async (t) => {
  const [user, operator] = [makeKey('user', ['infer:*']), makeKey('operator', ['admin:write'])];
  const access = { keys: new KeyRing([user.record, operator.record]), publicMetrics: false };
  const server = startApp(t, { access, openai: { vllmLoraApi: 'on' } });
  serveRegistry(server).files.set('dir:/adapters/a', 'one');
  const body = { lora_name: 'a', lora_path: '/adapters/a' };
  const as = (token: string): Promise<Response> =>
    post(server.app, '/v1/load_lora_adapter', body, { authorization: `Bearer ${token}` });
  assertError(await load(server, body), 401, 'invalid_api_key', null);
  assertError(await as(user.token), 403, 'not_allowed', null);
  assert.equal((await as(operator.token)).statusCode, 200);
});
