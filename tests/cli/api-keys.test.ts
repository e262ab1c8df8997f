import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { runCommand } from '../helpers/command.js';
import { eventually } from '../helpers/http-app.js';
import { startServer } from '../helpers/local-server.js';
import { runToExit, ServerProcess } from '../helpers/server-process.js';
import { SYNTHETIC } from '../helpers/synthetic.js';

const BASE = 'llama-gqa-tied';
const MODEL = ['--model', join(SYNTHETIC, 'models', BASE), '--adapters', join(SYNTHETIC, 'adapters', BASE)];
const directory = mkdtempSync(join(tmpdir(), 'loramux-keys-'));
const file = join(directory, 'keys');
after(() => rmSync(directory, { recursive: true, force: true }));

const keys = { plain: '', admin: '' };

async function add(name: string, scope: string, ...more: string[]): Promise<string> {
  const { code, stdout, stderr } = await runCommand('key', 'add', name, '--scope', scope, '--api-keys', file, ...more);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^lmx_[\w-]{43}\n$/);
  return stdout.trim();
}

before(async () => {
  keys.plain = await add('plain', 'infer:plain,infer:prod');
  keys.admin = await add('admin', 'admin:*', '--expires', '90d');
});

test('key add prints the key and keeps its hash; key remove ends it', async () => {
  const token = await add('brief', 'metrics', '--expires', '2099-01-31');
  assert.match(readFileSync(file, 'utf8'), /^brief sha256:[0-9a-f]{64} metrics expires=2099-01-31T00:00:00Z$/m);
  assert.ok(!readFileSync(file, 'utf8').includes(token.slice(4)));
  const { code, stdout } = await runCommand('key', 'remove', 'brief', '--api-keys', file);
  assert.deepEqual([code, stdout], [0, '']);
  assert.doesNotMatch(readFileSync(file, 'utf8'), /brief/);
});

test('a key that cannot be made is one line and exit code 2', async () => {
  const to = ['--api-keys', file];
  const cases: readonly (readonly [readonly string[], RegExp])[] = [
    [['add', 'x', '--scope', 'metrics'], /key needs the file of API keys: --api-keys FILE/],
    [['add', 'x', ...to], /--scope accepts infer:PATTERN/],
    [['add', 'x', '--scope', 'infer:a,all', ...to], /--scope accepts .* got all/],
    [['add', 'a b', '--scope', 'metrics', ...to], /NAME accepts/],
    [['add', 'plain', '--scope', 'metrics', ...to], /a second key called plain/],
    [['add', 'x', '--scope', 'metrics', '--expires', '2001-01-01', ...to], /--expires accepts a time to come/],
    [['list', 'x', ...to], /key accepts add or remove, got "list"/],
    [['remove', 'x', '--scope', 'metrics', ...to], /key remove takes no --scope/],
    [['remove', 'nobody', ...to], /holds no key called nobody/],
    [['add', ...to], /key takes add\|remove NAME, got add/],
  ];
  for (const [args, message] of cases) {
    const { code, stdout, stderr } = await runCommand('key', ...args);
    assert.equal(code, 2, args.join(' '));
    assert.match(stderr, message);
    assert.match(stderr, /^ERR_CONFIG: .*\n$/);
    assert.equal(stdout, '');
  }
});

test('a server that other machines reach does not start without keys', async () => {
  for (const flags of [
    ['--host', '0.0.0.0'],
    ['--admin-host', '::'],
  ]) {
    const { code, stdout, stderr } = await runToExit([...MODEL, ...flags]);
    assert.equal(code, 1);
    assert.match(stderr, /^ERR_CONFIG: --\S+ \S+ can be reached from other machines, so API keys are required.*\n$/);
    assert.equal(stdout, '');
  }
});

interface Reply {
  readonly status: number;
  readonly text: string;
}

async function call(url: string, token: string, method = 'GET', body?: unknown): Promise<Reply> {
  const reply = await fetch(url, {
    method,
    headers: {
      authorization: `Bearer ${token}`,
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
    },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return { status: reply.status, text: await reply.text() };
}

test('a server with keys on all addresses', async (t) => {
  const hub = await startServer(t, (_request, response) => response.writeHead(404).end());
  const server = await ServerProcess.start([
    ...MODEL,
    ...[
      '--host',
      '0.0.0.0',
      '--api-keys',
      file,
      '--hub-endpoint',
      hub.url,
      '--adapter-private-hosts',
      `127.0.0.1:${hub.port}`,
    ],
  ]);
  t.after(() => server.kill());
  const url = server.url.replace('0.0.0.0', '127.0.0.1');
  const generate = (adapter_id: string, token = keys.plain): Promise<Reply> =>
    call(`${url}/generate`, token, 'POST', { inputs: 'hi', parameters: { adapter_id, max_new_tokens: 2 } });

  await t.test('keys open what their scopes say', async () => {
    assert.equal((await fetch(`${url}/readyz`)).status, 200);
    assert.equal((await fetch(`${url}/generate`, { method: 'POST' })).status, 401);
    assert.equal((await generate('plain')).status, 200);
    assert.equal((await generate('dora')).status, 403);
    assert.equal((await generate('')).status, 403);
    assert.equal((await generate('plain', keys.admin)).status, 403);
    assert.equal((await call(`${server.adminUrl}/state`, keys.admin)).status, 200);
    assert.equal((await call(`${server.adminUrl}/state`, keys.plain)).status, 403);
  });

  await t.test('an alias opens no adapter that its key may not use', async () => {
    const point = async (adapter: string): Promise<void> => {
      await call(`${server.adminUrl}/adapters`, keys.admin, 'POST', {
        name: adapter,
        source: `dir:${MODEL[3]}/${adapter}`,
      });
      const { status } = await call(`${server.adminUrl}/aliases/prod`, keys.admin, 'PUT', { adapter });
      assert.ok(status === 200 || status === 201);
    };
    await point('plain');
    assert.equal((await generate('prod')).status, 200);
    await point('dora');
    const refused = await generate('prod');
    assert.equal(refused.status, 403);
    assert.match(refused.text, /may use the name prod, but not the adapter/);
    assert.ok(!refused.text.includes('dora'));
  });

  await t.test('a key never travels to a hub', async () => {
    const load = { name: 'remote', source: 'hub:some/adapter' };
    assert.equal((await call(`${server.adminUrl}/adapters`, keys.admin, 'POST', load)).status, 404);
    assert.ok(hub.requests.length > 0);
    for (const request of hub.requests) {
      assert.equal(request.headers.authorization, undefined);
      assert.ok(!JSON.stringify(request).includes('lmx_'));
    }
  });

  await t.test('keys rotate under SIGHUP and by themselves', async () => {
    const next = await add('next', 'infer:plain');
    server.signal('SIGHUP');
    await eventually(() => server.log.some(({ event }) => event === 'keys.reload'), 'the keys are read');
    assert.equal((await generate('plain', next)).status, 200);
    assert.equal((await generate('plain')).status, 200);
    assert.equal((await runCommand('key', 'remove', 'plain', '--api-keys', file)).code, 0);
    const reloads = (): number => server.log.filter(({ event }) => event === 'keys.reload').length;
    for (let tries = 0; reloads() < 2 && tries < 100; tries += 1) await new Promise((done) => setTimeout(done, 100));
    assert.equal((await generate('plain')).status, 401);
    assert.equal((await generate('plain', next)).status, 200);
  });
});
