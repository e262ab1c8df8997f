import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ErrorCode } from '../../../src/core/errors.js';
import { startApp } from '../../helpers/http-app.js';
import { assertError, complete, eventsOf, post } from './support.js';

test('below /v1 the framework speaks OpenAI, elsewhere LoRAX', async (t) => {
  const { app } = startApp(t);
  assertError(await post(app, '/v1/nothing', {}), 404, 'unknown_url', null);
  assertError(await post(app, '/v1/nothing', 'x', { 'content-type': 'text/plain' }), 404, 'unknown_url', null);
  assertError(await post(app, '/v1/embeddings?x=1', { input: 'a' }), 404, 'unsupported_endpoint', null);
  assertError(await app.inject({ url: '/v1/%zz' }), 400, 'invalid_request', null);
  const wrongMethod = await app.inject({ url: '/v1/completions' });
  assertError(wrongMethod, 405, 'method_not_allowed', null);
  assert.equal(wrongMethod.headers.allow, 'POST');
  const text = await post(app, '/v1/completions', 'x', { 'content-type': 'text/plain' });
  assertError(text, 415, 'unsupported_media_type', null);
  assertError(await post(app, '/v1/completions', '{'), 400, 'invalid_json', null);
  assertError(await app.inject({ method: 'POST', url: '/v1/completions' }), 400, 'invalid_json', null);
  assertError(await post(app, '/v1/completions', '[]'), 400, 'invalid_type', 'body');
  const large = JSON.stringify({ prompt: 'x'.repeat(2 ** 21) });
  assertError(await post(app, '/v1/completions', large), 413, 'request_too_large', null);
  assert.equal((await post(app, '/nothing', {})).json().error_type, 'validation');
  assert.equal((await app.inject({ url: '/%zz' })).json().error_type, 'validation');
});

/** What the engine reports, and what the client reads. */
const FAILURES: readonly (readonly [ErrorCode, number, string, string | null, string | undefined])[] = [
  ['ERR_ADAPTER_NOT_FOUND', 404, 'model_not_found', 'model', undefined],
  ['ERR_ADAPTER_UNLOADED', 404, 'model_not_found', 'model', undefined],
  ['ERR_ADAPTER_INVALID', 400, 'adapter_invalid', 'model', undefined],
  ['ERR_ADAPTER_TOO_LARGE', 400, 'adapter_invalid', 'model', undefined],
  ['ERR_ADAPTER_SOURCE', 503, 'adapter_unavailable', null, undefined],
  ['ERR_ADAPTER_NO_SPACE', 503, 'adapter_unavailable', null, undefined],
  ['ERR_QUEUE_FULL', 429, 'queue_full', null, undefined],
  ['ERR_STEP_FAILED', 500, 'engine_failed', null, undefined],
  ['ERR_ENGINE_FATAL', 500, 'engine_failed', null, 'false'],
];

test('failures of the engine get their status before the first token, streaming or not', async (t) => {
  const { app, engine } = startApp(t);
  for (const [code, status, shown, param, shouldRetry] of FAILURES) {
    engine.onSubmit = (call) => queueMicrotask(() => call.fail(code, 'said the engine'));
    for (const stream of [false, true]) {
      const reply = await complete(app, { model: 'some-adapter', stream });
      assert.equal(assertError(reply, status, shown, param), 'said the engine');
      assert.equal(reply.headers['x-should-retry'], shouldRetry, code);
      const retries = status === 429 || status >= 500;
      assert.equal(reply.headers['retry-after-ms'], retries && shouldRetry === undefined ? '1000' : undefined, code);
    }
  }
});

test('a failure after the first token is one error event, then the end', async (t) => {
  const { app, engine } = startApp(t);
  engine.onSubmit = (call) => call.admit().tokens('par').fail('ERR_STEP_FAILED', 'the step failed');
  const reply = await complete(app, { stream: true, n: 2, temperature: 1 });
  assert.equal(reply.statusCode, 500, 'what is queued is dropped by a failure');
  engine.onSubmit = (call) => {
    call.admit().tokens('par');
    setTimeout(() => call.fail('ERR_STEP_FAILED', 'the step failed'), 20);
  };
  const late = await complete(app, { stream: true, n: 2 });
  assert.equal(late.statusCode, 200);
  const { chunks, done } = eventsOf(late);
  assert.ok(done);
  assert.equal(chunks.filter(({ error }) => error !== undefined).length, 1);
  assert.equal(chunks.at(-1)?.error?.code, 'engine_failed');
});

test('a drain is answered in the same words', async (t) => {
  const { app, lifecycle } = startApp(t);
  lifecycle.beginDrain();
  const reply = await complete(app, {});
  assertError(reply, 503, 'draining', null);
  assert.equal(reply.headers['retry-after'], '1');
  assert.equal(reply.headers.connection, 'close');
  assert.equal((await app.inject({ url: '/v1/models/tiny' })).statusCode, 200);
});

test('a prompt that is too long says so in the words that agents look for', async (t) => {
  const { app } = startApp(t);
  const long = await complete(app, { prompt: 'x'.repeat(50) });
  assert.match(
    assertError(long, 400, 'context_length_exceeded', 'max_tokens'),
    /maximum context length is 64 tokens\. You asked for 51 in the prompt and 16 for the completion/,
  );
});
