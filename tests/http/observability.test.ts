import assert from 'node:assert/strict';
import { test } from 'node:test';
import { eventually, startApp } from '../helpers/http-app.js';

test('one line ends each request, and holds no text of users', async (t) => {
  const { app, engine, lines } = startApp(t);
  engine.onSubmit = (call) => call.answer('OUTPUT-SECRET');
  const payload = { inputs: 'PROMPT-SECRET', parameters: { adapter_id: 'sql', stop: ['STOP-SECRET'] } };
  for (const url of ['/generate?key=QUERY-SECRET', '/generate_stream?key=QUERY-SECRET']) {
    const headers = { authorization: 'Bearer KEY-SECRET', 'x-request-id': 'abc', 'user-agent': 'tester' };
    const reply = await app.inject({ method: 'POST', url, payload, headers });
    assert.equal(reply.statusCode, 200);
    assert.equal(reply.headers['x-request-id'], 'abc');
  }
  await app.inject({ method: 'POST', url: '/generate', payload: { inputs: 'PROMPT-SECRET', best_of: 'X-SECRET' } });
  await app.inject({
    method: 'POST',
    url: '/generate',
    payload: '{"PROMPT-SECRET',
    headers: { 'content-type': 'application/json' },
  });
  await app.inject({ url: '/PATH-SECRET?a=QUERY-SECRET' });
  await eventually(() => lines.length >= 5, 'five lines');
  assert.doesNotMatch(lines.join(''), /SECRET/);
  const ends = lines.map((line) => JSON.parse(line)).filter(({ event }) => event === 'request.end');
  assert.equal(ends.length, 5);
  const [plain, stream, refused, malformed, lost] = ends;
  const { adapter, adapter_digest, adapter_tier, route, status, transport, req_id, finish_reason, user_agent } = plain;
  assert.deepEqual(
    { adapter, adapter_digest, adapter_tier, route, status, transport, req_id, finish_reason, user_agent },
    {
      adapter: 'sql',
      adapter_digest: 'd'.repeat(64),
      adapter_tier: 'host',
      route: '/generate',
      status: 200,
      transport: 'http',
      req_id: 'abc',
      finish_reason: 'eos_token',
      user_agent: 'tester',
    },
  );
  assert.equal(plain.prompt_tokens, 14);
  assert.equal(plain.completion_tokens, 14);
  assert.equal(typeof plain.total_ms, 'number');
  assert.equal(stream.stream, true);
  assert.equal(stream.route, '/generate_stream');
  assert.equal(refused.code, 'ERR_VALIDATION');
  assert.equal(malformed.status, 400);
  assert.equal(lost.route, 'unknown');
});

test('a request id that could forge anything is replaced', async (t) => {
  const { app } = startApp(t);
  const reply = await app.inject({ url: '/livez', headers: { 'x-request-id': 'a b"c' } });
  assert.match(String(reply.headers['x-request-id']), /^[0-9a-f]{8}-1$/);
});

test('the metrics count what happened, in text and in the JSON form', async (t) => {
  const { app, engine } = startApp(t);
  const post = (parameters: object) =>
    app.inject({ method: 'POST', url: '/generate', payload: { inputs: 'hi', parameters } });
  await post({ adapter_id: 'sql' });
  await post({});
  await post({ top_k: 0 });
  engine.onSubmit = (call) => call.fail('ERR_QUEUE_FULL', 'full');
  await post({});
  const reply = await app.inject({ url: '/metrics' });
  assert.match(String(reply.headers['content-type']), /^text\/plain; version=0\.0\.4/);
  const expected = [
    'loramux_requests_total{route="/generate",code="200"} 2',
    'loramux_requests_total{route="/generate",code="422"} 1',
    'loramux_requests_total{route="/generate",code="429"} 1',
    'loramux_rejections_total{reason="queue_full"} 1',
    'loramux_adapter_requests_total{adapter="sql",outcome="ok"} 1',
    'loramux_adapter_requests_total{adapter="__base__",outcome="ok"} 1',
    'loramux_tokens_total{kind="prompt"} 6',
    'loramux_tokens_total{kind="generated"} 6',
    'loramux_time_to_first_token_seconds_count{route="/generate",start="warm"} 2',
    'loramux_ready 1',
    'loramux_kv_blocks{state="free"} 7',
    'lorax_batch_current_max_tokens 64',
    'loramux_adapter_bytes_limit{tier="host"} 1000',
    'lorax_request_count 4',
    'lorax_request_success 2',
    'lorax_request_failure{err="validation"} 1',
    'lorax_request_failure{err="overloaded"} 1',
    'lorax_request_duration_count 2',
  ];
  for (const line of expected) assert.ok(reply.body.includes(`${line}\n`), `${line}\nin\n${reply.body}`);
  const json = (await app.inject({ url: '/metrics', headers: { accept: 'application/json' } })).json();
  assert.deepEqual(json.lorax_request_count, { type: 'counter', data: [{ key: 'count', value: 4 }] });
  assert.equal(json.loramux_ready.data[0].key, '');
});

test('the line tells cached tokens, and which try of which request it was', async (t) => {
  const { app, engine, lines } = startApp(t);
  engine.onSubmit = (call) => call.admit({}, 2).tokens('ok').finish('length');
  const ask = (headers: Record<string, string>): Promise<unknown> =>
    app.inject({
      method: 'POST',
      url: '/v1/completions',
      payload: { model: 'sql', prompt: 'hi', max_tokens: 2 },
      headers,
    });
  await ask({ 'x-client-request-id': 'job-7', 'x-stainless-retry-count': '1' });
  await ask({ 'x-client-request-id': 'a secret', 'x-stainless-retry-count': 'many' });
  await eventually(() => lines.filter((line) => line.includes('request.end')).length === 2, 'two lines');
  const [told, silent] = lines.map((line) => JSON.parse(line)).filter(({ event }) => event === 'request.end');
  assert.deepEqual([told.cached_tokens, told.client_request_id, told.retry_count], [2, 'job-7', '1']);
  assert.deepEqual([silent.client_request_id, silent.retry_count], [undefined, undefined]);
});
