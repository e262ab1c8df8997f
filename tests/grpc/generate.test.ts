import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { type ClientReadableStream, Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { KeyRing } from '../../src/auth/key-ring.js';
import { SPECIAL } from '../helpers/byte-tokenizer.js';
import { type CallableClient, PROTOS, type Reply, startGrpcApp, unary } from '../helpers/grpc-app.js';
import { eventually } from '../helpers/http-app.js';
import { makeKey } from '../unit/auth/support.js';

type Stream = ClientReadableStream<Reply>;

function open(client: CallableClient, message: object, ...rest: unknown[]): Stream {
  return client.generate?.(message, ...rest) as Stream;
}

/** All events of a call, or the error that ended it. */
async function read(stream: Stream): Promise<{ readonly events: Reply[]; readonly error: ServiceError | null }> {
  const events: Reply[] = [];
  let error: ServiceError | null = null;
  stream.on('data', (event: Reply) => events.push(event));
  stream.on('error', (thrown: ServiceError) => {
    error = thrown;
  });
  await once(stream, 'close').catch(() => undefined);
  return { events, error };
}

async function failureOf(stream: Stream): Promise<ServiceError> {
  const { error } = await read(stream);
  assert.ok(error !== null, 'expected the call to fail');
  return error;
}

test('a generation is accepted, comes in deltas, and is done', async (t) => {
  const app = await startGrpcApp(t);
  const client = app.client(PROTOS.generation, app.address);
  app.engine.onSubmit = (call) => call.admit().tokens('ok').finish('length');
  const message = {
    model: 'sql',
    prompt: 'hi',
    sampling: { temperature: 0 },
    stopping: { maxTokens: 2 },
    output: { tokenIds: true, logprobs: 0 },
  };
  const { events, error } = await read(open(client, message));
  assert.equal(error, null);
  const [accepted, ...rest] = events;
  assert.equal(accepted?.accepted.model, 'sql');
  assert.equal(accepted?.accepted.digest, 'd'.repeat(64));
  assert.equal(accepted?.accepted.tier, 'host');
  assert.match(accepted?.accepted.requestId, /^[\da-f]{16}$/);
  const token = (id: number, text: string) => ({ id, text, logprob: -0.5, _logprob: 'logprob', top: [] });
  const done = rest.pop()?.done;
  assert.deepEqual(
    rest.map(({ delta }) => delta),
    [
      { index: 0, text: 'o', tokenIds: [111], tokens: [token(111, 'o')], seq: 0 },
      { index: 0, text: 'k', tokenIds: [107], tokens: [token(107, 'k')], seq: 1 },
    ],
  );
  assert.deepEqual(
    done.choices.map((choice: Reply) => [choice.index, choice.finishReason]),
    [[0, 'LENGTH']],
  );
  assert.deepEqual(done.usage, { promptTokens: 3, completionTokens: 2, cachedPromptTokens: 0 });
  assert.equal(app.engine.calls[0]?.request.adapter, 'sql');
});

test('what is unset is the default, and what is set arrives', async (t) => {
  const app = await startGrpcApp(t);
  const client = app.client(PROTOS.generation, app.address);
  await read(open(client, { prompt: 'hi' }));
  const plain = app.engine.calls[0]?.request;
  assert.deepEqual([plain?.adapter, plain?.maxNewTokens, plain?.sampling.temperature], ['__base__', 61, 1]);
  assert.deepEqual([plain?.sampling.seed, plain?.logprobs, plain?.constraint], [7n, null, null]);

  await read(
    open(client, {
      tokenIds: { ids: [104, 105] },
      sampling: {
        temperature: 0.5,
        topP: 0.25,
        topK: 3,
        minP: 0.125,
        typicalP: 0.5,
        repetitionPenalty: 1.5,
        presencePenalty: 1,
        frequencyPenalty: -1,
        seed: '18446744073709551615',
        logitBias: { 5: -2 },
      },
      stopping: { maxTokens: 9, minTokens: 4, stop: ['x'], stopTokenIds: [8] },
      output: { promptLogprobs: 2, specialTokens: true },
      constraint: { regex: 'a+' },
      adapters: [{ name: 'a' }, { name: 'b', weight: 0.5 }],
      cacheSalt: 'tenant',
    }),
  );
  const full = app.engine.calls[1]?.request;
  assert.deepEqual(full?.sampling, {
    greedy: false,
    temperature: 0.5,
    topP: 0.25,
    topK: 3,
    minP: 0.125,
    typicalP: 0.5,
    repetitionPenalty: 1.5,
    presencePenalty: 1,
    frequencyPenalty: -1,
    penaltyScope: 'output',
    logitBias: new Map([[5, -2]]),
    seed: 2n ** 64n - 1n,
  });
  assert.deepEqual([...(full?.promptIds ?? [])], [104, 105]);
  assert.deepEqual([full?.maxNewTokens, full?.minNewTokens, full?.stopIds], [9, 4, [257, 8]]);
  assert.deepEqual([full?.promptLogprobs, full?.constraint], [{ top: 2 }, { kind: 'regex', pattern: 'a+' }]);
  assert.equal(full?.cacheSalt, 'tenant');
  assert.deepEqual(full?.composition, {
    kind: 'sum',
    members: [
      { name: 'a', weight: 1 },
      { name: 'b', weight: 0.5 },
    ],
  });
});

test('several choices keep their indexes and seeds apart', async (t) => {
  const app = await startGrpcApp(t);
  const client = app.client(PROTOS.generation, app.address);
  app.engine.onSubmit = (call) =>
    call.admit({}, 2).tokens(String(call.request.choice)).token(SPECIAL['</s>']).finish('eos_token');
  const { events } = await read(open(client, { prompt: 'hi', sampling: { n: 3 } }));
  const texts = ['', '', ''];
  for (const { delta } of events) if (delta) texts[delta.index] += delta.text;
  assert.deepEqual(texts, ['0', '1', '2']);
  const { choices, usage } = events[events.length - 1].done;
  assert.deepEqual(
    choices.map((choice: Reply) => [choice.index, choice.finishReason, choice.seed]),
    [0, 1, 2].map((index) => [index, 'EOS', '7']),
  );
  assert.deepEqual(usage, { promptTokens: 3, completionTokens: 6, cachedPromptTokens: 2 });
});

test('a stop string and a stop token are named', async (t) => {
  const app = await startGrpcApp(t);
  const client = app.client(PROTOS.generation, app.address);
  app.engine.onSubmit = (call) => call.admit().tokens('one two');
  const byText = await read(open(client, { prompt: 'hi', stopping: { stop: ['e t'] } }));
  const [choice] = byText.events[byText.events.length - 1].done.choices;
  assert.deepEqual([choice.finishReason, choice.stop], ['STOP', 'e t']);
  assert.equal(byText.events.map(({ delta }) => delta?.text ?? '').join(''), 'on');

  app.engine.onSubmit = (call) => call.admit().tokens('a!').finish('eos_token');
  const byToken = await read(open(client, { prompt: 'hi', stopping: { stopTokenIds: [33] } }));
  const [other] = byToken.events[byToken.events.length - 1].done.choices;
  assert.deepEqual([other.finishReason, other.stopTokenId], ['STOP', 33]);
});

test('a field out of bounds is INVALID_ARGUMENT, by its path in the message', async (t) => {
  const app = await startGrpcApp(t);
  const client = app.client(PROTOS.generation, app.address);
  const cases: readonly (readonly [message: object, path: string])[] = [
    [{}, 'input'],
    [{ prompt: '' }, 'input'],
    [{ tokenIds: { ids: [600] } }, 'input[0]'],
    [{ prompt: 'hi', sampling: { temperature: 3 } }, 'sampling.temperature'],
    [{ prompt: 'hi', sampling: { n: 17 } }, 'sampling.n'],
    [{ prompt: 'hi', stopping: { minTokens: 5, maxTokens: 2 } }, 'stopping.min_tokens'],
    [{ prompt: 'hi', stopping: { maxTokens: 500 } }, 'stopping.max_tokens'],
    [{ prompt: 'hi', output: { logprobs: 21 } }, 'output.logprobs'],
    [{ prompt: 'hi', output: { promptLogprobs: 21 } }, 'output.prompt_logprobs'],
    [{ prompt: 'hi', constraint: { jsonSchema: '{' } }, 'constraint.json_schema'],
  ];
  for (const [message, path] of cases) {
    const error = await failureOf(open(client, message));
    assert.equal(error.code, status.INVALID_ARGUMENT, path);
    const [details] = error.metadata.get('grpc-status-details-bin');
    assert.ok(Buffer.isBuffer(details) && details.includes(path), `${path}: ${error.details}`);
    assert.ok(details.includes('loramux'), 'ErrorInfo names the domain');
  }
  assert.equal(app.engine.calls.length, 0);
});

test('failures of the engine have the status of their code', async (t) => {
  const app = await startGrpcApp(t);
  const client = app.client(PROTOS.generation, app.address);
  const codes = {
    ERR_ADAPTER_NOT_FOUND: status.NOT_FOUND,
    ERR_ADAPTER_INVALID: status.FAILED_PRECONDITION,
    ERR_ADAPTER_SOURCE: status.UNAVAILABLE,
    ERR_QUEUE_FULL: status.RESOURCE_EXHAUSTED,
    ERR_STEP_FAILED: status.INTERNAL,
  } as const;
  for (const [code, expected] of Object.entries(codes)) {
    app.engine.onSubmit = (call) => call.fail(code as keyof typeof codes, `because of ${code}`);
    const error = await failureOf(open(client, { prompt: 'hi' }));
    assert.deepEqual([error.code, error.details], [expected, `because of ${code}`]);
    const retry = error.metadata.get('retry-after-ms');
    assert.equal(retry.length, ['ERR_ADAPTER_SOURCE', 'ERR_QUEUE_FULL', 'ERR_STEP_FAILED'].includes(code) ? 1 : 0);
  }
});

test('a deadline and a cancelled call end the generation in the engine', async (t) => {
  const app = await startGrpcApp(t);
  app.engine.onSubmit = (call) => call.admit().tokens('a');
  const client = app.client(PROTOS.generation, app.address);
  const late = await failureOf(open(client, { prompt: 'hi' }, { deadline: Date.now() + 100 }));
  assert.equal(late.code, status.DEADLINE_EXCEEDED);
  await eventually(() => app.engine.calls[0]?.aborted === true, 'the deadline reaches the engine');

  const stream = open(client, { prompt: 'hi' });
  stream.on('data', () => stream.cancel());
  assert.equal((await failureOf(stream)).code, status.CANCELLED);
  await eventually(() => app.engine.calls[1]?.aborted === true, 'the cancellation reaches the engine');
});

test('a client that does not read has its generation ended, and nobody else’s', async (t) => {
  const app = await startGrpcApp(t, { maxBufferedBytes: 4_096 });
  const client = app.client(PROTOS.generation, app.address);
  const piece = 'x'.repeat(1_000);
  app.engine.onSubmit = null;
  const stream = open(client, { prompt: 'hi' });
  stream.on('error', () => undefined);
  stream.pause();
  const call = await app.engine.call(0);
  call.admit();
  const other = read(open(client, { prompt: 'hi' }));
  const second = await app.engine.call(1);
  for (let sent = 0; sent < 2_000 && !call.aborted; sent += 1) {
    call.tokens(piece);
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.ok(call.aborted, 'the unread generation was ended');
  second.answer('ok');
  assert.equal((await other).error, null);
  stream.cancel();
});

test('a draining server refuses new calls, and lets those that run finish', async (t) => {
  const app = await startGrpcApp(t);
  const client = app.client(PROTOS.generation, app.address);
  app.engine.onSubmit = null;
  const running = read(open(client, { prompt: 'hi' }));
  const call = await app.engine.call(0);
  app.lifecycle.beginDrain();
  const refused = await failureOf(open(client, { prompt: 'hi' }));
  assert.equal(refused.code, status.UNAVAILABLE);
  call.answer('ok');
  assert.equal((await running).error, null);
});

test('the request id comes back in the first metadata, and calls are logged and counted', async (t) => {
  const app = await startGrpcApp(t);
  const client = app.client(PROTOS.generation, app.address);
  const metadata = new Metadata();
  metadata.set('x-request-id', 'mine-1');
  const stream = open(client, { prompt: 'secret words' }, metadata);
  const initial = once(stream, 'metadata') as Promise<[Metadata]>;
  await read(stream);
  assert.deepEqual((await initial)[0].get('x-request-id'), ['mine-1']);
  const [end] = app.metrics.requests;
  assert.deepEqual([end?.route, end?.status], ['/loramux.v1.Generation/Generate', 200]);
  const line = app.lines.find((each) => each.includes('request.end')) ?? '';
  assert.match(line, /"transport":"grpc"/);
  assert.match(line, /mine-1/);
  assert.ok(!line.includes('secret'));
});

test('Tokenize gives the ids of a text', async (t) => {
  const app = await startGrpcApp(t);
  const client = app.client(PROTOS.generation, app.address);
  const plain = await unary(client, 'tokenize', { text: 'hi', addSpecialTokens: false });
  assert.deepEqual([plain.tokenIds, plain.maxModelLen], [[104, 105], 64]);
  const special = await unary(client, 'tokenize', { text: 'hi' });
  assert.equal(special.tokenIds.length, 3);
});

test('with keys, a call needs one that may use the adapter', async (t) => {
  const key = makeKey('reader', ['infer:sql']);
  const app = await startGrpcApp(t, { keys: new KeyRing([key.record]) });
  const client = app.client(PROTOS.generation, app.address);
  const bearer = (token: string): Metadata => {
    const metadata = new Metadata();
    metadata.set('authorization', `Bearer ${token}`);
    return metadata;
  };
  const call = (model: string, metadata = new Metadata()) => read(open(client, { model, prompt: 'hi' }, metadata));
  assert.equal((await call('sql')).error?.code, status.UNAUTHENTICATED);
  assert.equal((await call('sql', bearer('lmx_wrong'))).error?.code, status.UNAUTHENTICATED);
  assert.equal((await call('sql', bearer(key.token))).error, null);
  assert.equal((await call('other', bearer(key.token))).error?.code, status.PERMISSION_DENIED);
  assert.deepEqual(
    app.engine.calls.map(({ request }) => request.adapter),
    ['sql'],
  );
  const admin = app.client(PROTOS.adapterAdmin, app.adminAddress);
  await assert.rejects(unary(admin, 'listAdapters', {}, bearer(key.token)), { code: status.PERMISSION_DENIED });
});

test('the trailers name the version of the adapter; the base has none', async (t) => {
  const app = await startGrpcApp(t);
  const client = app.client(PROTOS.generation, app.address);
  for (const [model, digests] of [
    ['sql', ['d'.repeat(64)]],
    ['', []],
  ] as const) {
    const stream = open(client, { model, prompt: 'hi', stopping: { maxTokens: 2 } });
    const ended = once(stream, 'status');
    assert.equal((await read(stream)).error, null);
    const [{ metadata }] = (await ended) as [{ metadata: Metadata }];
    assert.deepEqual(metadata.get('x-loramux-adapter-digest'), digests);
  }
});
