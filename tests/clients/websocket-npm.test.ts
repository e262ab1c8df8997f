import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import type { WebSocket } from 'ws';
import { type Message, openSocket, type StreamSocket } from '../helpers/stream-socket.js';
import { isIdle, postJson, untilState } from '../model/client.js';
import { type Target, target } from './server.js';

const ADAPTERS = ['support-json', 'sql', 'sentiment', 'pirate'];
const PROMPT = '<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n';
/** Waits are for states; a machine may be slow. */
const PATIENCE_MS = 120_000;

interface Answer {
  readonly texts: readonly string[];
  readonly reasons: readonly string[];
  readonly generated: number;
}

/** A request, and what the same call by HTTP answers. */
interface Ask {
  readonly id: string;
  readonly api: 'chat' | 'completions' | 'generate';
  readonly body: object;
}

/** Every adapter and the base by every API; the chats have two choices. */
const ASKS: readonly Ask[] = ['', ...ADAPTERS].flatMap((model): readonly Ask[] => {
  const greedy = { model, temperature: 0, max_tokens: 12 };
  const messages = [{ role: 'user', content: 'What is the capital of France?' }];
  const parameters = { max_new_tokens: 12, ...(model === '' ? {} : { adapter_id: model }) };
  return [
    { id: `chat:${model}`, api: 'chat', body: { ...greedy, messages, n: 2, temperature: 1, seed: 7 } },
    { id: `completions:${model}`, api: 'completions', body: { ...greedy, prompt: PROMPT } },
    { id: `generate:${model}`, api: 'generate', body: { inputs: PROMPT, parameters } },
  ];
});

async function byHttp({ url }: Target, { api, body }: Ask): Promise<Answer> {
  const path = { chat: '/v1/chat/completions', completions: '/v1/completions', generate: '/generate' }[api];
  const reply = await postJson(`${url}${path}`, api === 'generate' ? withDetails(body) : body);
  assert.equal(reply.status, 200, await reply.clone().text());
  const answer = (await reply.json()) as Message;
  if (api === 'generate') {
    const { finish_reason: reason, generated_tokens: generated } = answer.details;
    return { texts: [answer.generated_text], reasons: [reason], generated };
  }
  return {
    texts: answer.choices.map((choice: Message) => choice.text ?? choice.message.content),
    reasons: answer.choices.map((choice: Message) => choice.finish_reason),
    generated: answer.usage.completion_tokens,
  };
}

function withDetails(body: object): object {
  const { parameters, ...rest } = body as { readonly parameters: object };
  return { ...rest, parameters: { ...parameters, details: true } };
}

/** What the messages of one stream add up to. */
function answerOf(socket: StreamSocket, id: string): Answer {
  const messages = socket.of(id);
  const tokens = messages.filter(({ type }) => type === 'token');
  assert.deepEqual(
    tokens.map(({ seq }) => seq),
    tokens.map((_, at) => at),
  );
  const done = messages.at(-1);
  assert.equal(done.type, 'done', JSON.stringify(done));
  const texts = done.choices.map((choice: Message) =>
    tokens.flatMap(({ index, text }) => (index === choice.index ? [text] : [])).join(''),
  );
  const reasons = done.choices.map((choice: Message) => choice.finish_reason);
  return { texts, reasons, generated: done.usage.completion_tokens };
}

async function connect(t: TestContext): Promise<{ readonly socket: StreamSocket; readonly server: Target }> {
  const server = await target(t);
  const url = `${server.url.replace('http:', 'ws:')}/v1/stream`;
  return { socket: await openSocket(t, url, { patienceMs: PATIENCE_MS }), server };
}

function endless(id: string, model: string): object {
  const body = { model, prompt: 'Once upon a time', temperature: 0, max_tokens: 500, ignore_eos: true };
  return { type: 'generate', id, api: 'completions', body };
}

test('fifteen generations at once on one socket, mixed adapters, each equal to its call by HTTP', async (t) => {
  const { socket, server } = await connect(t);
  const alone = new Map<string, Answer>();
  for (const ask of ASKS) alone.set(ask.id, await byHttp(server, ask));
  for (const ask of ASKS) socket.send({ type: 'generate', ...ask });
  for (const { id } of ASKS) {
    await socket.end(id);
    assert.deepEqual(answerOf(socket, id), alone.get(id), id);
  }
  const firstEnd = socket.messages.findIndex(({ type }) => type === 'done');
  const begun = new Set(socket.messages.slice(0, firstEnd).flatMap(({ type, id }) => (type === 'token' ? [id] : [])));
  assert.ok(begun.size > ADAPTERS.length, `they ran one after the other: ${[...begun]}`);
});

test('one is cancelled, the others go on to their ends; its id is free again', async (t) => {
  const { socket, server } = await connect(t);
  const [ask] = ASKS.filter(({ id }) => id === 'completions:sql') as [Ask];
  const alone = await byHttp(server, ask);
  socket.send(endless('long', 'pirate'));
  socket.send(endless('other', ''));
  await socket.until(() => socket.of('long').some(({ type }) => type === 'token'), 'a first token');
  socket.send({ type: 'generate', ...ask });
  socket.send({ type: 'cancel', id: 'long' });
  assert.equal((await socket.end('long')).error.code, 'cancelled');
  await socket.end(ask.id);
  assert.deepEqual(answerOf(socket, ask.id), alone);
  assert.ok(!socket.of('other').some(({ type }) => type === 'done' || type === 'error'));
  socket.send({ type: 'cancel', id: 'other' });
  await socket.end('other');
  await untilState(server, isIdle, PATIENCE_MS);
});

test('a socket that closes or drops mid-way leaves nothing behind', async (t) => {
  for (const leave of [(ws: WebSocket) => ws.close(), (ws: WebSocket) => ws.terminate()]) {
    const { socket, server } = await connect(t);
    const models = ['', ...ADAPTERS];
    for (const model of models) socket.send(endless(`m:${model}`, model));
    await socket.until(
      () => models.every((model) => socket.of(`m:${model}`).some(({ type }) => type === 'token')),
      'a token of each',
    );
    leave(socket.socket);
    await untilState(server, isIdle, PATIENCE_MS);
  }
});

test('forced tool calls and log-probabilities come with the tokens', async (t) => {
  const { socket } = await connect(t);
  const city = { type: 'object', properties: { city: { enum: ['Paris', 'Oslo'] } }, required: ['city'] };
  const tools = [{ type: 'function', function: { name: 'weather', parameters: city } }];
  const messages = [{ role: 'user', content: 'How is the weather in Oslo?' }];
  const body = {
    model: 'pirate',
    messages,
    tools,
    tool_choice: 'required',
    parallel_tool_calls: false,
    logprobs: true,
  };
  socket.send({ type: 'generate', id: 'call', api: 'chat', body });
  const done = await socket.end('call');
  assert.equal(done.choices?.[0]?.finish_reason, 'tool_calls', JSON.stringify(done));
  const tokens = socket.of('call').filter(({ type }) => type === 'token');
  const calls = tokens.flatMap(({ tool_calls }) => tool_calls ?? []);
  assert.equal(calls[0].function.name, 'weather');
  const text = calls.map((call: Message) => call.function.arguments ?? '').join('');
  assert.ok(['Paris', 'Oslo'].includes(JSON.parse(text).city), text);
  assert.equal(tokens.flatMap(({ logprobs }) => logprobs?.content ?? []).length, done.usage.completion_tokens);
});

test('what is refused is refused by its stream alone, and pings are answered', async (t) => {
  const { socket } = await connect(t);
  socket.send(endless('open', 'sql'));
  socket.send(endless('nobody', 'nobody'));
  assert.deepEqual([(await socket.end('nobody')).error.code, socket.closeCode], ['model_not_found', null]);
  socket.send({ type: 'generate', id: 'wrong', api: 'completions', body: { model: '', prompt: 'x', top_p: 2 } });
  assert.equal((await socket.end('wrong')).error.param, 'top_p');
  socket.send({ type: 'ping', t: 5 });
  await socket.until(() => socket.messages.some(({ type, t }) => type === 'pong' && t === 5), 'pong');
  assert.ok(!socket.of('open').some(({ type }) => type === 'error'));
});
