import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startApp } from '../helpers/http-app.js';
import { ScriptedEngine } from '../helpers/scripted-engine.js';

for (const url of ['/', '/invocations']) {
  test(`POST ${url} answers a list of one, or streams`, async (t) => {
    const { app, metrics } = startApp(t);
    const plain = await app.inject({ method: 'POST', url, payload: { inputs: 'hi' } });
    assert.equal(plain.body, '[{"generated_text":"ok"}]');
    assert.equal(plain.headers['x-generated-tokens'], '3');
    const told = await app.inject({ method: 'POST', url, payload: { inputs: 'hi', stream: false, parameters: {} } });
    assert.equal(told.body, plain.body);
    const stream = await app.inject({ method: 'POST', url, payload: { inputs: 'hi', stream: true } });
    assert.equal(stream.headers['content-type'], 'text/event-stream');
    const events = stream.body.trimEnd().split('\n\n');
    assert.equal(events.length, 3);
    assert.equal(JSON.parse(events[2]?.slice('data: '.length) ?? '').generated_text, 'ok');
    assert.deepEqual(
      metrics.requests.map(({ route, facts }) => [route, facts.stream]),
      [
        [url, false],
        [url, false],
        [url, true],
      ],
    );
  });
}

test('POST / takes no null for stream, and answers adapter_names in their order', async (t) => {
  const { app } = startApp(t);
  const refused = await app.inject({ method: 'POST', url: '/', payload: { inputs: 'hi', stream: null } });
  assert.equal(refused.statusCode, 422);
  assert.match(refused.json().error, /`stream` must be true or false, got null/);
  const payload = { inputs: ['a', 'b'], parameters: { adapter_names: ['x', 'y'] } };
  const reply = await app.inject({ method: 'POST', url: '/', payload });
  assert.deepEqual(reply.json(), [{ generated_text: 'ok' }, { generated_text: 'ok' }]);
});

for (const url of ['/', '/ping', '/health']) {
  test(`GET ${url} is 200 and empty while the server is ready`, async (t) => {
    const { app, lifecycle } = startApp(t);
    const well = await app.inject({ url });
    assert.deepEqual([well.statusCode, well.body], [200, '']);
    lifecycle.beginDrain();
    const draining = await app.inject({ url });
    assert.equal(draining.statusCode, 503);
    assert.deepEqual(draining.json(), { error: 'unhealthy', error_type: 'healthcheck' });
  });
}

test('GET /startup generates one token; its failures are a 500 with the reason', async (t) => {
  const engine = new ScriptedEngine();
  const { app } = startApp(t, { engine });
  engine.onSubmit = (call) => {
    call.admit().tokens('I').finish('length');
  };
  const well = await app.inject({ url: '/startup' });
  assert.deepEqual([well.statusCode, well.body], [200, '']);
  assert.equal(engine.calls[0]?.request.maxNewTokens, 1);
  engine.onSubmit = (call) => {
    call.fail('ERR_STEP_FAILED', 'no memory');
  };
  const failed = await app.inject({ url: '/startup' });
  assert.equal(failed.statusCode, 500);
  assert.deepEqual(failed.json(), {
    error: 'Request failed during generation: Server error: no memory',
    error_type: 'generation',
  });
});
