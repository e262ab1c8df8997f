import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import type { FastifyInstance } from 'fastify';
import { SPECIAL } from '../helpers/byte-tokenizer.js';
import { eventually, startApp } from '../helpers/http-app.js';

/** Opens a real connection, so that it can be cut or left unread. */
async function open(app: FastifyInstance, url: string, payload: object): Promise<IncomingMessage> {
  await app.listen({ port: 0, host: '127.0.0.1' });
  const { port } = app.server.address() as AddressInfo;
  const headers = { 'content-type': 'application/json' };
  const request = httpRequest({ port, host: '127.0.0.1', method: 'POST', path: url, headers });
  request.on('error', () => {});
  request.end(JSON.stringify(payload));
  const [response] = (await once(request, 'response')) as [IncomingMessage];
  return response;
}

test('a stream is framed byte for byte as LoRAX frames it', async (t) => {
  const { app } = startApp(t);
  const payload = { inputs: 'hi', parameters: { adapter_id: 'sql', details: true } };
  const reply = await app.inject({ method: 'POST', url: '/generate_stream', payload });
  assert.equal(reply.statusCode, 200);
  assert.equal(
    reply.body,
    'data: {"token":{"id":111,"text":"o","logprob":-0.5,"special":false,"skipped":false},"generated_text":null,"details":null}\n\n' +
      'data: {"token":{"id":107,"text":"k","logprob":-0.5,"special":false,"skipped":false},"generated_text":null,"details":null}\n\n' +
      'data: {"token":{"id":257,"text":"</s>","logprob":-0.5,"special":true,"skipped":false},"generated_text":"ok",' +
      '"details":{"finish_reason":"eos_token","prompt_tokens":3,"generated_tokens":3,"seed":null,' +
      `"adapter":{"name":"sql","digest":"${'d'.repeat(64)}","tier":"host"}}}\n\n`,
  );
  const expected = {
    'content-type': 'text/event-stream',
    'cache-control': 'no-cache',
    'x-accel-buffering': 'no',
    'x-compute-type': 'cpu',
    'x-compute-characters': '2',
    'x-model-id': 'tiny',
    'x-adapter-id': 'sql',
    'x-loramux-adapter-tier': 'host',
  };
  for (const [name, value] of Object.entries(expected)) assert.equal(reply.headers[name], value, name);
  assert.equal(reply.headers['x-total-time'], undefined);
});

test('a character cut between tokens shows up whole, with the token that completes it', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = (call) => call.answer('€');
  const reply = await app.inject({ method: 'POST', url: '/generate_stream', payload: { inputs: 'hi' } });
  const texts = reply.body
    .split('\n\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line.slice(6)).token.text);
  assert.deepEqual(texts, ['', '', '€', '</s>']);
});

test('a stop string ends the stream with the text cut after it', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = (call) => call.admit().tokens('a.b');
  const payload = { inputs: 'hi', parameters: { stop: ['.'], details: true } };
  const reply = await app.inject({ method: 'POST', url: '/generate_stream', payload });
  const events = reply.body
    .split('\n\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line.slice(6)));
  assert.equal(events.length, 2);
  assert.equal(events[1].generated_text, 'a.');
  assert.equal(events[1].details.finish_reason, 'stop_sequence');
  assert.equal(engine.calls[0]?.aborted, true);
});

test('what is known before the first token has its real status', async (t) => {
  const { app, engine } = startApp(t);
  for (const [code, status] of [
    ['ERR_QUEUE_FULL', 429],
    ['ERR_ADAPTER_NOT_FOUND', 424],
    ['ERR_DRAINING', 503],
    ['ERR_ADAPTER_INVALID', 424],
  ] as const) {
    engine.onSubmit = (call) => call.admit().fail(code, 'reason');
    const reply = await app.inject({ method: 'POST', url: '/generate_stream', payload: { inputs: 'hi' } });
    assert.equal(reply.statusCode, status, code);
    assert.match(String(reply.headers['content-type']), /^application\/json/);
  }
});

test('what goes wrong later is one error event, then the end', async (t) => {
  const { app, engine, metrics } = startApp(t);
  engine.onSubmit = (call) => call.admit().tokens('a').fail('ERR_STEP_FAILED', 'boom').fail('ERR_NATIVE', 'again');
  const reply = await app.inject({ method: 'POST', url: '/generate_stream', payload: { inputs: 'hi' } });
  assert.equal(reply.statusCode, 424, 'the whole burst was known before the first write');
  engine.onSubmit = (call) => {
    call.admit().tokens('a');
    setTimeout(() => call.fail('ERR_STEP_FAILED', 'boom').finish('length'), 20);
  };
  const late = await app.inject({ method: 'POST', url: '/generate_stream', payload: { inputs: 'hi' } });
  assert.equal(late.statusCode, 200);
  const events = late.body.split('\n\n').filter(Boolean);
  assert.equal(events.length, 2);
  assert.equal(
    events[1],
    'data: {"error":"Request failed during generation: Server error: boom","error_type":"generation"}',
  );
  assert.deepEqual(
    metrics.generations.map((summary) => summary.code),
    ['ERR_STEP_FAILED', 'ERR_STEP_FAILED'],
  );
});

test('the first event leaves with the first token, each later one with its own', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = (call) => call.admit();
  const pending = open(app, '/generate_stream', { inputs: 'hi' });
  const call = await engine.call(0);
  let answered = false;
  void pending.then(() => {
    answered = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(answered, false, 'nothing is sent before there is a token');
  for (const token of 'ab') {
    call.tokens(token);
    const [chunk] = (await once(await pending, 'data')) as [Buffer];
    assert.equal(JSON.parse(chunk.toString().slice('data: '.length)).token.text, token);
  }
  (await pending).destroy();
});

test('a client that leaves in the middle of a stream frees its request', async (t) => {
  const { app, engine, metrics } = startApp(t);
  engine.onSubmit = (call) => call.admit().tokens('a');
  const response = await open(app, '/generate_stream', { inputs: 'hi' });
  await once(response, 'data');
  response.destroy();
  await eventually(() => engine.calls[0]?.aborted === true, 'abort');
  await eventually(() => metrics.requests.length === 1, 'request end');
  assert.equal(metrics.requests[0]?.status, 499);
  assert.equal(metrics.generations[0]?.code, 'ERR_ABORTED');
  assert.equal(metrics.generations[0]?.generatedTokens, 1);
  assert.equal(metrics.generations.length, 1);
});

for (const url of ['/generate', '/generate_stream']) {
  test(`a client that leaves ${url} while it waits frees its request`, async (t) => {
    const { app, engine, metrics } = startApp(t);
    engine.onSubmit = null;
    await app.listen({ port: 0, host: '127.0.0.1' });
    const { port } = app.server.address() as AddressInfo;
    const headers = { 'content-type': 'application/json' };
    const request = httpRequest({ port, host: '127.0.0.1', method: 'POST', path: url, headers });
    request.on('error', () => {});
    request.end('{"inputs":"hi"}');
    const call = await engine.call(0);
    request.destroy();
    await eventually(() => call.aborted, 'abort');
    await eventually(() => metrics.requests.length === 1, 'request end');
    assert.equal(metrics.requests[0]?.status, 499);
    assert.equal(metrics.generations[0]?.times.admittedMs, null);
  });
}

test('a reader that does not read is cut once too much waits for it', async (t) => {
  const { app, engine, metrics } = startApp(t, { maxBufferedBytes: 4096 });
  engine.onSubmit = (call) => call.admit().tokens('a');
  const response = await open(app, '/generate_stream', { inputs: 'hi', parameters: { max_new_tokens: 60 } });
  response.pause();
  const call = await engine.call(0);
  // The socket takes a few megabytes before it says stop; pretend it did.
  call.tokens('b'.repeat(40));
  await eventually(() => call.aborted, 'abort');
  assert.equal(metrics.generations[0]?.slowConsumer, true);
  const text = (await response.toArray()).join('');
  assert.match(text, /"error":"the reader left more than 4096 bytes/);
  assert.ok(text.endsWith('"error_type":"incomplete_generation"}\n\n'));
});

test('tokens beyond ASCII, special tokens and quotes survive the framing', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = (call) =>
    call.admit().tokens('"\n').token(SPECIAL['<pad>']).token(SPECIAL['</s>']).finish('eos_token');
  const reply = await app.inject({ method: 'POST', url: '/generate_stream', payload: { inputs: 'hi' } });
  const lines = reply.body.split('\n\n').filter(Boolean);
  assert.ok(lines.every((line) => line.startsWith('data: ') && !line.includes('\n')));
  assert.equal(JSON.parse(lines[3]?.slice(6) ?? '').generated_text, '"\n');
  assert.equal(JSON.parse(lines[2]?.slice(6) ?? '').token.text, '<pad>');
});
