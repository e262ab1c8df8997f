import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI, {
  APIConnectionError,
  APIConnectionTimeoutError,
  AuthenticationError,
  InternalServerError,
  PermissionDeniedError,
  RateLimitError,
} from 'openai';
import { formatKey } from '../../src/auth/key-file.js';
import type { EngineState } from '../../src/core/adapter-admin.js';
import { ServerProcess } from '../helpers/server-process.js';
import { makeKey, temporaryFile } from '../unit/auth/support.js';
import { runSuite } from './python-suite.js';
import { environmentOf, SERVER_FLAGS, targetOf } from './server.js';

const ASK = { model: 'sql', prompt: 'The sea is', max_tokens: 1 };
const ENDLESS = { ...ASK, max_tokens: 1_000, ignore_eos: true };

test('statuses of a server with keys, a full queue and a drain have the classes of each package', async (t) => {
  const user = makeKey('user', ['infer:sql', 'infer:__base__']);
  const operator = makeKey('operator', ['admin:*']);
  const keys = temporaryFile(t);
  writeFileSync(keys, `${formatKey(user.record)}\n${formatKey(operator.record)}\n`);
  const limits = ['--max-sequences', '1', '--max-queue', '1', '--drain-timeout', '5m'];
  const server = await ServerProcess.start([...SERVER_FLAGS, ...limits, '--api-keys', keys]);
  t.after(() => server.kill());
  const suite = (...cases: readonly string[]): Promise<void> =>
    runSuite('errors.py', { ...environmentOf(targetOf(server)), CLIENTS_KEY: user.token }, cases);
  const connect = (apiKey: string): OpenAI => new OpenAI({ baseURL: `${server.url}/v1`, apiKey, maxRetries: 0 });
  const client = connect(user.token);

  assert.equal((await client.completions.create(ASK)).choices.length, 1);
  const { token: unknown } = makeKey('unknown', ['infer:*']);
  await assert.rejects(connect(unknown).completions.create(ASK), (error) => {
    return error instanceof AuthenticationError && error.code === 'invalid_api_key';
  });
  await assert.rejects(client.completions.create({ ...ASK, model: 'pirate' }), (error) => {
    return error instanceof PermissionDeniedError && error.code === 'model_not_allowed' && error.param === 'model';
  });
  await assert.rejects(connect(operator.token).completions.create(ASK), PermissionDeniedError);
  await suite('Keys');

  // One runs, one waits: the next is refused, whoever asks.
  const running = await client.completions.create({ ...ENDLESS, stream: true });
  const tokens = running[Symbol.asyncIterator]();
  await tokens.next();
  const waiting = client.completions.create(ASK);
  waiting.catch(() => undefined);
  const authorization = `Bearer ${operator.token}`;
  const state = async (): Promise<EngineState> =>
    (await (await fetch(`${server.adminUrl}/state`, { headers: { authorization } })).json()) as EngineState;
  while ((await state()).waiting === 0) await sleep(20);
  await assert.rejects(client.completions.create(ASK), (error) => {
    return error instanceof RateLimitError && error.code === 'queue_full' && error.headers?.get('retry-after') !== null;
  });
  await suite('Full');

  // A drain lets what runs and waits go on, and refuses the rest.
  const drain = await fetch(`${server.adminUrl}/drain`, { method: 'POST', headers: { authorization } });
  assert.equal(drain.status, 202, await drain.text());
  await assert.rejects(client.completions.create(ASK), (error) => {
    return error instanceof InternalServerError && error.status === 503 && error.code === 'draining';
  });
  await suite('Draining');
  running.controller.abort();
  await waiting;
  await server.ended();
  await assert.rejects(client.completions.create(ASK), APIConnectionError);
});

test('a reply that takes too long for the client is its own timeout', async (t) => {
  const server = await ServerProcess.start(SERVER_FLAGS);
  t.after(() => server.kill());
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 });
  await assert.rejects(client.completions.create(ENDLESS, { timeout: 100 }), APIConnectionTimeoutError);
  await server.stop();
});
