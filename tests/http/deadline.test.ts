import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { eventually, startApp, type TestApp } from '../helpers/http-app.js';
import { ScriptedEngine } from '../helpers/scripted-engine.js';

/** Requests that begin and are never done; `tokens` come at once. */
function start(t: TestContext, tokens: string): TestApp {
  const engine = new ScriptedEngine();
  engine.onSubmit = (call) => {
    if (tokens !== '') call.admit().tokens(tokens);
  };
  return startApp(t, { engine });
}

const ROUTES: readonly (readonly [string, object])[] = [
  ['/generate', { inputs: 'hi' }],
  ['/v1/completions', { model: 'sql', prompt: ['hi', 'ho'], n: 2, temperature: 1 }],
];

for (const [url, payload] of ROUTES) {
  test(`POST ${url} ends with 504 when its deadline passes, waiting or generating`, async (t) => {
    for (const tokens of ['', 'ok']) {
      const { app, engine, metrics, lines } = start(t, tokens);
      const headers = { 'x-loramux-deadline-ms': '30' };
      const reply = await app.inject({ method: 'POST', url, payload, headers });
      assert.equal(reply.statusCode, 504, reply.body);
      assert.ok(engine.calls.length >= 1 && engine.calls.every(({ aborted }) => aborted));
      if (url === '/generate') assert.equal(reply.json().error_type, 'timeout');
      else {
        const { type, code, param } = reply.json().error;
        assert.deepEqual([type, code, param], ['server_error', 'deadline_exceeded', null]);
        assert.equal(reply.headers['x-should-retry'], 'false');
      }
      assert.match(reply.body, /deadline of 30 ms passed/);
      await eventually(() => lines.some((line) => line.includes('"code":"ERR_DEADLINE"')), 'a line with the code');
      const refused = (await metrics.render()).includes('loramux_rejections_total{reason="deadline"}');
      assert.equal(refused, tokens === '', 'only what never ran was refused');
    }
  });
}

test('a stream that has begun ends with an error event', async (t) => {
  const { app } = start(t, 'ok');
  const headers = { 'x-loramux-deadline-ms': '50' };
  const payload = { model: 'sql', prompt: 'hi', stream: true };
  const reply = await app.inject({ method: 'POST', url: '/v1/completions', payload, headers });
  assert.equal(reply.statusCode, 200);
  const events = reply.body.trimEnd().split('\n\n');
  assert.equal(events.at(-1), 'data: [DONE]');
  assert.match(events.at(-2) ?? '', /"code":"deadline_exceeded"/);
});

test('an answer in time does not care; a deadline that is none is refused by name', async (t) => {
  const { app, engine } = startApp(t);
  const ask = (deadline: string, url: string, payload: object) =>
    app.inject({ method: 'POST', url, payload, headers: { 'x-loramux-deadline-ms': deadline } });
  const [generate, body] = ['/generate', { inputs: 'hi' }] as const;
  for (const deadline of ['60000', '86400000']) assert.equal((await ask(deadline, generate, body)).statusCode, 200);
  const calls = engine.calls.length;
  for (const deadline of ['0', '-1', '1.5', 'soon', '86400001', '999999999999']) {
    const reply = await ask(deadline, generate, body);
    assert.equal(reply.statusCode, 422, deadline);
    assert.match(reply.json().error, /x-loramux-deadline-ms must be a whole number from 1 to 86400000/);
    const openai = await ask(deadline, '/v1/completions', { model: 'sql', prompt: 'hi' });
    const { code, param } = openai.json().error;
    assert.deepEqual([openai.statusCode, code, param], [400, 'invalid_value', 'x-loramux-deadline-ms']);
  }
  assert.equal(engine.calls.length, calls);
});
