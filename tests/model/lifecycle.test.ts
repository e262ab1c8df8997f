import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, open, readdir, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { BASE_NAME } from '../../src/core/names.js';
import { FIXTURES } from '../helpers/paths.js';
import { runToExit, ServerProcess } from '../helpers/server-process.js';
import { type Ask, generate, isIdle, postJson, stream, tryGenerate, untilState } from './client.js';

/** Ready in under 3 s is the aim; a busy machine gets more before the test calls it a failure. */
const READY_LIMIT_S = 10;

const short: Ask = { adapter: BASE_NAME, prompt: 'Once', maxNewTokens: 4, ignoreEos: true };
const endless: Ask = { ...short, maxNewTokens: 1000 };

const servers: ServerProcess[] = [];
after(() => Promise.all(servers.map((server) => server.kill())));

async function start(...flags: string[]): Promise<ServerProcess> {
  const server = await ServerProcess.start(['--log-level', 'warn', ...flags]);
  servers.push(server);
  return server;
}

/** Starts a stream; resolves once its first token came, with the promise of its end. */
async function running(server: ServerProcess, ask: Ask): Promise<{ readonly end: ReturnType<typeof stream> }> {
  let started = (): void => {};
  const first = new Promise<void>((resolve) => {
    started = resolve;
  });
  const end = stream(server.url, ask, { onToken: () => started() });
  await Promise.race([first, end]);
  return { end };
}

async function statusOf(url: string): Promise<number> {
  const response = await fetch(url);
  await response.arrayBuffer();
  return response.status;
}

test('a warm start is ready quickly, on free ports', async () => {
  await (await start()).stop();
  const server = await start();
  console.log(`ready in ${server.readySeconds.toFixed(2)} s with a warm cache`);
  assert.ok(server.readySeconds < READY_LIMIT_S);
  assert.notEqual(server.url, server.adminUrl);
  for (const url of [server.url, server.adminUrl]) {
    assert.ok(Number(new URL(url).port) > 0);
    for (const probe of ['livez', 'readyz', 'startupz', 'health']) assert.equal(await statusOf(`${url}/${probe}`), 200);
  }
  await server.stop();
});

test('SIGTERM lets what runs finish, refuses what is new, and ends with 0', async () => {
  const server = await start();
  const ask = { ...short, maxNewTokens: 40 };
  const solo = await generate(server.url, ask);
  const { end } = await running(server, ask);
  server.signal('SIGTERM');
  while ((await statusOf(`${server.url}/readyz`)) === 200) await sleep(5);
  assert.equal(await statusOf(`${server.url}/health`), 503);
  assert.equal(await statusOf(`${server.url}/livez`), 200);
  const refused = await tryGenerate(server.url, short);
  assert.deepEqual(refused, {
    failure: {
      status: 503,
      error: 'Server is shutting down: send the request to another replica',
      error_type: 'overloaded',
    },
  });
  const { tokens, text, terminals } = await end;
  assert.deepEqual(
    { tokens, text, terminals },
    { tokens: solo.details.tokens, text: solo.generated_text, terminals: 1 },
  );
  await server.ended();
});

test('what still runs at the drain timeout gets an error event, and the server ends with 0', async () => {
  const server = await start('--drain-timeout', '300ms');
  const { end } = await running(server, endless);
  const plain = tryGenerate(server.url, endless);
  await untilState(server, (state) => state.running === 2);
  const signalled = performance.now();
  server.signal('SIGTERM');
  const { failure, terminals, text } = await end;
  assert.deepEqual({ terminals, text, type: failure?.error_type }, { terminals: 1, text: null, type: 'overloaded' });
  const answer = await plain;
  assert.equal('failure' in answer && answer.failure.status, 503);
  await server.ended();
  const seconds = (performance.now() - signalled) / 1_000;
  assert.ok(seconds < READY_LIMIT_S, `took ${seconds} s`);
});

test('connections that say nothing, or half a request, do not hold up the end', async () => {
  const server = await start();
  const sockets = [server.url, server.url, server.adminUrl].map((url) =>
    connect(Number(new URL(url).port), '127.0.0.1'),
  );
  after(() => {
    for (const socket of sockets) socket.destroy();
  });
  await Promise.all(sockets.map((socket) => once(socket, 'connect')));
  sockets[1]?.write(
    'POST /generate HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{',
  );
  await sleep(100);
  const signalled = performance.now();
  await server.stop();
  const seconds = (performance.now() - signalled) / 1_000;
  assert.ok(seconds < READY_LIMIT_S, `took ${seconds} s`);
});

test('a drain by admin call ends the server as a signal does', async () => {
  const server = await start();
  const response = await fetch(`${server.adminUrl}/drain`, { method: 'POST' });
  assert.equal(response.status, 202);
  await server.ended();
});

test('a second signal ends the server at once with 1', async () => {
  const server = await start();
  const { end } = await running(server, endless);
  const broken = assert.rejects(end);
  server.signal('SIGTERM');
  while ((await statusOf(`${server.url}/readyz`)) === 200) await sleep(5);
  server.signal('SIGTERM');
  assert.equal((await server.exit).code, 1);
  await broken;
});

test('a damaged cache entry is named, with what to do', async () => {
  const cache = await mkdtemp(join(tmpdir(), 'loramux-cache-'));
  after(() => rm(cache, { recursive: true, force: true }));
  const model = join(FIXTURES, 'synthetic', 'models', 'llama-gqa-tied');
  const flags = ['--model', model, '--cache-dir', cache];
  await (await start(...flags)).stop();
  const [entry] = await readdir(join(cache, 'models'));
  assert.ok(entry !== undefined);
  const directory = join(cache, 'models', entry);
  const weights = await open(join(directory, 'weights.bin'), 'r+');
  const byte = Buffer.alloc(1);
  await weights.read(byte, 0, 1, 100);
  await weights.write(Buffer.from([(byte[0] ?? 0) ^ 1]), 0, 1, 100);
  await weights.close();

  const { code, stdout, stderr } = await runToExit(flags);
  assert.equal(code, 1);
  assert.equal(stdout, '');
  const message = stderr.split('\n').filter((line) => line.startsWith('ERR_'));
  assert.equal(message.length, 1, stderr);
  assert.match(message[0] ?? '', /^ERR_CACHE_CORRUPT: .*weights\.bin with CRC-32 .* delete that directory/);
  assert.ok(message[0]?.includes(directory));
});

test('a start that cannot succeed says why in one line and ends with 1', async () => {
  const refusals: readonly (readonly [readonly string[], RegExp])[] = [
    [['--prot', '1'], /unknown flag --prot/],
    [['--port', 'many'], /--port accepts a whole number from 0 to 65535, got "many"/],
    [['--precision', 'f16'], /--precision f16: expected f32, w8, w4 or auto with --device cpu/],
    [['--adapter-memory', '-1'], /--adapter-memory accepts a size/],
    [['--model', join(FIXTURES, 'nowhere')], /nowhere/],
    [['--max-model-len', '9999999'], /--max-model-len/],
  ];
  for (const [flags, expected] of refusals) {
    const { code, stdout, stderr } = await runToExit(flags);
    assert.deepEqual({ code, stdout }, { code: 1, stdout: '' }, stderr);
    // A terminal would have overwritten the progress line; log records begin with a brace.
    const lines = stderr
      .trim()
      .split('\n')
      .filter((line) => !line.startsWith('verifying') && !line.startsWith('{'));
    assert.equal(lines.length, 1, stderr);
    assert.match(lines[0] ?? '', /^ERR_\w+: /);
    assert.match(lines[0] ?? '', expected);
  }
});

test('requests that cannot be served are refused one by one, and the server keeps serving', async () => {
  const server = await start('--max-model-len', '512', '--max-sequences', '2', '--max-queue', '3');
  const expected = await generate(server.url, short);
  const long = 'word '.repeat(600);
  const refusals: readonly (readonly [unknown, number, string, RegExp])[] = [
    [{ inputs: long }, 422, 'validation', /must have less than 511 tokens\. Given: \d+/],
    [
      { inputs: 'a', parameters: { max_new_tokens: 512 } },
      422,
      'validation',
      /must be <= 512\. Given: 1 `inputs` tokens/,
    ],
    [{ inputs: 'a', parameters: { adapter_id: 'nobody' } }, 424, 'generation', /no adapter is called "nobody"/],
    [{ inputs: 'a', parameters: { adapter_id: '../sql' } }, 422, 'validation', /must be an adapter name/],
    [{ inputs: 'a', parameters: { watermark: true } }, 422, 'validation', /watermark/],
    [{ inputs: 'a', colour: 'red' }, 422, 'validation', /colour/],
    [{ inputs: '' }, 422, 'validation', /cannot be empty/],
    [['a'], 422, 'validation', /body/],
  ];
  for (const [body, status, type, message] of refusals) {
    for (const route of ['generate', 'generate_stream']) {
      const response = await postJson(`${server.url}/${route}`, body);
      const { error, error_type } = (await response.json()) as { error: string; error_type: string };
      assert.deepEqual([response.status, error_type], [status, type], `${route}: ${error}`);
      assert.match(error, message);
    }
  }
  const headers = { 'content-type': 'application/json' };
  const malformed = await fetch(`${server.url}/generate`, { method: 'POST', headers, body: '{"inputs": "a"' });
  assert.equal(malformed.status, 400);
  assert.equal(((await malformed.json()) as { error_type: string }).error_type, 'validation');
  assert.deepEqual(await generate(server.url, short), expected);

  const leave = new AbortController();
  const hold = (count: number): Promise<unknown>[] =>
    Array.from({ length: count }, () =>
      assert.rejects(tryGenerate(server.url, { ...short, maxNewTokens: 500 }, leave.signal), { name: 'AbortError' }),
    );
  // The queue holds three, so two must leave it first.
  const held = hold(2);
  await untilState(server, ({ running }) => running === 2);
  held.push(...hold(3));
  await untilState(server, ({ waiting }) => waiting === 3);
  const refused = await postJson(`${server.url}/generate`, { inputs: 'a' });
  assert.equal(refused.status, 429);
  assert.equal(refused.headers.get('retry-after'), '1');
  assert.deepEqual(await refused.json(), { error: 'Model is overloaded', error_type: 'overloaded' });
  leave.abort();
  await Promise.all(held);
  await untilState(server, isIdle);
  assert.deepEqual(await generate(server.url, short), expected);
  await server.stop();
});
