import assert from 'node:assert/strict';
import { test } from 'node:test';
import { eventually, startApp } from '../../helpers/http-app.js';
import { chat, chatChunks, chatEngine, promptOf } from './chat-support.js';
import { assertError, eventsOf } from './support.js';

test('a conversation becomes a prompt, the answer a message', async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine() });
  const messages = [
    { role: 'system', content: 'Be brief.' },
    {
      role: 'user',
      content: [
        { type: 'text', text: 'é😀' },
        { type: 'text', text: 'two' },
      ],
      name: 'Ann',
    },
  ];
  const reply = await chat(app, { messages, metadata: { a: 'b' }, service_tier: 'auto' }, { 'x-request-id': 'r1' });
  assert.equal(reply.statusCode, 200, reply.body);
  const { created, system_fingerprint, ...body } = reply.json();
  const prompt = 'system:Be brief.;user:é😀\ntwo;A:';
  assert.equal(promptOf(engine), prompt);
  const tokens = Buffer.byteLength(prompt);
  assert.deepEqual(body, {
    id: 'chatcmpl-r1',
    object: 'chat.completion',
    model: 'tiny',
    choices: [
      {
        index: 0,
        message: { role: 'assistant', content: 'ok', refusal: null },
        logprobs: null,
        finish_reason: 'stop',
        stop_reason: null,
      },
    ],
    usage: {
      prompt_tokens: tokens,
      completion_tokens: 3,
      total_tokens: tokens + 3,
      prompt_tokens_details: { cached_tokens: 0 },
    },
    service_tier: 'default',
    metadata: { a: 'b' },
  });
  assert.equal(typeof created, 'number');
  assert.match(system_fingerprint, /^fp_/);
  assert.equal(reply.headers['x-model-id'], 'tiny');
});

test('a stream: the role first, then text, the end, usage and [DONE]', async (t) => {
  const { app } = startApp(t, { engine: chatEngine() });
  const reply = await chat(app, { stream: true, stream_options: { include_usage: true }, n: 2, temperature: 0 });
  assert.equal(reply.headers['content-type'], 'text/event-stream; charset=utf-8');
  assert.ok(eventsOf(reply).done);
  const chunks = chatChunks(reply);
  const said = chunks.map(({ choices }) => choices.map(({ index, delta, finish_reason: end }) => [index, delta, end]));
  assert.deepEqual(said, [
    [[0, { role: 'assistant', content: '' }, null]],
    [[1, { role: 'assistant', content: '' }, null]],
    [[0, { content: 'o' }, null]],
    [[1, { content: 'o' }, null]],
    [[0, { content: 'k' }, null]],
    [[1, { content: 'k' }, null]],
    [[0, {}, 'stop']],
    [[1, {}, 'stop']],
    [],
  ]);
  assert.deepEqual(chunks.at(-1)?.usage, {
    prompt_tokens: 10,
    completion_tokens: 6,
    total_tokens: 16,
    prompt_tokens_details: { cached_tokens: 0 },
  });
  assert.ok(chunks.slice(0, -1).every(({ usage, object }) => usage === null && object === 'chat.completion.chunk'));
});

test('choices are drawn with seeds of their own, greedy ones computed once', async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine() });
  const drawn = await chat(app, { n: 3, seed: 7 });
  assert.deepEqual(
    engine.calls.map(({ request }) => [request.choice, request.sampling.seed]),
    [
      [0, 7n],
      [1, 7n],
      [2, 7n],
    ],
  );
  assert.equal(drawn.json().choices.length, 3);
  assert.equal(drawn.json().usage.prompt_tokens, 10);
  const greedy = await chat(app, { n: 3, temperature: 0 });
  assert.equal(engine.calls.length, 4);
  assert.deepEqual(
    greedy.json().choices.map(({ index }: { index: number }) => index),
    [0, 1, 2],
  );
});

test('the last message is continued, or the prompt left as it is', async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine() });
  const messages = [
    { role: 'user', content: 'go' },
    { role: 'assistant', content: 'Once upon' },
  ];
  await chat(app, { messages, continue_final_message: true });
  assert.equal(promptOf(engine), 'user:go;assistant:Once upon');
  await chat(app, { messages, add_generation_prompt: false });
  assert.equal(promptOf(engine), 'user:go;assistant:Once upon;');
  const both = await chat(app, { messages, continue_final_message: true, add_generation_prompt: true });
  assertError(both, 400, 'invalid_value', 'continue_final_message');
});

test('limits of new tokens: the smaller holds, none means what the context leaves', async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine() });
  await chat(app, { max_tokens: 5, max_completion_tokens: 9 });
  await chat(app, { max_tokens: 9, max_completion_tokens: 5 });
  await chat(app, {});
  assert.deepEqual(
    engine.calls.map(({ request }) => request.maxNewTokens),
    [5, 5, 2_048 - 10],
  );
  const long = await chat(app, { messages: [{ role: 'user', content: 'x'.repeat(2_048) }] });
  assert.match(assertError(long, 400, 'context_length_exceeded', 'messages'), /maximum context length is 2048 tokens/);
  assertError(
    await chat(app, { max_completion_tokens: 2_048 }),
    400,
    'context_length_exceeded',
    'max_completion_tokens',
  );
});

test('log-probabilities: text, bytes and alternatives', async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine() });
  engine.onSubmit = (call) => {
    const top = { ids: Uint32Array.of(0x61, 0x62), logprobs: Float32Array.of(-0.25, Number.NEGATIVE_INFINITY) };
    call.admit().token(0x61, -0.25, top);
    for (const byte of Buffer.from('é'))
      call.token(byte, -0.5, { ids: new Uint32Array(), logprobs: new Float32Array() });
    call.finish('length');
  };
  const fields = { logprobs: true, top_logprobs: 2, max_tokens: 3 };
  const reply = await chat(app, fields);
  const expected = [
    {
      token: 'a',
      logprob: -0.25,
      bytes: [0x61],
      top_logprobs: [
        { token: 'a', logprob: -0.25, bytes: [0x61] },
        { token: 'b', logprob: -9999, bytes: [0x62] },
      ],
    },
    { token: '', logprob: -0.5, bytes: null, top_logprobs: [] },
    { token: 'é', logprob: -0.5, bytes: [0xc3, 0xa9], top_logprobs: [] },
  ];
  assert.deepEqual(reply.json().choices[0].logprobs, { content: expected, refusal: null });
  assert.equal(reply.json().choices[0].finish_reason, 'length');
  assert.deepEqual(engine.calls[0]?.request.logprobs, { of: 'raw', top: 2 });
  const chunks = chatChunks(await chat(app, { ...fields, stream: true }));
  assert.deepEqual(
    chunks.flatMap(({ choices }) => choices.flatMap(({ logprobs }) => logprobs?.content ?? [])),
    expected,
  );
  const named = await chat(app, { ...fields, return_tokens_as_token_ids: true, return_token_ids: true });
  assert.equal(named.json().choices[0].logprobs.content[0].token, 'token_id:97');
  assert.deepEqual(named.json().choices[0].token_ids, [0x61, 0xc3, 0xa9]);
  assert.equal(named.json().choices[0].prompt_token_ids.length, 10);
});

test('stop strings, stop ids and their reasons', async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine() });
  engine.onSubmit = (call) => call.admit().tokens('one STOP two');
  const stopped = (await chat(app, { stop: ['STOP'] })).json().choices[0];
  assert.deepEqual([stopped.message.content, stopped.finish_reason, stopped.stop_reason], ['one ', 'stop', 'STOP']);
  engine.onSubmit = (call) => call.admit().tokens('one!').finish('eos_token');
  const ended = (await chat(app, { stop_token_ids: [0x21] })).json().choices[0];
  assert.deepEqual([ended.message.content, ended.stop_reason], ['one', 0x21]);
});

test('adapters by name, with the base as prefix, or as a sum', async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine() });
  for (const model of ['pirate', 'tiny:pirate']) {
    assert.equal((await chat(app, { model })).json().model, 'pirate');
    assert.equal(engine.calls.at(-1)?.request.adapter, 'pirate');
  }
  const sum = await chat(app, { adapters: [{ id: 'a' }, { id: 'b', weight: 0.5 }] });
  assert.equal(sum.statusCode, 200, sum.body);
  assert.equal(engine.calls.at(-1)?.request.composition?.members.length, 2);
});

test('templates that refuse, fail or are missing are 400s with their reason', async (t) => {
  const refusing = startApp(t, { engine: chatEngine("{{ raise_exception('roles must alternate') }}") });
  const said = assertError(await chat(refusing.app, {}), 400, 'invalid_value', 'messages');
  assert.match(said, /roles must alternate/);
  const broken = startApp(t, { engine: chatEngine('{% for %}') });
  assert.match(assertError(await chat(broken.app, {}), 400, 'invalid_value', 'messages'), /cannot be read/);
  const none = startApp(t, { engine: chatEngine(null) });
  assertError(await chat(none.app, {}), 400, 'template_missing', 'messages');
  assert.equal(none.engine.calls.length, 0);
});

test('variables reach the template, its source does not come from requests', async (t) => {
  const { app, engine } = startApp(t, { engine: chatEngine('{{ mode }}{{ big }}{{ messages[0].content }}') });
  await chat(app, { chat_template_kwargs: { mode: 'x', big: 12_345 } });
  assert.equal(promptOf(engine), 'x12345hi');
  assertError(await chat(app, { chat_template: '{{ 1 }}' }), 400, 'unsupported_parameter', 'chat_template');
});

test('clients that leave end all their choices', async (t) => {
  const engine = chatEngine();
  engine.onSubmit = null;
  const { app } = startApp(t, { engine });
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  const controller = new AbortController();
  const reply = fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'tiny', n: 2, messages: [{ role: 'user', content: 'hi' }] }),
    signal: controller.signal,
  });
  const calls = [await engine.call(0), await engine.call(1)];
  controller.abort();
  await assert.rejects(reply);
  await eventually(() => calls.every(({ aborted }) => aborted), 'both choices were aborted');
});
