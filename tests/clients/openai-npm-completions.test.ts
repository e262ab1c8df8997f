import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import OpenAI, { BadRequestError, NotFoundError } from 'openai';
import { target } from './server.js';

/** One of the demo's adapters, and a prompt in the form that it was trained on. */
const ADAPTER = 'sentiment';
const PROMPT = '<|im_start|>user\nWhat a clumsy book!<|im_end|>\n<|im_start|>assistant\n';
const GREEDY = { temperature: 0, max_tokens: 8 };

async function connect(t: TestContext): Promise<OpenAI> {
  const { url } = await target(t);
  return new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
}

test('the list has the base and the adapters, and each can be asked about', async (t) => {
  const client = await connect(t);
  const models = [];
  for await (const model of client.models.list()) models.push(model);
  const base = models[0];
  assert.ok(base);
  assert.ok(models.some(({ id }) => id === ADAPTER));
  assert.equal((await client.models.retrieve(base.id)).id, base.id);
  assert.equal((await client.models.retrieve(ADAPTER)).owned_by, 'loramux');
  await assert.rejects(client.models.retrieve('nobody'), NotFoundError);
});

test('an adapter answers as on the LoRAX route, the base otherwise', async (t) => {
  const client = await connect(t);
  const reply = await client.completions.create({ model: ADAPTER, prompt: PROMPT, ...GREEDY });
  assert.equal(reply.choices[0]?.text, 'negative');
  assert.equal(reply.choices[0]?.finish_reason, 'stop');
  const base = await client.completions.create({ model: '', prompt: PROMPT, ...GREEDY });
  assert.notEqual(base.choices[0]?.text, 'negative');
  assert.notEqual(base.system_fingerprint, reply.system_fingerprint);
  await assert.rejects(client.completions.create({ model: 'nobody', prompt: 'hi' }), NotFoundError);
});

test('several prompts and choices, whole and streamed, are the same texts', async (t) => {
  const client = await connect(t);
  const body = { model: ADAPTER, prompt: [PROMPT, 'The sea is'], n: 2, seed: 7, max_tokens: 6 };
  const whole = await client.completions.create(body);
  assert.deepEqual(
    whole.choices.map(({ index }) => index),
    [0, 1, 2, 3],
  );
  const texts = ['', '', '', ''];
  let usage: unknown;
  for await (const chunk of await client.completions.create({
    ...body,
    stream: true,
    stream_options: { include_usage: true },
  })) {
    for (const { index, text } of chunk.choices) texts[index] += text;
    usage = chunk.usage ?? usage;
  }
  assert.deepEqual(
    texts,
    whole.choices.map(({ text }) => text),
  );
  assert.deepEqual(usage, whole.usage);
});

test('log-probabilities of the answer and, with echo, of the prompt', async (t) => {
  const client = await connect(t);
  const { choices } = await client.completions.create({ model: '', prompt: 'The sea is', logprobs: 3, ...GREEDY });
  const logprobs = choices[0]?.logprobs;
  assert.ok(logprobs?.tokens && logprobs.top_logprobs && logprobs.token_logprobs);
  for (const [at, token] of logprobs.tokens.entries()) {
    const top: Record<string, number> = logprobs.top_logprobs[at] ?? {};
    // Greedy: each token is the likeliest, and no two of the others add up to more than one.
    assert.equal(logprobs.token_logprobs[at], Math.max(...Object.values(top)), token);
    assert.ok(Object.values(top).reduce((total, each) => total + Math.exp(each), 0) <= 1.0001);
  }
  assert.equal(logprobs.tokens.join(''), choices[0]?.text);
  const answer = choices[0]?.text ?? '';
  const scored = await client.completions.create({
    model: '',
    prompt: `The sea is${answer}`,
    echo: true,
    logprobs: 0,
    max_tokens: 0,
  });
  const again = scored.choices[0]?.logprobs?.token_logprobs ?? [];
  assert.equal(again[0], null);
  assert.equal(scored.choices[0]?.text, `The sea is${answer}`);
  // The prompt's tokens score as they did when they were generated.
  for (const [at, logprob] of logprobs.token_logprobs.entries()) {
    const other = again.at(at - logprobs.token_logprobs.length);
    assert.ok(Math.abs((other ?? 0) - logprob) < 1e-3, `${other} and ${logprob}`);
  }
});

test('best_of picks the likelier answer; stops and bias act', async (t) => {
  const client = await connect(t);
  const best = await client.completions.create({ model: '', prompt: 'The sea is', best_of: 2, seed: 3, max_tokens: 5 });
  assert.equal(best.choices.length, 1);
  assert.equal(best.usage?.completion_tokens, 10);
  const plain = await client.completions.create({ model: '', prompt: 'One, two, three,', ...GREEDY });
  const text = plain.choices[0]?.text ?? '';
  const stop = text.slice(3, 5);
  const stopped = await client.completions.create({ model: '', prompt: 'One, two, three,', stop, ...GREEDY });
  assert.equal(stopped.choices[0]?.text, text.slice(0, text.indexOf(stop)));
});

test('leaving a stream is fine, and the server goes on', async (t) => {
  const client = await connect(t);
  const stream = await client.completions.create({ model: '', prompt: 'The sea is', stream: true, max_tokens: 200 });
  for await (const _ of stream) break;
  assert.equal((await client.completions.create({ model: '', prompt: 'hi', max_tokens: 1 })).choices.length, 1);
});

test('a prompt that is too long says so as agents expect', async (t) => {
  const client = await connect(t);
  const create = client.completions.create({ model: '', prompt: Array(20_000).fill(5) });
  await assert.rejects(create, (error) => {
    assert.ok(error instanceof BadRequestError);
    assert.match(error.message, /maximum context length is \d+ tokens/);
    return error.code === 'context_length_exceeded';
  });
});

test("vLLM's constraints hold the output, and a schema that cannot be held is refused by its path", async (t) => {
  const client = await connect(t);
  const create = (fields: object): Promise<OpenAI.Completion> =>
    client.completions.create({ model: '', prompt: 'My answer is ', max_tokens: 20, ...fields });
  const chosen = await create({ guided_choice: ['yes', 'no'] });
  assert.ok(['yes', 'no'].includes(chosen.choices[0]?.text ?? ''), chosen.choices[0]?.text);
  const matched = await create({ structured_outputs: { regex: '[a-c]{4}' } });
  assert.match(matched.choices[0]?.text ?? '', /^[a-c]{4}$/);
  const schema = { type: 'object', properties: { a: { type: 'string', pattern: '(?=x)y' } }, required: ['a'] };
  await assert.rejects(create({ structured_outputs: { json: schema } }), (error) => {
    assert.ok(error instanceof BadRequestError);
    return error.param === 'structured_outputs.json';
  });
});
