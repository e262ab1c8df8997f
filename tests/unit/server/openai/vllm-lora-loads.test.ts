import assert from 'node:assert/strict';
import { test } from 'node:test';
import Fastify from 'fastify';
import type { AdminReplies } from '../../../../src/core/adapter-admin.js';
import type { EngineClient } from '../../../../src/core/engine-client.js';
import { LoramuxError } from '../../../../src/core/errors.js';
import { registerVllmLora } from '../../../../src/server/openai/vllm-lora-routes.js';

test('a slow load is answered in time and goes on; the next call joins it', async (t) => {
  const app = Fastify();
  t.after(() => app.close());
  let loads = 0;
  let finish = (): void => undefined;
  const engine = {
    admin: async (call: { readonly op: string }): Promise<unknown> => {
      if (call.op === 'get') throw new LoramuxError('ERR_ADAPTER_NOT_FOUND', 'unknown');
      loads += 1;
      await new Promise<void>((resolve) => {
        finish = resolve;
      });
      return { outcome: 'created' } as AdminReplies['load'];
    },
  } as unknown as EngineClient;
  registerVllmLora(app, { engine, base: ['tiny'], vllmLoraApi: 'on', vllmUnloadMissing: 404, replyWithinMs: 30 });
  let arrivals = 0;
  app.addHook('preHandler', async () => {
    arrivals += 1;
    // The handler joins the load in flight before the next turn ends it.
    if (arrivals === 2) setImmediate(() => finish());
  });
  const load = (): Promise<{ statusCode: number; body: string; headers: Record<string, unknown> }> =>
    app.inject({ method: 'POST', url: '/load_lora_adapter', payload: { lora_name: 'a', lora_path: '/a' } });
  const late = await load();
  assert.equal(late.statusCode, 503);
  assert.equal(late.headers['retry-after'], '2');
  assert.match(late.body, /Service Unavailable: adapter 'a' is still loading/);
  const joined = load();
  assert.equal((await joined).statusCode, 200);
  assert.equal(loads, 1);
});

test('an unload answers while rows are still running', async (t) => {
  const app = Fastify();
  t.after(() => app.close());
  const engine = { admin: () => new Promise(() => undefined) } as unknown as EngineClient;
  registerVllmLora(app, { engine, base: ['tiny'], vllmLoraApi: 'on', vllmUnloadMissing: 404, replyWithinMs: 10 });
  const reply = await app.inject({ method: 'POST', url: '/unload_lora_adapter', payload: { lora_name: 'a' } });
  assert.equal(reply.statusCode, 200);
});
