import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { FastifyInstance, LightMyRequestResponse as Response } from 'fastify';
import type { AdapterText } from '../../src/core/adapter-text.js';
import { adapterText } from '../helpers/adapter-text.js';
import { SPECIAL } from '../helpers/byte-tokenizer.js';
import { startApp } from '../helpers/http-app.js';
import { ScriptedEngine } from '../helpers/scripted-engine.js';
import { connect, type Message } from '../helpers/stream-socket.js';

const END = 0x2e;
/** Puts `>` before a prompt, shows answers in capitals and ends them at a full stop. */
const OWN = adapterText({
  prefix: '>',
  template: '{% for m in messages %}[{{ m.content }}]{% endfor %}',
  eosTokenIds: [END],
  sharesVocabulary: false,
});

/** An engine whose adapter `mine` has a text of its own; its answers are `ok.`, its prompts are scored when asked for. */
function engineWith(text: AdapterText = OWN, template: string | null = null): ScriptedEngine {
  const engine = new ScriptedEngine({ chatTemplate: template });
  engine.textOf = ({ adapter }) => (adapter === 'mine' ? text : null);
  engine.onSubmit = (call) => {
    const own = call.request.adapter === 'mine';
    void (own && call.request.textDigest !== text.digest ? call.ask(text) : Promise.resolve(call)).then(() => {
      call.admit();
      if (call.request.promptLogprobs !== null) call.scorePrompt();
      call
        .tokens('ok')
        .token(own ? END : SPECIAL['</s>'])
        .finish('eos_token');
    });
  };
  return engine;
}

function post(app: FastifyInstance, url: string, payload: object): Promise<Response> {
  return app.inject({ method: 'POST', url, payload });
}

function promptsOf(engine: ScriptedEngine): string[] {
  return engine.calls.map(({ request }) => String.fromCharCode(...request.promptIds));
}

test("LoRAX's routes encode, decode and stop as the adapter does, beside the base", async (t) => {
  const { app, engine } = startApp(t, { engine: engineWith() });
  const parameters = { adapter_id: 'mine', details: true, decoder_input_details: true };
  const [own, base] = await Promise.all([
    post(app, '/generate', { inputs: 'hi', parameters }),
    post(app, '/generate', { inputs: 'hi', parameters: { details: true } }),
  ]);
  const { generated_text: text, details } = own.json();
  assert.equal(text, 'OK');
  assert.equal(details.finish_reason, 'eos_token');
  assert.equal(details.prompt_tokens, 4);
  assert.deepEqual(
    details.prefill.map(({ text: each }: Message) => each),
    ['<S>', '>', 'H', 'I'],
  );
  assert.deepEqual(
    details.tokens.map(({ text: each }: Message) => each),
    ['O', 'K', '.'],
  );
  assert.equal(base.json().generated_text, 'ok');
  assert.deepEqual(promptsOf(engine), ['\u0100>hi', '\u0100hi']);
  const streamed = await post(app, '/generate_stream', { inputs: 'hi', parameters: { adapter_id: 'mine' } });
  assert.match(streamed.body, /"generated_text":"OK"/);
  assert.equal(engine.calls[2]?.submissions.length, 1);
});

test('completions echo, score and count the prompt that the adapter saw', async (t) => {
  const { app, engine } = startApp(t, { engine: engineWith() });
  const body = { model: 'mine', prompt: 'hi', max_tokens: 5, temperature: 0, return_token_ids: true };
  const reply = (await post(app, '/v1/completions', { ...body, echo: true, logprobs: 1, n: 2 })).json();
  assert.deepEqual(
    reply.choices.map(({ text }: Message) => text),
    ['hiOK', 'hiOK'],
  );
  assert.deepEqual(reply.choices[0].prompt_token_ids, [SPECIAL['<s>'], 0x3e, 0x68, 0x69]);
  assert.deepEqual(reply.choices[0].logprobs.tokens, ['<S>', '>', 'H', 'I', 'O', 'K', '.']);
  assert.equal(reply.usage.prompt_tokens, 4);
  const ids = (await post(app, '/v1/completions', { ...body, prompt: [104, 105], echo: true })).json();
  assert.equal(ids.choices[0].text, 'HIOK');
  const stopped = (await post(app, '/v1/completions', { ...body, stop: ['K'], stream: true })).body;
  assert.match(stopped, /"stop_reason":"K"/);
  assert.ok(engine.calls.slice(2).every(({ submissions }) => submissions.length === 1));
});

test("chats go by the adapter's template, whether the base has one or not", async (t) => {
  for (const template of [null, 'base: {{ messages[0].content }}']) {
    const { app, engine } = startApp(t, { engine: engineWith(OWN, template) });
    const body = { messages: [{ role: 'user', content: 'hi' }] };
    const own = await post(app, '/v1/chat/completions', { ...body, model: 'mine' });
    assert.equal(own.json().choices[0].message.content, 'OK');
    assert.deepEqual(promptsOf(engine), ['>[hi]']);
    const streamed = await post(app, '/v1/chat/completions', { ...body, model: 'mine', stream: true });
    assert.match(streamed.body, /"content":"O"/);
    const base = await post(app, '/v1/chat/completions', { ...body, model: 'tiny' });
    assert.equal(base.statusCode, template === null ? 400 : 200);
    if (template !== null) assert.equal(promptsOf(engine).at(-1), 'base: hi');
  }
});

test('tools are shown and found as the template of the adapter has them', async (t) => {
  const text = adapterText({ template: '{% for t in tools %}<tool_call>{{ t.function.name }}{% endfor %}' });
  const engine = engineWith(text, '{{ messages[0].content }}');
  engine.onSubmit = (call) => {
    const answer = '<tool_call>{"name": "add", "arguments": {}}</tool_call>';
    void (call.request.textDigest === text.digest ? Promise.resolve(call) : call.ask(text)).then(() =>
      call.answer(answer),
    );
  };
  const { app } = startApp(t, { engine });
  const tools = [{ type: 'function', function: { name: 'add', parameters: { type: 'object' } } }];
  const body = { model: 'mine', messages: [{ role: 'user', content: 'hi' }], tools };
  const [{ message }] = (await post(app, '/v1/chat/completions', body)).json().choices;
  assert.equal(message.tool_calls[0].function.name, 'add');
});

test('a constraint with an adapter of another vocabulary is a 400 or 422 that names its field', async (t) => {
  const { app, engine } = startApp(t, { engine: engineWith() });
  const open = { model: 'mine', prompt: 'hi', structured_outputs: { regex: 'a' } };
  const completion = await post(app, '/v1/completions', open);
  assert.equal(completion.statusCode, 400);
  assert.equal(completion.json().error.param, 'structured_outputs.regex');
  assert.match(completion.json().error.message, /mine, whose tokenizer has another vocabulary/);
  const response_format = { type: 'json_object', schema: { type: 'object' } };
  const lorax = await post(app, '/generate', { inputs: 'hi', parameters: { adapter_id: 'mine', response_format } });
  assert.equal(lorax.statusCode, 422);
  assert.ok(engine.calls.every(({ aborted }) => aborted));
});

test('a stream of a socket is that of its adapter', async (t) => {
  const { app } = startApp(t, { engine: engineWith() });
  const client = await connect(t, app);
  const body = { model: 'mine', prompt: 'hi', max_tokens: 5, return_token_ids: true };
  client.send({ type: 'generate', id: 'a', api: 'completions', body });
  const done = await client.end('a');
  assert.equal(done.usage.prompt_tokens, 4);
  const tokens = client.of('a').filter(({ type }: Message) => type === 'token');
  assert.equal(tokens.map(({ text }: Message) => text).join(''), 'OK');
});
