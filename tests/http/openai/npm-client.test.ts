import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import OpenAI, { APIError, type APIUserAbortError, BadRequestError, NotFoundError, RateLimitError } from 'openai';
import { LoramuxError } from '../../../src/core/errors.js';
import { adapterInfo } from '../../helpers/adapter-info.js';
import { eventually, startApp, type TestApp } from '../../helpers/http-app.js';

interface Connected extends TestApp {
  readonly client: OpenAI;
  /** Bodies of the requests that came, retries too. */
  readonly count: () => number;
}

/** The official client against a listening app. */
async function connect(t: TestContext, maxRetries = 2): Promise<Connected> {
  const server = startApp(t);
  let count = 0;
  server.app.addHook('onRequest', async () => {
    count += 1;
  });
  // Connections that the client opened in advance would be waited for.
  server.app.addHook('preClose', async () => server.app.server.closeAllConnections());
  const url = await server.app.listen({ host: '127.0.0.1', port: 0 });
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries });
  return { ...server, client, count: () => count };
}

test('models: list and retrieve, with a slash in the id', async (t) => {
  const { client, engine } = await connect(t);
  engine.onAdmin = (call) =>
    call.op === 'list' ? { adapters: [adapterInfo('org/sql')], tiers: [] } : adapterInfo('org/sql');
  const ids: string[] = [];
  for await (const model of client.models.list()) ids.push(model.id);
  assert.deepEqual(ids, ['tiny', 'org/sql']);
  const card = await client.models.retrieve('org/sql');
  assert.equal(card.id, 'org/sql');
  assert.equal(card.object, 'model');
});

test('completions: choices, log-probabilities, usage and the request id', async (t) => {
  const { client, engine } = await connect(t);
  engine.onSubmit = (call) => call.admit().scorePrompt().tokens('ok').finish('length');
  const reply = await client.completions.create({
    model: 'org/sql',
    prompt: ['one', 'two'],
    n: 2,
    logprobs: 1,
    echo: true,
    max_tokens: 2,
  });
  assert.deepEqual(
    reply.choices.map(({ index, text, finish_reason }) => [index, text, finish_reason]),
    [
      [0, 'oneok', 'length'],
      [1, 'oneok', 'length'],
      [2, 'twook', 'length'],
      [3, 'twook', 'length'],
    ],
  );
  assert.equal(reply.choices[0]?.logprobs?.token_logprobs?.[0], null);
  assert.equal(reply.model, 'org/sql');
  assert.equal(reply.usage?.total_tokens, 8 + 8);
  assert.match(reply._request_id ?? '', /^[\w-]+$/);
  assert.match(reply.system_fingerprint ?? '', /^fp_/);
});

test('a stream ends with its usage; leaving it early ends the generation', async (t) => {
  const { client, engine } = await connect(t);
  const stream = await client.completions.create({
    model: 'tiny',
    prompt: 'hi',
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = '';
  let total = 0;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.text ?? '';
    total = chunk.usage?.total_tokens ?? total;
  }
  assert.deepEqual([text, total], ['ok', 6]);
  engine.onSubmit = (call) => call.admit().tokens('abc');
  for await (const _ of await client.completions.create({ model: 'tiny', prompt: 'hi', stream: true })) break;
  await eventually(() => engine.calls[1]?.aborted === true, 'abort by leaving the stream');
});

test('an aborted call ends its generation', async (t) => {
  const { client, engine } = await connect(t);
  engine.onSubmit = null;
  const controller = new AbortController();
  const call = client.completions.create({ model: 'tiny', prompt: 'hi' }, { signal: controller.signal });
  await engine.call(0);
  controller.abort();
  await assert.rejects(call, (error: APIUserAbortError) => error.constructor.name === 'APIUserAbortError');
  await eventually(() => engine.calls[0]?.aborted === true, 'abort');
});

test('errors have their class, code and param; what cannot succeed is asked once', async (t) => {
  const { client, engine, count } = await connect(t);
  const create = (fields: object): Promise<unknown> =>
    client.completions.create({ model: 'tiny', prompt: 'hi', ...fields });
  await assert.rejects(create({ nonsense: 1 }), (error) => {
    assert.ok(error instanceof BadRequestError);
    assert.deepEqual([error.code, error.param], ['unknown_parameter', 'nonsense']);
    return true;
  });
  engine.onSubmit = (call) => call.fail('ERR_ADAPTER_NOT_FOUND', 'no such adapter');
  await assert.rejects(create({ model: 'nobody' }), (error) => {
    assert.ok(error instanceof NotFoundError);
    assert.equal(error.code, 'model_not_found');
    return true;
  });
  engine.onSubmit = (call) => call.fail('ERR_ENGINE_FATAL', 'gone for good');
  await assert.rejects(create({}), (error) => error instanceof APIError && error.status === 500);
  assert.equal(count(), 3);
});

test('a full queue is tried again after the time that the server names, and then succeeds', async (t) => {
  const { client, engine, count } = await connect(t, 1);
  engine.onSubmit = (call) => {
    if (engine.calls.length === 1) call.fail('ERR_QUEUE_FULL', 'the queue is full');
    else call.answer('in the end');
  };
  const startedMs = performance.now();
  const reply = await client.completions.create({ model: 'tiny', prompt: 'hi' });
  assert.equal(reply.choices[0]?.text, 'in the end');
  assert.equal(count(), 2);
  assert.ok(performance.now() - startedMs >= 900);
  engine.onSubmit = (call) => call.fail('ERR_QUEUE_FULL', 'the queue is full');
  await assert.rejects(client.completions.create({ model: 'tiny', prompt: 'hi' }, { maxRetries: 0 }), RateLimitError);
});

test('a failure in the middle of a stream is an error of the client, with its code', async (t) => {
  const { client, engine } = await connect(t);
  engine.onSubmit = (call) => {
    call.admit().tokens('abc');
    setTimeout(() => call.fail('ERR_STEP_FAILED', 'the step failed'), 20);
  };
  const stream = await client.completions.create({ model: 'tiny', prompt: 'hi', stream: true });
  let text = '';
  const read = async (): Promise<void> => {
    for await (const chunk of stream) text += chunk.choices[0]?.text ?? '';
  };
  await assert.rejects(read(), (error) => {
    assert.ok(error instanceof APIError);
    assert.deepEqual([error.code, error.status], ['engine_failed', undefined]);
    return true;
  });
  assert.equal(text, 'abc');
});

test('models that are not there', async (t) => {
  const { client, engine } = await connect(t);
  engine.onAdmin = () => {
    throw new LoramuxError('ERR_ADAPTER_NOT_FOUND', 'no adapter is called nobody');
  };
  await assert.rejects(client.models.retrieve('nobody'), NotFoundError);
});
