import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SPECIAL } from '../../helpers/byte-tokenizer.js';
import { startApp } from '../../helpers/http-app.js';
import { type ScriptedCall, topOf } from '../../helpers/scripted-engine.js';
import { assertError, type Chunk, complete, post } from './support.js';

const EOS = SPECIAL['</s>'];

type Reply = Chunk & { readonly created: number };

test('a plain reply, byte for byte but for id and time', async (t) => {
  const { app } = startApp(t);
  const reply = await complete(app, {}, { 'x-request-id': 'mine' });
  assert.equal(reply.statusCode, 200);
  assert.equal(reply.headers['content-type'], 'application/json; charset=utf-8');
  assert.equal(reply.headers['x-request-id'], 'mine');
  assert.match(String(reply.headers['openai-processing-ms']), /^\d+$/);
  assert.equal(reply.headers['x-prompt-tokens'], '3');
  assert.equal(reply.headers['x-generated-tokens'], '3');
  const { created, system_fingerprint, ...body } = reply.json<Reply>();
  assert.ok(Math.abs(created - Date.now() / 1_000) < 10);
  assert.match(system_fingerprint ?? '', /^fp_[0-9a-f]{12}$/);
  assert.deepEqual(body, {
    id: 'cmpl-mine',
    object: 'text_completion',
    model: 'tiny',
    choices: [{ index: 0, text: 'ok', logprobs: null, finish_reason: 'stop', stop_reason: null }],
    usage: { prompt_tokens: 3, completion_tokens: 3, total_tokens: 6, prompt_tokens_details: { cached_tokens: 0 } },
  });
});

test('the adapter that answers is named, with its digest and a fingerprint of its own', async (t) => {
  const { app } = startApp(t);
  const base = await complete(app, {});
  const adapter = await complete(app, { model: 'tiny:org/sql' });
  assert.equal(adapter.json().model, 'org/sql');
  assert.equal(adapter.headers['x-loramux-adapter-digest'], 'd'.repeat(64));
  assert.equal(adapter.headers['x-adapter-id'], 'org/sql');
  assert.notEqual(adapter.json().system_fingerprint, base.json().system_fingerprint);
  const version = await complete(app, { model: `org/sql@sha256:${'d'.repeat(12)}` });
  assert.equal(version.json().model, 'org/sql');
});

test('the base answers to its served names, and replies say the first', async (t) => {
  const { app, engine } = startApp(t, { openai: { servedNames: ['gpt', 'small'] } });
  for (const [model, shown] of [
    ['gpt', 'gpt'],
    ['small', 'small'],
    ['tiny', 'tiny'],
    ['', 'gpt'],
  ]) {
    const reply = await complete(app, { model });
    assert.equal(reply.json().model, shown);
    assert.equal(engine.calls.at(-1)?.request.adapter, '__base__');
  }
});

test('choices of all prompts in order, each with its own draw', async (t) => {
  const { app, engine } = startApp(t, { drawSeed: () => 5n });
  engine.onSubmit = (call) =>
    call.answer(`${String.fromCharCode(call.request.promptIds.at(-1) ?? 0)}${call.request.choice}`);
  const reply = await complete(app, { prompt: ['a', 'b'], n: 3 });
  const { choices, usage } = reply.json<Reply>();
  assert.deepEqual(
    choices.map(({ index, text }) => [index, text]),
    [
      [0, 'a0'],
      [1, 'a1'],
      [2, 'a2'],
      [3, 'b0'],
      [4, 'b1'],
      [5, 'b2'],
    ],
  );
  assert.deepEqual(usage, {
    prompt_tokens: 4,
    completion_tokens: 18,
    total_tokens: 22,
    prompt_tokens_details: { cached_tokens: 0 },
  });
  assert.deepEqual(new Set(engine.calls.map(({ request }) => request.sampling.seed)), new Set([5n]));
});

test('greedy choices are computed once and repeated', async (t) => {
  const { app, engine } = startApp(t);
  const { choices, usage } = (await complete(app, { n: 3, temperature: 0 })).json<Reply>();
  assert.equal(engine.calls.length, 1);
  assert.deepEqual(
    choices.map(({ index, text }) => [index, text]),
    [
      [0, 'ok'],
      [1, 'ok'],
      [2, 'ok'],
    ],
  );
  assert.deepEqual(usage, {
    prompt_tokens: 3,
    completion_tokens: 9,
    total_tokens: 12,
    prompt_tokens_details: { cached_tokens: 0 },
  });
});

test('best_of picks the highest mean log-probability and counts all that was generated', async (t) => {
  const { app, engine } = startApp(t, { openai: { maxBestOf: 3 } });
  const answers = [[-1, -1], [-3], [-0.5, -0.5, -0.6]];
  engine.onSubmit = (call) => {
    call.admit();
    const logprobs = answers[call.request.choice] ?? [];
    for (const logprob of logprobs) call.token(97 + call.request.choice, logprob);
    call.token(EOS, logprobs[0]).finish('eos_token');
  };
  const { choices, usage } = (await complete(app, { best_of: 3, n: 2 })).json<Reply>();
  assert.deepEqual(
    choices.map(({ index, text, logprobs }) => [index, text, logprobs]),
    [
      [0, 'ccc', null],
      [1, 'aa', null],
    ],
  );
  assert.deepEqual(usage, {
    prompt_tokens: 3,
    completion_tokens: 9,
    total_tokens: 12,
    prompt_tokens_details: { cached_tokens: 0 },
  });
  assert.equal((await complete(app, { best_of: 0 })).json().choices.length, 1);
});

test('stops: strings leave the text unless asked to stay, and the reply says which stop it was', async (t) => {
  const { app, engine } = startApp(t);
  const stopped = async (fields: object): Promise<unknown[]> => {
    const [choice] = (await complete(app, fields)).json<Reply>().choices;
    return [choice?.text, choice?.finish_reason, choice?.stop_reason];
  };
  engine.onSubmit = (call) => call.admit().tokens('one END two').token(EOS).finish('eos_token');
  assert.deepEqual(await stopped({ stop: 'END' }), ['one ', 'stop', 'END']);
  assert.deepEqual(await stopped({ stop: ['x', 'ND'] }), ['one E', 'stop', 'ND']);
  assert.deepEqual(await stopped({ stop: ['END'], include_stop_str_in_output: true }), ['one END', 'stop', 'END']);
  engine.onSubmit = (call) => call.admit().tokens('ab').token(65).finish('eos_token');
  assert.deepEqual(await stopped({ stop_token_ids: [65] }), ['ab', 'stop', 65]);
  engine.onSubmit = (call) => call.admit().tokens('abcd').finish('length');
  assert.deepEqual(await stopped({ max_tokens: 4 }), ['abcd', 'length', null]);
});

test('special tokens show only when asked for', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = (call) =>
    call.admit().tokens('a').token(SPECIAL['<pad>']).tokens('b').token(EOS).finish('eos_token');
  assert.equal((await complete(app, {})).json().choices[0].text, 'ab');
  assert.equal((await complete(app, { skip_special_tokens: false })).json().choices[0].text, 'a<pad>b');
});

const scored = (call: ScriptedCall): void => {
  const { promptLogprobs, logprobs, maxNewTokens } = call.request;
  call.admit();
  if (promptLogprobs !== null) call.scorePrompt();
  if (maxNewTokens > 0) {
    const top = topOf(logprobs?.top ?? 0);
    call.token(98, -0.5, top).token(122, -7, top).token(EOS, Number.NEGATIVE_INFINITY, top);
  }
  call.finish(maxNewTokens === 0 ? 'length' : 'eos_token');
};

test('logprobs: the likeliest and the token itself, of the raw distribution', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = scored;
  const reply = await complete(app, { logprobs: 2 });
  assert.deepEqual(reply.json().choices[0].logprobs, {
    tokens: ['b', 'z', '</s>'],
    token_logprobs: [-0.5, -7, -9999],
    top_logprobs: [
      { a: -0.25, b: -0.5 },
      { a: -0.25, b: -0.5, z: -7 },
      { a: -0.25, b: -0.5, '</s>': -9999 },
    ],
    text_offset: [0, 1, 2],
  });
  assert.deepEqual(engine.calls[0]?.request.logprobs, { of: 'raw', top: 2 });
  assert.equal(engine.calls[0]?.request.promptLogprobs, null);
  const none = await complete(app, { logprobs: 0, return_tokens_as_token_ids: true });
  assert.deepEqual(none.json().choices[0].logprobs.tokens, ['token_id:98', 'token_id:122', `token_id:${EOS}`]);
  assert.deepEqual(none.json().choices[0].logprobs.top_logprobs[0], { 'token_id:98': -0.5 });
});

test('echo repeats the prompt, and with logprobs scores it', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = scored;
  assert.equal((await complete(app, { echo: true })).json().choices[0].text, 'hibz');
  assert.equal(engine.calls[0]?.request.promptLogprobs, null);
  assert.equal((await complete(app, { echo: true, prompt: [104, 105] })).json().choices[0].text, 'hibz');
  const truncated = await complete(app, { echo: true, truncate_prompt_tokens: 1 });
  assert.equal(truncated.json().choices[0].text, 'ibz');
  const { text, logprobs } = (await complete(app, { echo: true, logprobs: 1 })).json().choices[0];
  assert.equal(text, 'hibz');
  assert.deepEqual(logprobs, {
    tokens: ['<s>', 'h', 'i', 'b', 'z', '</s>'],
    token_logprobs: [null, -1, -2, -0.5, -7, -9999],
    top_logprobs: [
      null,
      { a: -0.25, h: -1 },
      { a: -0.25, i: -2 },
      { a: -0.25, b: -0.5 },
      { a: -0.25, z: -7 },
      { a: -0.25, '</s>': -9999 },
    ],
    // The special token in front is not part of the text.
    text_offset: [0, 0, 1, 2, 3, 4],
  });
});

test('echo with max_tokens 0 scores prompts, once however many choices', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = scored;
  const reply = await complete(app, { prompt: [[104, 105], [106]], echo: true, max_tokens: 0, logprobs: 0, n: 2 });
  const { choices, usage } = reply.json();
  assert.equal(engine.calls.length, 2);
  assert.deepEqual(
    choices.map(({ text, finish_reason, logprobs }: Record<string, never>) => [text, finish_reason, logprobs]),
    [0, 0, 1, 1].map((prompt) => {
      const tokens = prompt === 0 ? ['h', 'i'] : ['j'];
      const token_logprobs = prompt === 0 ? [null, -1] : [null];
      const top_logprobs = prompt === 0 ? [null, { i: -1 }] : [null];
      return [
        tokens.join(''),
        'length',
        { tokens, token_logprobs, top_logprobs, text_offset: prompt === 0 ? [0, 1] : [0] },
      ];
    }),
  );
  assert.deepEqual(usage, {
    prompt_tokens: 3,
    completion_tokens: 0,
    total_tokens: 3,
    prompt_tokens_details: { cached_tokens: 0 },
  });
  assert.equal((await complete(app, { echo: true, max_tokens: 0 })).json().choices[0].logprobs, null);
});

test('token ids and details come when asked for', async (t) => {
  const { app } = startApp(t);
  const reply = await complete(app, { prompt: [7, 8], return_token_ids: true }, { 'x-loramux-details': '1' });
  const [choice] = reply.json<Reply>().choices;
  assert.deepEqual(choice?.prompt_token_ids, [7, 8]);
  assert.deepEqual(choice?.token_ids, [111, 107, EOS]);
  const { queue_ms, ttft_ms, ...who } = reply.json().loramux;
  assert.deepEqual(who, { adapter: '__base__', digest: null, tier: null });
  assert.ok(queue_ms >= 0 && ttft_ms >= 0);
});

test('request_id names the reply, and may not be in flight twice', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = null;
  const first = complete(app, { request_id: 'job-1' });
  const call = await engine.call(0);
  assertError(await complete(app, { request_id: 'job-1' }), 400, 'invalid_value', 'request_id');
  call.answer('done');
  assert.equal((await first).json().id, 'cmpl-job-1');
  engine.onSubmit = (again) => again.answer('again');
  assert.equal((await complete(app, { request_id: 'job-1' })).statusCode, 200);
});

test('the log line says for whom, and nothing of prompts', async (t) => {
  const { app, lines } = startApp(t);
  await complete(app, { user: `customer-7${'x'.repeat(200)}`, prompt: 'a secret' });
  const line = JSON.parse(lines.find((each) => each.includes('request.end')) ?? '{}');
  assert.equal(line.user.slice(0, 10), 'customer-7');
  assert.equal(line.user.length, 128);
  assert.equal(line.route, '/v1/completions');
  assert.ok(!lines.join('').includes('secret'));
});

test('one prompt that cannot be served ends the others, and the field is named', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = null;
  const reply = await complete(app, { prompt: ['hi', 'x'.repeat(64)] });
  assertError(reply, 400, 'context_length_exceeded', 'max_tokens');
  assert.ok(engine.calls.every(({ aborted }) => aborted));
  const scoring = await complete(app, { prompt: ['hi', 'x'.repeat(64)], echo: true, max_tokens: 0 });
  assert.equal(scoring.json().error.code, 'context_length_exceeded');
});

test('metrics know the route by its pattern', async (t) => {
  const { app, metrics } = startApp(t);
  await complete(app, {});
  await post(app, '/v1/nothing/secret', {});
  await app.inject({ url: '/v1/models/tiny' });
  const text = await metrics.render();
  assert.match(text, /route="\/v1\/completions"/);
  assert.match(text, /route="\/v1\/models\/\*"/);
  assert.ok(!text.includes('secret'));
});

test('prompt tokens out of the prefix cache are counted, once for each prompt', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = (call) => call.admit({}, 2).tokens('ok').token(EOS).finish('eos_token');
  const { usage } = (await complete(app, { prompt: ['hi', 'ho'], n: 2 })).json();
  assert.deepEqual(usage.prompt_tokens_details, { cached_tokens: 4 });
  const streamed = await complete(app, { stream: true, stream_options: { include_usage: true } });
  assert.match(streamed.body, /"prompt_tokens_details":\{"cached_tokens":2\}\}\}\n\ndata: \[DONE\]/);
});
