import assert from 'node:assert/strict';
import { once } from 'node:events';
import { request as httpRequest } from 'node:http';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import fc from 'fast-check';
import { SPECIAL } from '../../helpers/byte-tokenizer.js';
import { eventually, startApp } from '../../helpers/http-app.js';
import { type ScriptedCall, ScriptedEngine } from '../../helpers/scripted-engine.js';
import { assertError, type Chunk, complete, eventsOf } from './support.js';

const EOS = SPECIAL['</s>'];

/** Texts by choice, joined; fails unless each choice ends once, with its last chunk. */
function texts(chunks: readonly Chunk[]): string[] {
  const joined: string[] = [];
  const ended = new Set<number>();
  for (const { index, text, finish_reason } of chunks.flatMap(({ choices }) => choices)) {
    assert.ok(!ended.has(index), `choice ${index} goes on after its end`);
    joined[index] = (joined[index] ?? '') + text;
    if (finish_reason !== null) ended.add(index);
  }
  assert.equal(ended.size, joined.length);
  return joined;
}

test('a stream: headers, chunks, usage in the last, [DONE]', async (t) => {
  const { app } = startApp(t);
  const reply = await complete(app, { stream: true, stream_options: { include_usage: true } }, { 'x-request-id': 'r' });
  assert.equal(reply.headers['content-type'], 'text/event-stream; charset=utf-8');
  assert.equal(reply.headers['cache-control'], 'no-cache');
  assert.equal(reply.headers['x-accel-buffering'], 'no');
  assert.match(String(reply.headers['openai-processing-ms']), /^\d+$/);
  assert.match(reply.body, /^(?:data: [^\n]+\n\n)+$/);
  const { chunks, done } = eventsOf(reply);
  assert.ok(done);
  assert.deepEqual(texts(chunks), ['ok']);
  assert.deepEqual(
    new Set(chunks.map(({ id, object, model }) => `${id} ${object} ${model}`)),
    new Set(['cmpl-r text_completion tiny']),
  );
  assert.deepEqual(chunks.at(-1)?.choices, []);
  assert.deepEqual(chunks.at(-1)?.usage, {
    prompt_tokens: 3,
    completion_tokens: 3,
    total_tokens: 6,
    prompt_tokens_details: { cached_tokens: 0 },
  });
  assert.ok(chunks.slice(0, -1).every(({ usage }) => usage === null));
  const plain = eventsOf(await complete(app, { stream: true })).chunks;
  assert.ok(plain.every((chunk) => !('usage' in chunk)));
  assert.equal(plain.at(-1)?.choices[0]?.finish_reason, 'stop');
});

test('continuous_usage_stats counts on every chunk', async (t) => {
  const { app } = startApp(t);
  const reply = await complete(app, { stream: true, stream_options: { continuous_usage_stats: true } });
  assert.deepEqual(
    eventsOf(reply).chunks.map(({ usage }) => [usage?.prompt_tokens, usage?.completion_tokens]),
    [
      [3, 1],
      [3, 2],
      [3, 3],
    ],
  );
});

test('any interleaving of prompts and choices reaches each choice in order', async (t) => {
  const engine = new ScriptedEngine({ maxModelLen: 4096 });
  const { app } = startApp(t, { engine });
  engine.onSubmit = null;
  let before = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.string({ minLength: 1, maxLength: 6, unit: 'grapheme' }), { minLength: 4, maxLength: 4 }),
      fc.infiniteStream(fc.nat(3)),
      async (answers, order) => {
        const pending = complete(app, { prompt: ['a', 'b'], n: 2, stream: true, max_tokens: 1000 });
        const calls: ScriptedCall[] = [];
        for (let at = 0; at < 4; at += 1) calls.push(await engine.call(before + at));
        before += 4;
        const rest = answers.map((answer) => [...new TextEncoder().encode(answer), EOS]);
        for (const call of calls) call.admit();
        while (rest.some((tokens) => tokens.length > 0)) {
          const at = order.next().value as number;
          const token = rest[at]?.shift();
          if (token === undefined) continue;
          calls[at]?.token(token);
          if (token === EOS) calls[at]?.finish('eos_token');
          if (token % 3 === 0) await new Promise((resolve) => setImmediate(resolve));
        }
        const { chunks, done } = eventsOf(await pending);
        assert.ok(done);
        // The calls come in the order of the choices.
        assert.deepEqual(texts(chunks), answers);
      },
    ),
    { numRuns: 25 },
  );
});

test('greedy choices stream the same chunks under each index', async (t) => {
  const { app, engine } = startApp(t);
  const { chunks } = eventsOf(await complete(app, { stream: true, n: 3, temperature: 0 }));
  assert.equal(engine.calls.length, 1);
  assert.deepEqual(texts(chunks), ['ok', 'ok', 'ok']);
});

test('echo and log-probabilities ride on the first chunk, offsets run on', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = (call) => {
    call.admit();
    if (call.request.promptLogprobs !== null) call.scorePrompt();
    call.tokens('ok').token(EOS).finish('eos_token');
  };
  const echoed = eventsOf(await complete(app, { stream: true, echo: true, return_token_ids: true })).chunks;
  assert.equal(echoed[0]?.choices[0]?.text, 'hio');
  assert.deepEqual(echoed[0]?.choices[0]?.prompt_token_ids, [SPECIAL['<s>'], 104, 105]);
  assert.equal(echoed[1]?.choices[0]?.prompt_token_ids, undefined);
  assert.deepEqual(texts(echoed), ['hiok']);
  const scored = eventsOf(await complete(app, { stream: true, echo: true, logprobs: 0 })).chunks;
  assert.deepEqual(texts(scored), ['hiok']);
  assert.deepEqual(
    scored.flatMap(({ choices }) =>
      choices.map(({ text, logprobs }) => [text, logprobs?.tokens, logprobs?.text_offset]),
    ),
    [
      ['hi', ['<s>', 'h', 'i'], [0, 0, 1]],
      ['o', ['o'], [2]],
      ['k', ['k'], [3]],
      ['', ['</s>'], [4]],
    ],
  );
});

test('text that may be a stop string is held back', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = (call) => call.admit().tokens('aEbEND').tokens('never');
  const { chunks } = eventsOf(await complete(app, { stream: true, stop: 'END' }));
  assert.deepEqual(
    chunks.map(({ choices }) => choices[0]?.text),
    ['a', 'Eb', ''],
  );
  assert.equal(chunks.at(-1)?.choices[0]?.stop_reason, 'END');
});

test('details come in a last chunk of their own', async (t) => {
  const { app } = startApp(t);
  const { chunks, done } = eventsOf(await complete(app, { stream: true, model: 'sql' }, { 'x-loramux-details': '1' }));
  assert.ok(done);
  assert.deepEqual(chunks.at(-1)?.choices, []);
  assert.equal(chunks.at(-1)?.loramux?.adapter, 'sql');
  assert.equal(chunks.at(-1)?.loramux?.digest, 'd'.repeat(64));
  assert.equal(chunks.at(-1)?.loramux?.tier, 'host');
});

test('another version than asked for is a 404 before the first token', async (t) => {
  const { app } = startApp(t);
  const reply = await complete(app, { stream: true, model: `sql@sha256:${'e'.repeat(12)}` });
  assertError(reply, 404, 'model_not_found', 'model');
});

test('a client that leaves ends all its generations; each event is one chunk of the wire', async (t) => {
  const { app, engine } = startApp(t);
  await app.listen({ host: '127.0.0.1', port: 0 });
  const { port } = app.server.address() as AddressInfo;
  engine.onSubmit = (call) => call.admit();
  const client = httpRequest({
    port,
    method: 'POST',
    path: '/v1/completions',
    headers: { 'content-type': 'application/json' },
  });
  client.end(JSON.stringify({ model: 'tiny', prompt: ['a', 'b'], stream: true }));
  await engine.call(1);
  for (const call of engine.calls) call.token(97);
  const [response] = await once(client, 'response');
  const pieces: string[] = [];
  response.setEncoding('utf8').on('data', (piece: string) => pieces.push(piece));
  response.on('error', () => undefined);
  await eventually(() => pieces.join('').split('\n\n').length === 3, 'two events');
  for (const piece of pieces) assert.ok(piece.endsWith('\n\n'));
  client.on('error', () => undefined).destroy();
  await eventually(() => engine.calls.every(({ aborted }) => aborted), 'both generations aborted');
});
