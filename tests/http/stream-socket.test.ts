import assert from 'node:assert/strict';
import { test } from 'node:test';
import { KeyRing } from '../../src/auth/key-ring.js';
import { STREAM_LIMITS } from '../../src/server/ws/stream-route.js';
import { SPECIAL } from '../helpers/byte-tokenizer.js';
import { eventually, startApp } from '../helpers/http-app.js';
import { connect, type Message } from '../helpers/stream-socket.js';
import { makeKey } from '../unit/auth/support.js';

const COMPLETION = { model: 'sql', prompt: 'hi', max_tokens: 5, temperature: 0 };

function generate(id: string, body: object = COMPLETION, rest: object = {}): object {
  return { type: 'generate', id, api: 'completions', body, ...rest };
}

test('a socket says hello, a stream is accepted, its tokens come in order, and it is done', async (t) => {
  const { app, engine, metrics } = startApp(t);
  engine.onSubmit = (call) => call.admit().tokens('ok!').finish('length');
  const client = await connect(t, app);
  assert.deepEqual(client.messages[0], {
    type: 'hello',
    protocol: 'loramux.v1',
    server: 'loramux/0.0.0',
    limits: { max_streams: 64, max_message_bytes: 1_048_576, idle_timeout_ms: 300_000, slow_consumer_ms: 30_000 },
  });
  assert.equal(client.socket.protocol, 'loramux.v1');
  client.send(generate('a', { ...COMPLETION, max_tokens: 3, return_token_ids: true }));
  const done = await client.end('a');
  const [accepted, ...rest] = client.of('a');
  const digest = 'd'.repeat(64);
  assert.deepEqual(accepted, { type: 'accepted', id: 'a', model: 'sql', adapter: 'sql', digest, tier: 'host' });
  assert.deepEqual(
    rest.slice(0, -1).map(({ type, seq, index, text, token_ids: ids }: Message) => [type, seq, index, text, ids]),
    [
      ['token', 0, 0, 'o', [111]],
      ['token', 1, 0, 'k', [107]],
      ['token', 2, 0, '!', [33]],
    ],
  );
  assert.deepEqual(done.choices, [{ index: 0, finish_reason: 'length', stop_reason: null }]);
  assert.equal(done.usage.completion_tokens, 3);
  assert.match(done.system_fingerprint, /^fp_/);
  await eventually(() => metrics.requests.some(({ status }) => status === 200), 'the stream is counted');
  assert.equal(metrics.requests[0]?.route, 'GET /v1/stream');
});

test('chats and LoRAX calls are streams too, each as its route answers', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = (call) => call.answer('ok');
  const client = await connect(t, app);
  client.send({
    type: 'generate',
    id: 'g',
    api: 'generate',
    body: { inputs: 'hi', parameters: { adapter_id: 'sql' } },
  });
  const done = await client.end('g');
  assert.deepEqual(done.choices, [{ index: 0, finish_reason: 'eos_token', stop_reason: null }]);
  const tokens = client.of('g').filter(({ type }: Message) => type === 'token');
  assert.equal(tokens.map(({ text }: Message) => text).join(''), 'ok');
  client.send({
    type: 'generate',
    id: 'c',
    api: 'chat',
    body: { model: '', messages: [{ role: 'user', content: 'hi' }] },
  });
  const refused = await client.end('c');
  assert.equal(refused.error.code, 'template_missing');
});

test('streams of one socket interleave, and an id is free again after its end', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = null;
  const client = await connect(t, app);
  client.send(generate('a'));
  client.send(generate('b'));
  const [a, b] = [await engine.call(0), await engine.call(1)];
  a.admit().tokens('1');
  b.admit().tokens('2');
  a.tokens('3').token(SPECIAL['</s>']).finish('eos_token');
  await client.end('a');
  assert.equal(
    client.of('b').some(({ type }: Message) => type === 'done'),
    false,
  );
  client.send(generate('a'));
  (await engine.call(2)).admit().tokens('4').token(SPECIAL['</s>']).finish('eos_token');
  b.token(SPECIAL['</s>']).finish('eos_token');
  await client.end('b');
  await client.until(() => client.of('a').filter(({ type }: Message) => type === 'done').length === 2, 'both are done');
});

test('an open id is refused, and the stream that has it goes on', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = null;
  const client = await connect(t, app);
  client.send(generate('a'));
  const call = await engine.call(0);
  client.send(generate('a'));
  await client.until(() => client.of('a').some(({ type }: Message) => type === 'error'), 'the refusal');
  assert.equal(client.of('a').at(-1).error.code, 'duplicate_id');
  call.admit().tokens('x').token(SPECIAL['</s>']).finish('eos_token');
  await client.until(() => client.of('a').some(({ type }: Message) => type === 'done'), 'the first is done');
});

test('a cancelled stream ends with `cancelled` and frees the engine; unknown ids are ignored', async (t) => {
  const { app, engine, metrics } = startApp(t);
  engine.onSubmit = (call) => call.admit().tokens('x');
  const client = await connect(t, app);
  client.send({ type: 'cancel', id: 'nobody' });
  client.send(generate('a'));
  await client.until(() => client.of('a').length > 1, 'a token');
  client.send({ type: 'cancel', id: 'a' });
  const { error } = await client.end('a');
  assert.deepEqual([error.code, error.status], ['cancelled', 499]);
  assert.equal(engine.calls[0]?.aborted, true);
  await eventually(() => metrics.requests.some(({ status }) => status === 499), 'it is counted as left');
});

test('a deadline ends a stream', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = (call) => call.admit().tokens('x');
  const client = await connect(t, app);
  client.send(generate('a', COMPLETION, { deadline_ms: 50 }));
  assert.deepEqual((await client.end('a')).error.code, 'deadline_exceeded');
  assert.equal(engine.calls[0]?.aborted, true);
});

test('a closed socket ends all its streams', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = (call) => call.admit().tokens('x');
  const client = await connect(t, app);
  for (const id of ['a', 'b', 'c']) client.send(generate(id));
  await client.until(() => client.messages.filter(({ type }: Message) => type === 'token').length === 3, 'tokens');
  client.socket.terminate();
  await eventually(() => engine.calls.every(({ aborted }) => aborted), 'the engine is told');
});

test('several choices keep their indexes, and log-probabilities come with their tokens', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = (call) => call.admit().tokens(String(call.request.choice)).finish('length');
  const client = await connect(t, app);
  client.send(generate('a', { ...COMPLETION, temperature: 1, n: 3, logprobs: 0, max_tokens: 1 }));
  const done = await client.end('a');
  const tokens = client.of('a').filter(({ type }: Message) => type === 'token');
  const seen = tokens.map(({ index, text, logprobs }: Message) => [index, text, logprobs.token_logprobs]).sort();
  assert.deepEqual(seen, [
    [0, '0', [-0.5]],
    [1, '1', [-0.5]],
    [2, '2', [-0.5]],
  ]);
  assert.deepEqual(
    tokens.map(({ seq }: Message) => seq),
    [0, 1, 2],
  );
  assert.deepEqual(
    done.choices.map(({ index }: Message) => index),
    [0, 1, 2],
  );
});

test('errors have the words of OpenAI’s routes, and end their stream alone', async (t) => {
  const { app, engine } = startApp(t);
  const client = await connect(t, app);
  client.send(generate('field', { ...COMPLETION, temperature: 9 }));
  const field = await client.end('field');
  assert.deepEqual([field.error.code, field.error.param, field.error.status], ['invalid_value', 'temperature', 400]);
  client.send(generate('unknown', { ...COMPLETION, colour: 1 }));
  assert.equal((await client.end('unknown')).error.code, 'unknown_parameter');
  engine.onSubmit = (call) => call.fail('ERR_QUEUE_FULL', 'full');
  client.send(generate('full'));
  const full = await client.end('full');
  assert.deepEqual([full.error.status, full.error.retry_after_ms], [429, 1_000]);
  engine.onSubmit = (call) => call.answer('ok');
  client.send(generate('fine'));
  assert.equal((await client.end('fine')).type, 'done');
});

test('messages that cannot be read are refused, and the third closes the socket', async (t) => {
  const { app } = startApp(t);
  const client = await connect(t, app);
  client.send({ type: 'ping', t: 7 });
  await client.until(() => client.messages.some(({ type }: Message) => type === 'pong'), 'pong');
  assert.deepEqual(client.messages.at(-1), { type: 'pong', t: 7 });
  client.send('{');
  client.send({ type: 'dance' });
  await client.until(() => client.messages.filter(({ type }: Message) => type === 'error').length === 2, 'refusals');
  assert.equal(client.closeCode, null);
  assert.deepEqual([client.messages.at(-1).id, client.messages.at(-1).error.code], [null, 'invalid_message']);
  client.send({ type: 'generate', id: 'a', api: 'completions', body: { stream: false } });
  await client.closed();
  assert.equal(client.closeCode, 4400);
});

test('binary frames and frames that are too long close the socket, and are no errors of the server', async (t) => {
  const { app, engine, lines } = startApp(t);
  const binary = await connect(t, app);
  binary.socket.send(Buffer.from('{}'));
  await binary.closed();
  assert.equal(binary.closeCode, 1003);
  const long = await connect(t, app);
  engine.onSubmit = null;
  long.send(generate('open'));
  await engine.call(0);
  long.send(`{"type":"ping","t":"${'x'.repeat(2 ** 20)}"}`);
  await long.closed();
  assert.equal(long.closeCode, 1009);
  await eventually(() => engine.calls[0]?.aborted === true, 'the end of its stream');
  const failed = lines.map((line) => JSON.parse(line)).filter(({ msg }) => msg === 'socket failed');
  assert.deepEqual(
    failed.map(({ level, code }) => [level, code]),
    [[30, 'WS_ERR_UNSUPPORTED_MESSAGE_LENGTH']],
  );
});

test('more streams than the limit are refused until one ends', async (t) => {
  const { app, engine } = startApp(t, { streamLimits: { ...STREAM_LIMITS, maxStreams: 2 } });
  engine.onSubmit = null;
  const client = await connect(t, app);
  for (const id of ['a', 'b', 'c']) client.send(generate(id));
  const { error } = await client.end('c');
  assert.deepEqual([error.code, error.status], ['too_many_streams', 429]);
  (await engine.call(0)).answer('ok');
  await client.end('a');
  client.send(generate('d'));
  (await engine.call(2)).answer('ok');
  assert.equal((await client.end('d')).type, 'done');
});

test('a socket without streams is closed in the end', async (t) => {
  const { app } = startApp(t, { streamLimits: { ...STREAM_LIMITS, idleMs: 30 } });
  const client = await connect(t, app);
  await client.closed();
  assert.equal(client.closeCode, 4408);
});

test('a draining server says goaway, lets streams end, and then closes', async (t) => {
  const { app, engine, lifecycle } = startApp(t);
  engine.onSubmit = null;
  const client = await connect(t, app);
  client.send(generate('a'));
  const call = await engine.call(0);
  lifecycle.beginDrain();
  client.send(generate('b'));
  assert.equal((await client.end('b')).error.code, 'draining');
  assert.ok(client.messages.some(({ type }: Message) => type === 'goaway'));
  call.answer('ok');
  assert.equal((await client.end('a')).type, 'done');
  await client.closed();
  assert.equal(client.closeCode, 1001);
  await assert.rejects(connect(t, app), { status: 503 });
});

test('what is wrong before the upgrade has its HTTP status', async (t) => {
  const { app } = startApp(t, { streamOrigins: ['https://app.example'] });
  await assert.rejects(connect(t, app, { protocols: ['graphql-ws'] }), { status: 400 });
  await assert.rejects(connect(t, app, { origin: 'https://evil.example' }), { status: 403 });
  await connect(t, app, { origin: 'https://app.example' });
  await connect(t, app, { protocols: [] });
  const plain = await app.inject({ url: '/v1/stream' });
  assert.deepEqual([plain.statusCode, plain.json().error.code], [426, 'upgrade_required']);
});

test('with keys, a socket needs one, by header or subprotocol, and its scope holds for each stream', async (t) => {
  const key = makeKey('reader', ['infer:sql']);
  const keys = new KeyRing([key.record]);
  const { app, engine } = startApp(t, { access: { keys, publicMetrics: false } });
  await assert.rejects(connect(t, app), { status: 401 });
  const client = await connect(t, app, { headers: { authorization: `Bearer ${key.token}` } });
  client.send(generate('mine'));
  assert.equal((await client.end('mine')).type, 'done');
  client.send(generate('theirs', { ...COMPLETION, model: 'other' }));
  assert.equal((await client.end('theirs')).error.code, 'model_not_allowed');
  const offered = `loramux.bearer.${Buffer.from(key.token).toString('base64url')}`;
  const browser = await connect(t, app, { protocols: ['loramux.v1', offered] });
  assert.equal(browser.socket.protocol, 'loramux.v1');
  keys.replace([]);
  browser.send(generate('late'));
  await browser.closed();
  assert.equal(browser.closeCode, 4401);
  assert.equal(engine.calls.length, 1);
});
