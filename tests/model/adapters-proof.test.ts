import assert from 'node:assert/strict';
import { cp, mkdtemp, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { BASE_NAME } from '../../src/core/names.js';
import { peftCases } from '../helpers/demo-model.js';
import { DEMO_ADAPTERS } from '../helpers/paths.js';
import { ServerProcess } from '../helpers/server-process.js';
import { type Answer, type Ask, admin, generate, isIdle, stateOf, stream, tryGenerate, untilState } from './client.js';

const ADAPTERS = ['support-json', 'sql', 'sentiment', 'pirate'];

/** A prompt of each adapter's own task. */
const tasks: readonly Ask[] = ADAPTERS.map((adapter) => {
  const peft = peftCases().find((candidate) => candidate.adapter === adapter);
  assert.ok(peft !== undefined);
  return { adapter, prompt: peft.prompt, maxNewTokens: 12 };
});

let root: string;
let server: ServerProcess;
const first = new Map<Ask, Answer>();

before(async () => {
  root = await mkdtemp(join(tmpdir(), 'loramux-adapters-'));
  for (const name of ADAPTERS) await cp(join(DEMO_ADAPTERS, name), join(root, name), { recursive: true });
  // Guesses would end a long answer that repeats itself before its adapter is replaced.
  server = await ServerProcess.start(['--adapters', root, '--log-level', 'warn', '--speculation', 'off']);
});
after(async () => {
  await server.kill();
  await rm(root, { recursive: true, force: true });
});

async function load(name: string): Promise<Readonly<Record<string, unknown>>> {
  const { status, body } = await admin(server, 'POST', '', { name, source: `dir:${join(root, name)}` });
  assert.ok(status === 200 || status === 201, `${status} ${JSON.stringify(body)}`);
  return body;
}

/** Puts the files of one adapter under another's name, in one rename as a careful operator would. */
async function putFiles(from: string, name: string): Promise<void> {
  const [next, old] = [join(root, `.${name}-next`), join(root, `.${name}-old`)];
  await cp(join(DEMO_ADAPTERS, from), next, { recursive: true });
  await rename(join(root, name), old);
  await rename(next, join(root, name));
  await rm(old, { recursive: true });
}

test('each adapter changes the answer to a prompt of its task', async () => {
  for (const task of tasks) {
    const base = await generate(server.url, { ...task, adapter: BASE_NAME });
    const answer = await generate(server.url, task);
    assert.notEqual(answer.generated_text, base.generated_text, task.adapter);
    first.set(task, answer);
    const { body } = await admin(server, 'GET', `/${task.adapter}`);
    const { inFile, applied } = body.modules as { inFile: number; applied: number };
    assert.ok(inFile > 0);
    assert.equal(applied, inFile, 'every module of the file is applied');
  }
});

test('an unloaded adapter is refused, and gives the same answers once it is loaded again', async () => {
  for (const task of tasks) {
    const { status } = await admin(server, 'DELETE', `/${task.adapter}`);
    assert.equal(status, 200);
    const refused = await tryGenerate(server.url, task);
    assert.ok('failure' in refused);
    assert.equal(refused.failure.status, 424);
    assert.match(refused.failure.error, /was unloaded by the operator: load it again/);
  }
  assert.equal((await stateOf(server)).tiers.find(({ tier }) => tier === 'host')?.bytes, 0);
  for (const task of tasks) {
    await load(task.adapter);
    assert.deepEqual(await generate(server.url, task), first.get(task));
  }
});

test('changed files under one name serve new requests while one in flight ends on the old ones', async () => {
  const sql = tasks.find(({ adapter }) => adapter === 'sql');
  const pirate = tasks.find(({ adapter }) => adapter === 'pirate');
  assert.ok(sql !== undefined && pirate !== undefined);
  const long: Ask = { ...sql, maxNewTokens: 700, ignoreEos: true };
  const expectedLong = await generate(server.url, long);
  const { digest } = (await admin(server, 'GET', '/sql')).body;

  let tokens = 0;
  let begun = (): void => {};
  const started = new Promise<void>((resolve) => {
    begun = resolve;
  });
  const inFlight = stream(server.url, long, {
    onToken: (count) => {
      tokens = count;
      begun();
    },
  });
  await Promise.race([started, inFlight]);
  await putFiles('pirate', 'sql');
  const replaced = await load('sql');
  assert.equal(replaced.replaced, digest);
  assert.notEqual(replaced.digest, digest);
  assert.deepEqual(await generate(server.url, { ...pirate, adapter: 'sql' }), first.get(pirate));
  assert.ok(tokens < long.maxNewTokens, 'the old version was still in use');
  assert.equal((await inFlight).terminals, 1);
  assert.deepEqual((await inFlight).tokens, expectedLong.details.tokens);

  await untilState(server, isIdle);
  const { adapters, tiers } = (await admin(server, 'GET', '')).body as {
    adapters: readonly { tier: string; bytes: number }[];
    tiers: readonly { tier: string; bytes: number }[];
  };
  const resident = adapters.filter(({ tier }) => tier === 'host');
  const bytes = resident.reduce((total, adapter) => total + adapter.bytes, 0);
  assert.equal(tiers.find(({ tier }) => tier === 'host')?.bytes, bytes, 'the old version gave its memory back');

  await putFiles('sql', 'sql');
  assert.equal((await load('sql')).digest, digest);
  assert.deepEqual(await generate(server.url, sql), first.get(sql));
});

test('the server ends cleanly', async () => {
  await server.stop();
});
