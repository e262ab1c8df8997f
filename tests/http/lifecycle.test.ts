import assert from 'node:assert/strict';
import { test } from 'node:test';
import { startApp } from '../helpers/http-app.js';
import { IDLE } from '../helpers/scripted-engine.js';

const statuses = async (
  app: { inject(options: { url: string }): Promise<{ statusCode: number }> },
  urls: readonly string[],
): Promise<number[]> => Promise.all(urls.map(async (url) => (await app.inject({ url })).statusCode));

const PROBES = ['/livez', '/readyz', '/startupz', '/health'];

test('all probes are content while the server serves, on both ports', async (t) => {
  const { app, admin } = startApp(t);
  assert.deepEqual(await statuses(app, PROBES), [200, 200, 200, 200]);
  assert.deepEqual(await statuses(admin, PROBES), [200, 200, 200, 200]);
  const health = await app.inject({ url: '/health' });
  assert.equal(health.body, '');
  assert.deepEqual((await app.inject({ url: '/version' })).json(), { version: '0.0.0' });
});

test('a drain refuses new work, finishes what runs, and stays alive', async (t) => {
  const { app, admin, engine, lifecycle, metrics } = startApp(t);
  engine.onSubmit = null;
  const running = app.inject({ method: 'POST', url: '/generate', payload: { inputs: 'hi' } }).then((reply) => reply);
  const call = await engine.call(0);
  let drained = 0;
  lifecycle.onDrain(() => {
    drained += 1;
  });
  const reply = await admin.inject({ method: 'POST', url: '/drain' });
  assert.equal(reply.statusCode, 202);
  await admin.inject({ method: 'POST', url: '/drain' });
  assert.equal(drained, 1);
  for (const url of ['/generate', '/generate_stream']) {
    const refused = await app.inject({ method: 'POST', url, payload: { inputs: 'hi' } });
    assert.equal(refused.statusCode, 503);
    assert.equal(refused.headers.connection, 'close');
    assert.equal(refused.headers['retry-after'], '1');
    assert.equal(refused.json().error_type, 'overloaded');
  }
  assert.deepEqual(await statuses(app, PROBES), [200, 503, 200, 503]);
  assert.match((await app.inject({ url: '/metrics' })).body, /^loramux_draining 1$/m);
  call.answer('done');
  assert.equal((await running).json().generated_text, 'done');
  assert.match(await metrics.render(), /loramux_rejections_total\{reason="draining"\} 2/);
  const load = { name: 'a', source: 'dir:/x' };
  assert.equal((await admin.inject({ method: 'POST', url: '/adapters', payload: load })).statusCode, 503);
});

test('a dead or hanging engine flips the probes', async (t) => {
  const { app, engine } = startApp(t);
  engine.current = { ...IDLE, running: 1, lastStepAgeMs: 59_000 };
  assert.deepEqual(await statuses(app, PROBES), [200, 200, 200, 200]);
  engine.current = { ...IDLE, running: 1, lastStepAgeMs: 61_000 };
  assert.deepEqual(await statuses(app, PROBES), [503, 503, 200, 503]);
  engine.current = { ...IDLE, running: 0, lastStepAgeMs: 61_000 };
  assert.deepEqual(await statuses(app, PROBES), [200, 200, 200, 200]);
  engine.fatal = new Error('gone');
  assert.deepEqual(await statuses(app, PROBES), [503, 503, 200, 503]);
  const verbose = await app.inject({ url: '/readyz?verbose' });
  assert.deepEqual(verbose.json(), {
    ready: false,
    checks: { started: true, not_draining: true, engine: false, queue: true },
  });
});

test('a queue that stays full for five seconds makes the server unready, a spike does not', async (t) => {
  let atMs = 0;
  const { app, engine } = startApp(t, { now: () => atMs });
  engine.current = { ...IDLE, waiting: 8 };
  assert.deepEqual(await statuses(app, ['/readyz']), [200]);
  atMs = 4_900;
  assert.deepEqual(await statuses(app, ['/readyz', '/livez']), [200, 200]);
  atMs = 5_000;
  assert.deepEqual(await statuses(app, ['/readyz', '/livez']), [503, 200]);
  engine.current = IDLE;
  assert.deepEqual(await statuses(app, ['/readyz']), [200]);
  engine.current = { ...IDLE, waiting: 8 };
  assert.deepEqual(await statuses(app, ['/readyz']), [200]);
});

test('info has the fields of LoRAX in their order', async (t) => {
  const { app } = startApp(t);
  const info = (await app.inject({ url: '/info' })).json();
  assert.deepEqual(Object.keys(info).slice(0, 11), [
    'model_id',
    'model_sha',
    'model_dtype',
    'model_device_type',
    'model_pipeline_tag',
    'max_concurrent_requests',
    'max_best_of',
    'max_stop_sequences',
    'max_input_length',
    'max_total_tokens',
    'waiting_served_ratio',
  ]);
  assert.equal(info.max_input_length, 63);
  assert.equal(info.max_batch_total_tokens, 256);
});
