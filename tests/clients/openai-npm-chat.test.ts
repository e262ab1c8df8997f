import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { Ajv2020 } from 'ajv/dist/2020.js';
import OpenAI, { APIUserAbortError, BadRequestError, NotFoundError } from 'openai';
import type { ChatCompletionCreateParamsNonStreaming, ChatCompletionFunctionTool } from 'openai/resources';
import { isIdle, untilState } from '../model/client.js';
import { type Target, target } from './server.js';

const ADAPTERS = ['support-json', 'sql', 'sentiment', 'pirate'];
const QUESTION = 'What is the capital of France?';
const SYSTEM = 'You are terse.';
const MESSAGES: ChatCompletionCreateParamsNonStreaming['messages'] = [
  { role: 'system', content: SYSTEM },
  { role: 'user', content: QUESTION },
];
/** The same conversation, written out as the demo model's template writes it. */
const PROMPT = `<|im_start|>system\n${SYSTEM}<|im_end|>\n<|im_start|>user\n${QUESTION}<|im_end|>\n<|im_start|>assistant\n`;
const GREEDY = { messages: MESSAGES, temperature: 0, max_tokens: 12 };

const WEATHER: ChatCompletionFunctionTool = {
  type: 'function',
  function: {
    name: 'get_weather',
    description: 'The weather in a city.',
    parameters: {
      type: 'object',
      properties: { city: { enum: ['Paris', 'Oslo'] }, days: { type: 'integer', minimum: 1, maximum: 9 } },
      required: ['city', 'days'],
      additionalProperties: false,
    },
  },
};
const CLOCK: ChatCompletionFunctionTool = {
  type: 'function',
  function: {
    name: 'get_time',
    parameters: {
      type: 'object',
      properties: { zone: { enum: ['UTC', 'CET'] } },
      required: ['zone'],
      additionalProperties: false,
    },
  },
};

async function connect(t: TestContext): Promise<{ readonly client: OpenAI; readonly server: Target }> {
  const server = await target(t);
  return { client: new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 }), server };
}

function validate(schema: unknown, value: unknown): void {
  const ajv = new Ajv2020();
  assert.ok(ajv.validate(schema as object, value), `${JSON.stringify(value)}: ${ajv.errorsText()}`);
}

/** Asserts that a call is one of these tools' with arguments of its schema. */
function checkCall(call: OpenAI.ChatCompletionMessageToolCall | undefined, tools = [WEATHER, CLOCK]): void {
  assert.ok(call?.type === 'function' && call.id !== '');
  const tool = tools.find((each) => each.function.name === call.function.name);
  assert.ok(tool !== undefined, call.function.name);
  validate(tool.function.parameters, JSON.parse(call.function.arguments));
}

test('a chat is the completion of its conversation as the template writes it, by every model name', async (t) => {
  const { client } = await connect(t);
  const base = (await client.models.list()).data[0]?.id ?? '';
  for (const [model, name] of [['', base], [base, base], ...ADAPTERS.map((each) => [`${base}:${each}`, each])]) {
    const chat = await client.chat.completions.create({ model: model ?? '', ...GREEDY });
    const plain = { model: name ?? '', prompt: PROMPT, temperature: 0, max_tokens: 12 };
    const [choice] = (await client.completions.create(plain)).choices;
    assert.equal(chat.model, name);
    assert.equal(chat.object, 'chat.completion');
    assert.deepEqual(
      [chat.choices[0]?.message.role, chat.choices[0]?.message.content, chat.choices[0]?.finish_reason],
      ['assistant', choice?.text, choice?.finish_reason],
    );
  }
});

test('a stream and its usage are the plain answer; the helper puts the message together', async (t) => {
  const { client } = await connect(t);
  const body = { model: '', ...GREEDY, n: 2, temperature: 2, seed: 3, max_tokens: 10 };
  const plain = await client.chat.completions.create(body);
  const texts = ['', ''];
  const reasons: unknown[] = [];
  let usage: OpenAI.CompletionUsage | null | undefined;
  const options = { stream: true, stream_options: { include_usage: true } } as const;
  for await (const chunk of await client.chat.completions.create({ ...body, ...options })) {
    for (const { index, delta, finish_reason: reason } of chunk.choices) {
      texts[index] += delta.content ?? '';
      if (reason !== null) reasons[index] = reason;
    }
    usage = chunk.usage ?? usage;
  }
  assert.deepEqual(
    texts.map((text, at) => [text, reasons[at]]),
    plain.choices.map(({ message, finish_reason: reason }) => [message.content, reason]),
  );
  assert.notEqual(texts[0], texts[1]);
  const counts = ({ prompt_tokens: prompt, completion_tokens: completion }: OpenAI.CompletionUsage): number[] => [
    prompt,
    completion,
  ];
  assert.ok(plain.usage && usage);
  assert.deepEqual(counts(usage), counts(plain.usage));

  const helper = client.chat.completions.stream({ ...body, n: 1, ...options });
  const content: string[] = [];
  helper.on('content', (delta) => content.push(delta));
  assert.equal((await helper.finalMessage()).content, plain.choices[0]?.message.content);
  assert.equal(content.join(''), plain.choices[0]?.message.content);
  assert.equal((await helper.totalUsage()).prompt_tokens, plain.usage.prompt_tokens);
});

test('log-probabilities are those of the tokens, whole and streamed', async (t) => {
  const { client } = await connect(t);
  const body = { model: '', ...GREEDY, logprobs: true, top_logprobs: 3 };
  const [choice] = (await client.chat.completions.create(body)).choices;
  const tokens = choice?.logprobs?.content ?? [];
  const decoder = new TextDecoder();
  const bytes = tokens.flatMap((token) => token.bytes ?? []);
  assert.ok(decoder.decode(new Uint8Array(bytes)).startsWith(choice?.message.content ?? '?'));
  for (const { token, logprob, top_logprobs: top } of tokens) {
    assert.equal(top[0]?.token, token);
    assert.equal(top[0]?.logprob, logprob);
    assert.ok(top.length === 3 && top.every((each) => each.logprob <= logprob));
  }
  const streamed: unknown[] = [];
  for await (const chunk of await client.chat.completions.create({ ...body, stream: true })) {
    streamed.push(...(chunk.choices[0]?.logprobs?.content ?? []));
  }
  assert.deepEqual(streamed, tokens);
});

test('stop strings end the message before them; the limit ends it as length', async (t) => {
  const { client } = await connect(t);
  const create = async (fields: object): Promise<OpenAI.ChatCompletion.Choice | undefined> =>
    (await client.chat.completions.create({ model: 'pirate', ...GREEDY, ...fields })).choices[0];
  const text = (await create({}))?.message.content ?? '';
  const stop = text.slice(4, 7);
  for (const given of [stop, ['never said', stop]]) {
    const choice = await create({ stop: given });
    assert.deepEqual([choice?.message.content, choice?.finish_reason], [text.slice(0, text.indexOf(stop)), 'stop']);
  }
  assert.equal((await create({ max_completion_tokens: 2, max_tokens: null }))?.finish_reason, 'length');
});

test('forced tools: required, named, several; whole, streamed and by the helper', async (t) => {
  const { client } = await connect(t);
  const tools = [WEATHER, CLOCK];
  const body = { model: 'pirate', messages: MESSAGES, tools, temperature: 1, seed: 5, parallel_tool_calls: false };
  const required = { ...body, tool_choice: 'required' as const };
  const [plain] = (await client.chat.completions.create(required)).choices;
  assert.equal(plain?.finish_reason, 'tool_calls');
  assert.equal(plain?.message.tool_calls?.length, 1);
  const [call] = plain?.message.tool_calls ?? [];
  checkCall(call);
  assert.ok(call?.type === 'function');

  const streamed = { name: '', text: '', chunks: 0 };
  for await (const chunk of await client.chat.completions.create({ ...required, stream: true })) {
    for (const delta of chunk.choices[0]?.delta.tool_calls ?? []) {
      streamed.name += delta.function?.name ?? '';
      streamed.text += delta.function?.arguments ?? '';
      streamed.chunks += 1;
    }
  }
  assert.deepEqual([streamed.name, streamed.text], [call.function.name, call.function.arguments]);
  assert.ok(streamed.chunks > 2, 'the arguments come as they are written');

  const message = await client.chat.completions.stream({ ...required, stream: true }).finalMessage();
  assert.deepEqual(
    message.tool_calls?.map((each) => each.type === 'function' && each.function.arguments),
    [call.function.arguments],
  );

  const named = { type: 'function', function: { name: 'get_time' } } as const;
  const [chosen] = (await client.chat.completions.create({ ...body, tool_choice: named })).choices;
  assert.equal(chosen?.finish_reason, 'stop');
  checkCall(chosen?.message.tool_calls?.[0], [CLOCK]);
});

test('a whole round of tools: the client calls the function and sends its result back', async (t) => {
  const { client } = await connect(t);
  const asked: unknown[] = [];
  const called = {
    name: 'get_weather',
    description: 'The weather in a city.',
    parameters: WEATHER.function.parameters ?? {},
    parse: (text: string) => JSON.parse(text) as object,
    function: (args: object) => {
      asked.push(args);
      return 'sunny';
    },
  };
  const named = { type: 'function', function: { name: 'get_weather' } } as const;
  const runner = client.chat.completions.runTools({
    model: 'sql',
    messages: MESSAGES,
    tools: [{ type: 'function', function: called }],
    tool_choice: named,
    max_tokens: 60,
  });
  const result = await runner.finalFunctionToolCallResult();
  assert.equal(result, 'sunny');
  assert.equal(asked.length, 1);
  validate(WEATHER.function.parameters, asked[0]);
  const history = runner.messages;
  assert.equal(history.at(-1)?.role, 'tool');
  const after = await client.chat.completions.create({ model: 'sql', messages: history, max_tokens: 4 });
  assert.ok((after.usage?.prompt_tokens ?? 0) > 0);
});

test("tools that the model's template cannot show are refused, not left out", async (t) => {
  const { client } = await connect(t);
  for (const choice of [{}, { tool_choice: 'auto' as const }]) {
    const create = client.chat.completions.create({ model: '', messages: MESSAGES, tools: [WEATHER], ...choice });
    await assert.rejects(create, (error) => {
      assert.ok(error instanceof BadRequestError);
      return error.code === 'unsupported_parameter' && error.param === 'tools';
    });
  }
  const none = { model: '', ...GREEDY, tools: [WEATHER], tool_choice: 'none' as const };
  assert.equal((await client.chat.completions.create(none)).choices[0]?.message.tool_calls, undefined);
});

test('response_format: the content is JSON of the schema, whole, streamed and parsed by the package', async (t) => {
  const { client } = await connect(t);
  const schema = {
    type: 'object',
    properties: {
      name: { type: 'string', maxLength: 8 },
      people: { type: 'integer', minimum: 1, maximum: 9_999 },
      tags: { type: 'array', items: { enum: ['big', 'old'] }, maxItems: 2 },
    },
    required: ['name', 'people', 'tags'],
    additionalProperties: false,
  };
  const format = { type: 'json_schema', json_schema: { name: 'city', strict: true, schema } } as const;
  const body = { model: 'sql', messages: MESSAGES, response_format: format, temperature: 0 };
  const { choices } = await client.chat.completions.parse(body);
  assert.equal(choices[0]?.finish_reason, 'stop');
  const content = choices[0]?.message.content ?? '';
  validate(schema, JSON.parse(content));
  assert.equal(await client.chat.completions.stream({ ...body, stream: true }).finalContent(), content);
  const any = { model: 'sql', messages: MESSAGES, response_format: { type: 'json_object' }, max_tokens: 8 } as const;
  const [choice] = (await client.chat.completions.create(any)).choices;
  assert.match(choice?.message.content ?? '', /^\s*\{/);
  const broken = { ...format.json_schema, schema: { type: 'nothing' } };
  const refused = { type: 'json_schema', json_schema: broken } as const;
  await assert.rejects(
    client.chat.completions.create({ model: '', messages: MESSAGES, response_format: refused }),
    (error) => error instanceof BadRequestError && (error.param ?? '').startsWith('response_format'),
  );
});

test('unknown models and fields have their classes', async (t) => {
  const { client } = await connect(t);
  const create = (fields: object): Promise<unknown> =>
    client.chat.completions.create({ model: '', messages: MESSAGES, max_tokens: 1, ...fields });
  await assert.rejects(create({ model: 'nobody' }), (error) => {
    return error instanceof NotFoundError && error.code === 'model_not_found' && error.param === 'model';
  });
  for (const [fields, code, param] of [
    [{ nonsense: 1 }, 'unknown_parameter', 'nonsense'],
    [{ messages: [{ role: 'nobody', content: 'x' }] }, 'invalid_value', 'messages[0].role'],
    [{ top_logprobs: 21, logprobs: true }, 'invalid_value', 'top_logprobs'],
    [{ messages: [{ role: 'user', content: 'x '.repeat(20_000) }] }, 'context_length_exceeded', 'max_tokens'],
  ] as const) {
    await assert.rejects(create(fields), (error) => {
      assert.ok(error instanceof BadRequestError, String(error));
      assert.deepEqual([error.code, error.param], [code, param]);
      assert.match(error.requestID ?? '', /^[\w-]+$/);
      return true;
    });
  }
});

test('an aborted chat, and a stream that is left, leave nothing behind', async (t) => {
  const { client, server } = await connect(t);
  const body = { model: 'sql', messages: MESSAGES, max_tokens: 500 };
  const extra = { ...body, ignore_eos: true };
  const aborting = new AbortController();
  const call = client.chat.completions.create(extra, { signal: aborting.signal });
  call.catch(() => undefined);
  await untilState(server, ({ running }) => running === 1, 60_000);
  aborting.abort();
  await assert.rejects(call, APIUserAbortError);
  await untilState(server, isIdle, 60_000);
  for await (const _ of await client.chat.completions.create({ ...extra, stream: true })) break;
  await untilState(server, isIdle, 60_000);
});
