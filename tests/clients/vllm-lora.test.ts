import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import OpenAI, { NotFoundError } from 'openai';
import { ROOT } from '../helpers/paths.js';
import { ServerProcess } from '../helpers/server-process.js';
import { SERVER_FLAGS } from './server.js';

const PATH = join(ROOT, 'examples', 'adapters', 'sentiment');
const PROMPT = '<|im_start|>user\nWhat a clumsy book!<|im_end|>\n<|im_start|>assistant\n';

test("a controller's round: wait for health, list, load, load again, use, unload", async (t) => {
  const server = await ServerProcess.start([...SERVER_FLAGS, '--vllm-lora-api', 'loopback']);
  t.after(() => server.kill());
  const post = async (path: string, body: object): Promise<readonly [number, string]> => {
    const headers = { 'content-type': 'application/json' };
    const reply = await fetch(`${server.url}${path}`, { method: 'POST', headers, body: JSON.stringify(body) });
    return [reply.status, await reply.text()];
  };
  assert.equal((await fetch(`${server.url}/health`)).status, 200);
  const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 });
  const ids = async (): Promise<string[]> => (await client.models.list()).data.map(({ id }) => id);
  assert.ok(!(await ids()).includes('mood'));
  const load = { lora_name: 'mood', lora_path: PATH, base_model_name: '' };
  for (let times = 0; times < 2; times += 1) {
    const reply = await post('/v1/load_lora_adapter', load);
    assert.deepEqual(reply, [200, "Success: LoRA adapter 'mood' added successfully."]);
    assert.ok((await ids()).includes('mood'));
  }
  const card = (await client.models.retrieve('mood')) as unknown as { root: string; parent: string };
  assert.deepEqual([card.root, card.parent], [PATH, (await ids())[0]]);
  const use = { model: 'mood', prompt: PROMPT, max_tokens: 8, temperature: 0 };
  assert.equal((await client.completions.create(use)).choices[0]?.text, 'negative');
  const elsewhere = { ...load, lora_path: join(PATH, '..', 'pirate') };
  const [status, body] = await post('/v1/load_lora_adapter', elsewhere);
  assert.equal(status, 400);
  assert.match(JSON.parse(body).message, /has already been loaded/);
  const missing = await post('/v1/load_lora_adapter', { lora_name: 'x', lora_path: join(PATH, '..', 'nothing') });
  assert.equal(missing[0], 404);
  const outside = await post('/v1/load_lora_adapter', { lora_name: 'x', lora_path: '/etc' });
  assert.equal(outside[0], 400);
  assert.equal((await post('/v1/unload_lora_adapter', { lora_name: 'mood' }))[0], 200);
  assert.ok(!(await ids()).includes('mood'));
  await assert.rejects(client.completions.create(use), NotFoundError);
  assert.equal((await post('/v1/unload_lora_adapter', { lora_name: 'mood' }))[0], 404);
});
