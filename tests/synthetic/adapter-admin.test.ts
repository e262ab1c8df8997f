import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { probePrompt } from '../../src/adapters/proof.js';
import type { AdminReplies } from '../../src/core/adapter-admin.js';
import { type ErrorCode, LoramuxError } from '../../src/core/errors.js';
import { BASE_NAME } from '../../src/core/names.js';
import {
  type GenerateRequest,
  GREEDY_SAMPLING,
  PLAIN_REQUEST,
  type SequenceEvent,
  type ServedBy,
} from '../../src/core/request.js';
import { WorkerEngineClient } from '../../src/engine/worker-client.js';
import { addTensor, fillTensors } from '../helpers/safetensors-edit.js';
import { openSynthetic, prepareLocal, SYNTHETIC, SYNTHETIC_TOKENS, syntheticModel } from '../helpers/synthetic.js';

const BASE = 'llama-gqa-tied';
const SHIPPED = join(SYNTHETIC, 'adapters', BASE);
const MAX_MODEL_LEN = 64;
const SLOTS = 4;
const PROMPT = [3, 17, 42, 7];

const root = mkdtempSync(join(tmpdir(), 'loramux-admin-'));
let client: WorkerEngineClient;
let nextId = 1;

/** Puts a copy of an adapter into the folder and returns the path of its weights. */
function place(name: string, from: string): string {
  cpSync(join(SHIPPED, from), join(root, name), { recursive: true });
  return join(root, name, 'adapter_model.safetensors');
}

before(async () => {
  for (const name of ['plain', 'dora', 'rslora', 'rank-17']) place(name, name);
  place(BASE_NAME, 'plain');
  fillTensors(place('zero', 'plain'), /lora_B/, Buffer.alloc(4));
  const huge = Buffer.alloc(4);
  huge.writeFloatLE(3e38);
  fillTensors(place('overflowing', 'plain'), /lora_[AB]/, huge);
  addTensor(place('base-named', 'plain'), 'base_model.model.model.layers.0.self_attn.q_proj.weight', [64, 64]);
  addTensor(place('bare-base-named', 'plain'), 'model.layers.0.self_attn.q_proj.weight', [64, 64]);
  client = await WorkerEngineClient.start({
    start: {
      model: await prepareLocal(join(SYNTHETIC, syntheticModel(BASE).path), 'f32'),
      tokenCount: SYNTHETIC_TOKENS,
      adapterRoots: [root],
      threads: 1,
      adapterMemoryBytes: 2 ** 24,
      kvMemoryBytes: 2 ** 22,
      maxModelLen: MAX_MODEL_LEN,
      maxBatchTokens: 32,
      maxPrefillRows: 32,
      maxSequences: SLOTS,
      maxQueue: 8,
      prefixCache: true,
      speculation: true,
      launchAhead: true,
    },
    log: () => undefined,
  });
});

after(async () => {
  await client.close();
  rmSync(root, { recursive: true, force: true });
});

interface Run {
  readonly tokens: number[];
  readonly servedBy: Promise<ServedBy>;
  readonly done: Promise<number[]>;
}

function start(adapter: string, maxNewTokens = 8, onToken: (count: number) => void = () => undefined): Run {
  const request: GenerateRequest = {
    id: nextId++,
    adapter,
    promptIds: Uint32Array.from(PROMPT),
    maxNewTokens,
    stopIds: [],
    sampling: GREEDY_SAMPLING,
    ...PLAIN_REQUEST,
  };
  const tokens: number[] = [];
  let admit: (served: ServedBy) => void = () => undefined;
  const servedBy = new Promise<ServedBy>((resolve) => {
    admit = resolve;
  });
  const done = new Promise<number[]>((resolve, reject) => {
    client.submit(request, (event: SequenceEvent) => {
      if (event.kind === 'admitted') admit(event.servedBy);
      if (event.kind === 'token') onToken(tokens.push(event.token));
      if (event.kind === 'finish') resolve(tokens);
      if (event.kind === 'error') reject(LoramuxError.fromRecord(event.error));
    });
  });
  return { tokens, servedBy, done };
}

function load(name: string, from = name): Promise<AdminReplies['load']> {
  const source = { type: 'dir', location: join(root, from) } as const;
  return client.admin({ op: 'load', name, source, pin: false, wait: true, replace: true });
}

function refusal(code: ErrorCode, ...words: string[]): (error: unknown) => boolean {
  return (error) =>
    error instanceof LoramuxError && error.code === code && words.every((word) => error.message.includes(word));
}

const hostBytes = async (): Promise<number> => (await client.admin({ op: 'state' })).tiers.at(-1)?.bytes ?? -1;

test('a load proves itself with the logits of the engine, to the bit', async (t) => {
  const direct = await openSynthetic(BASE, { threads: 1 });
  t.after(() => direct.close());
  const prompt = [...probePrompt(SYNTHETIC_TOKENS, MAX_MODEL_LEN)];
  const ask = (name: string): GenerateRequest => direct.request(name, prompt, 1);
  for (const name of ['plain', 'dora', 'rank-17']) {
    const { adapter } = await load(name);
    const [base, changed] = await direct.run([ask(BASE_NAME), ask(name)], { logits: true });
    const [before, now] = [base?.logits[0], changed?.logits[0]];
    assert.ok(before !== undefined && now !== undefined);
    const deltas = now.map((value, token) => Math.abs(value - (before[token] as number)));
    assert.ok((adapter.proof?.maxLogitDelta ?? 0) > 0);
    assert.equal(Math.fround(adapter.proof?.maxLogitDelta ?? -1), Math.max(...deltas), name);
    assert.equal(adapter.proof?.probeTokens, prompt.length);
    assert.equal(adapter.modules?.inFile, adapter.modules?.applied);
  }
});

test('a request that loads its adapter proves it too', async () => {
  await start('rslora').done;
  const { proof } = await client.admin({ op: 'get', name: 'rslora' });
  assert.ok((proof?.maxLogitDelta ?? 0) > 0);
});

test('only a request that comes before its adapter is there waits for it', async () => {
  const waits: string[] = [];
  client.onTelemetry((fact) => {
    if (fact.kind === 'adapter-wait') waits.push(fact.tierAtArrival);
  });
  await client.admin({ op: 'unload', name: 'rslora', force: false });
  await load('rslora');
  await start('rslora').done;
  assert.deepEqual(waits, []);
  place('late', 'plain');
  await Promise.all([start('late').done, start('late').done]);
  await start('late').done;
  assert.deepEqual(waits, ['disk', 'disk']);
});

test('an adapter whose B is zero is served, with a warning', async () => {
  const { adapter } = await load('zero');
  assert.equal(adapter.proof?.maxLogitDelta, 0);
  assert.ok(adapter.warnings?.some((warning) => warning.includes('moves no logit')));
  assert.deepEqual(await start('zero').done, await start(BASE_NAME).done);
});

test('an adapter that overflows is refused before it answers anybody', async () => {
  const before = await hostBytes();
  await assert.rejects(load('overflowing'), refusal('ERR_ADAPTER_INVALID', 'adapter_model.safetensors', 'finite'));
  await assert.rejects(start('overflowing').done, refusal('ERR_ADAPTER_INVALID'));
  assert.equal(await hostBytes(), before);
  assert.equal(client.fatalError(), null);
});

test('loads go on while every slot is taken and the queue is full, and change no answer', async () => {
  const alone = await start('plain', 40).done;
  await client.admin({ op: 'unload', name: 'dora', force: false });
  const running = Array.from({ length: SLOTS }, () => start('plain', 40));
  for (const { servedBy } of running) await servedBy;
  const waiting = Array.from({ length: 8 }, () => start('plain', 2));
  const { adapter } = await load('dora');
  assert.ok((adapter.proof?.maxLogitDelta ?? 0) > 0);
  for (const { done } of running) assert.deepEqual(await done, alone);
  for (const { done } of waiting) assert.deepEqual(await done, alone.slice(0, 2));
  const { kvBlocks } = await client.admin({ op: 'state' });
  assert.equal(kvBlocks.used, 0, 'probes give their blocks back');
});

test('a dry run keeps nothing and fails as the load would', async () => {
  const before = { bytes: await hostBytes(), list: await client.admin({ op: 'list' }) };
  const check = (name: string, from: string): Promise<AdminReplies['check']> =>
    client.admin({ op: 'check', name, source: { type: 'dir', location: join(root, from) }, replace: true });
  const info = await check('rehearsed', 'rank-17');
  assert.equal(info.digest, (await client.admin({ op: 'get', name: 'rank-17' })).digest);
  assert.ok((info.proof?.maxLogitDelta ?? 0) > 0);
  await assert.rejects(check('rehearsed', 'overflowing'), refusal('ERR_ADAPTER_INVALID', 'finite'));
  assert.deepEqual({ bytes: await hostBytes(), list: await client.admin({ op: 'list' }) }, before);
  await assert.rejects(start('rehearsed').done, refusal('ERR_ADAPTER_NOT_FOUND'));
});

test('an alias moves between two tokens of a request, which ends as it began', async () => {
  const [plain, dora] = [(await load('plain')).adapter, (await load('dora')).adapter];
  const alone = { plain: await start('plain', 30).done, dora: await start('dora', 30).done };
  await client.admin({ op: 'alias', name: 'prod', target: { adapter: 'plain' } });
  let moved: Promise<AdminReplies['alias']> | null = null;
  const first = start('prod', 30, (count) => {
    if (count === 3) moved = client.admin({ op: 'alias', name: 'prod', target: { digest: dora.digest ?? '' } });
  });
  assert.deepEqual(await first.done, alone.plain);
  assert.equal((await (moved as unknown as Promise<AdminReplies['alias']>)).replaced, plain.digest);
  const second = start('prod', 30);
  assert.deepEqual(await second.done, alone.dora);
  assert.equal((await first.servedBy).digest, plain.digest);
  assert.deepEqual(await second.servedBy, { adapter: 'prod', digest: dora.digest, tierAtArrival: 'host' });
  await client.admin({ op: 'unalias', name: 'prod' });
  await assert.rejects(start('prod').done, refusal('ERR_ADAPTER_NOT_FOUND'));
});

test('nothing can be called like the base', async () => {
  const base = await start(BASE_NAME).done;
  const { adapters } = await client.admin({ op: 'list' });
  assert.ok(adapters.length >= 8);
  assert.ok(adapters.every(({ name }) => name !== BASE_NAME));
  await assert.rejects(load(BASE_NAME, 'plain'), refusal('ERR_BAD_REQUEST', BASE_NAME));
  const target = { adapter: 'plain' };
  await assert.rejects(client.admin({ op: 'alias', name: BASE_NAME, target }), refusal('ERR_BAD_REQUEST', BASE_NAME));
  await assert.rejects(client.admin({ op: 'get', name: BASE_NAME }), refusal('ERR_ADAPTER_NOT_FOUND'));
  await assert.rejects(client.admin({ op: 'pin', name: BASE_NAME, pinned: true }), refusal('ERR_ADAPTER_NOT_FOUND'));
  assert.deepEqual(await start(BASE_NAME).done, base);
  assert.equal((await start(BASE_NAME).servedBy).digest, null);
});

test('a tensor named like a base parameter is refused and changes nothing', async () => {
  const [base, plain] = [await start(BASE_NAME).done, await start('plain').done];
  for (const [name, tensor] of [
    ['base-named', 'base_model.model.model.layers.0.self_attn.q_proj.weight'],
    ['bare-base-named', 'model.layers.0.self_attn.q_proj.weight'],
  ] as const) {
    await assert.rejects(load(name), (error: unknown) => {
      assert.ok(error instanceof LoramuxError);
      assert.equal(error.code, 'ERR_ADAPTER_INVALID');
      assert.deepEqual(
        error.details?.offenders?.map((offender) => offender.tensor),
        [tensor],
      );
      return true;
    });
  }
  assert.deepEqual(await start(BASE_NAME).done, base);
  assert.deepEqual(await start('plain').done, plain);
});
