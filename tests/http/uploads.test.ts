import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { pack } from 'tar-stream';
import type { AdapterInfo } from '../../src/core/adapter.js';
import type { UploadSource } from '../../src/core/adapter-source.js';
import { eventually, startApp } from '../helpers/http-app.js';
import {
  adapterFiles,
  CONFIG,
  digestOf,
  type Files,
  tarOf,
  tarOfFiles,
  WEIGHTS,
} from '../unit/adapters/sources/support.js';

const TAR = { 'content-type': 'application/x-tar' };

function adapter(name: string): AdapterInfo {
  return {
    name,
    aliases: [],
    proof: null,
    digest: 'd'.repeat(64),
    state: 'ready',
    tier: 'host',
    bytes: 1,
    ranks: null,
    variant: [],
    modules: null,
    baseModel: null,
    text: null,
    source: 'upload:d',
    pins: { rows: 0, operator: false },
    loadedAt: null,
    lastUsedAt: null,
    requests: 0,
    failure: null,
  };
}

/** The admin app over an engine that notes what an upload left on the disk when it was told of it. */
function rig(t: TestContext) {
  const { admin, engine, uploads, lifecycle } = startApp(t);
  const seen: { source: UploadSource; files: string[] }[] = [];
  engine.onAdmin = (call) => {
    if (call.op !== 'load' && call.op !== 'check') throw new Error(`an upload asked for ${call.op}`);
    const source = call.source as UploadSource;
    seen.push({ source, files: readdirSync(source.received?.directory ?? '').sort() });
    if (call.op === 'check') return adapter(call.name);
    return { outcome: 'created', replaced: null, adapter: adapter(call.name) };
  };
  const left = (): string[] => {
    try {
      return readdirSync(join(uploads, 'incoming'));
    } catch {
      return [];
    }
  };
  const put = (payload: Buffer, headers: Record<string, string> = TAR, url = '/adapters/sql') =>
    admin.inject({ method: 'PUT', url, headers, payload });
  return { admin, engine, seen, left, put, lifecycle };
}

function form(parts: readonly (readonly [field: string, filename: string | null, bytes: Uint8Array])[], end = true) {
  const chunks = parts.flatMap(([field, filename, bytes]) => {
    const file = filename === null ? '' : `; filename="${filename}"`;
    const type = filename === null ? '' : 'content-type: application/octet-stream\r\n';
    const head = `--edge\r\ncontent-disposition: form-data; name="${field}"${file}\r\n${type}\r\n`;
    return [Buffer.from(head), Buffer.from(bytes), Buffer.from('\r\n')];
  });
  if (end) chunks.push(Buffer.from('--edge--\r\n'));
  return Buffer.concat(chunks);
}

const FORM = { 'content-type': 'multipart/form-data; boundary=edge' };

const SHAPES: readonly (readonly [string, (files: Files) => Promise<Buffer>, Record<string, string>])[] = [
  ['a tar archive', (files) => tarOfFiles(files), TAR],
  ['a tar archive with a folder', (files) => tarOfFiles(files, './my-adapter/'), { 'content-type': 'application/tar' }],
  ['an untyped tar archive', (files) => tarOfFiles(files), { 'content-type': 'application/octet-stream' }],
  [
    'a tar archive with pax headers, folders and other files',
    async (files) => {
      const archive = pack({});
      archive.entry({ name: 'x/', type: 'directory' });
      archive.entry({ name: 'x/README.md' }, 'read me');
      archive.entry({ name: 'x/checkpoint-5/adapter_config.json' }, '{}');
      for (const [name, bytes] of Object.entries(files)) {
        archive.entry({ name: `x/${name}`, pax: { comment: 'p' }, size: bytes.length }, Buffer.from(bytes));
      }
      archive.finalize();
      const chunks: Buffer[] = [];
      for await (const chunk of archive) chunks.push(chunk as Buffer);
      return Buffer.concat(chunks);
    },
    TAR,
  ],
  [
    'a form by file names',
    async (files) => form(Object.entries(files).map(([name, bytes]) => ['file', name, bytes])),
    FORM,
  ],
  [
    'a form by fields',
    async (files) => form(Object.entries(files).map(([name, bytes]) => [name, 'blob', bytes])),
    FORM,
  ],
];

for (const [what, shape, headers] of SHAPES) {
  test(`${what} is loaded under its digest, and nothing of the upload stays behind`, async (t) => {
    const { put, engine, seen, left } = rig(t);
    const files = await adapterFiles(t);
    const reply = await put(await shape(files), headers, '/adapters/org%2Fsql?pin&replace=false');
    assert.equal(reply.statusCode, 201, reply.body);
    assert.equal(reply.json().name, 'org/sql');
    const [{ source, files: arrived } = { source: null, files: [] }] = seen;
    assert.equal(source?.location, digestOf(files));
    assert.deepEqual(arrived, [CONFIG, WEIGHTS]);
    assert.equal(
      source?.received?.bytes,
      Object.values(files).reduce((sum, { length }) => sum + length, 0),
    );
    const expected = { op: 'load', name: 'org/sql', source, pin: true, wait: true, replace: false };
    assert.deepEqual(engine.adminCalls.at(-1), expected);
    assert.deepEqual(left(), []);
  });
}

test('a dry run of an upload is a dry run', async (t) => {
  const { put, engine } = rig(t);
  const reply = await put(await tarOfFiles(await adapterFiles(t)), TAR, '/adapters/sql?dryRun=true');
  assert.equal(reply.statusCode, 200);
  assert.equal(engine.adminCalls.at(-1)?.op, 'check');
});

const SAFE = { [CONFIG]: Buffer.from('{}'), [WEIGHTS]: Buffer.from('weights') };
const members = Object.entries(SAFE).map(([name, bytes]) => [{ name }, bytes] as const);

const ATTACKS: readonly (readonly [string, () => Promise<Buffer>, Record<string, string>, number, RegExp])[] = [
  ['a path that climbs', () => tarOf([[{ name: '../adapter_config.json' }, Buffer.of()]]), TAR, 422, /leads outside/],
  ['a path that climbs within', () => tarOf([[{ name: 'a/../../x' }, Buffer.of()]]), TAR, 422, /leads outside/],
  ['an absolute path', () => tarOf([[{ name: '/etc/x' }, Buffer.of()]]), TAR, 422, /leads outside/],
  ['a backslash', () => tarOf([[{ name: 'a\\..\\x' }, Buffer.of()]]), TAR, 422, /leads outside/],
  [
    'a symbolic link',
    () => tarOf([[{ name: CONFIG, type: 'symlink', linkname: '/etc/passwd' }], ...members]),
    TAR,
    422,
    /files and folders only, found a symlink/,
  ],
  ['a hard link', () => tarOf([[{ name: CONFIG, type: 'link', linkname: 'x' }]]), TAR, 422, /found a link/],
  ['a device', () => tarOf([[{ name: 'null', type: 'character-device' }]]), TAR, 422, /found a character-device/],
  ['a file twice', () => tarOf([...members, ...members]), TAR, 422, /each file once/],
  [
    'two adapters',
    () =>
      tarOf([
        [{ name: `a/${CONFIG}` }, Buffer.of()],
        [{ name: `b/${WEIGHTS}` }, Buffer.of()],
      ]),
    TAR,
    422,
    /one adapter/,
  ],
  [
    'too many members',
    () => tarOf(Array.from({ length: 25 }, (_, at) => [{ name: `f${at}` }, Buffer.of()] as const)),
    TAR,
    422,
    /at most 20 members/,
  ],
  ['a file over the cap', () => tarOf([[{ name: WEIGHTS }, Buffer.alloc(2 ** 20 + 1)]]), TAR, 413, /at most 1048576/],
  [
    'skipped files over the cap',
    () => tarOf([[{ name: 'x.bin' }, Buffer.alloc(2 ** 20 + 1)], ...members]),
    TAR,
    413,
    /at most 1048576/,
  ],
  [
    'a pickle',
    () =>
      tarOf([
        [{ name: CONFIG }, Buffer.from('{}')],
        [{ name: 'adapter_model.bin' }, Buffer.from('x')],
      ]),
    TAR,
    422,
    /a pickle.*python -c/,
  ],
  ['no configuration', () => tarOf([[{ name: WEIGHTS }, Buffer.from('x')]]), TAR, 404, /adapter_config/],
  ['an empty body', async () => Buffer.of(), TAR, 404, /adapter_model/],
  ['no archive', async () => Buffer.alloc(4096, 'x'), TAR, 422, /tar archive/],
  ['a compressed archive', async () => Buffer.from('1f8b08', 'hex'), TAR, 422, /tar archive/],
  ['an archive cut short', async () => (await tarOfFiles(SAFE)).subarray(0, 700), TAR, 422, /Unexpected end/],
  ['a form with a plain field', async () => form([[CONFIG, null, Buffer.from('{}')]]), FORM, 422, /plain field/],
  ['a form with another file', async () => form([['file', 'run.sh', Buffer.from('x')]]), FORM, 422, /another file/],
  [
    'a form with a file twice',
    async () =>
      form([
        ['file', CONFIG, Buffer.from('{}')],
        [CONFIG, 'x', Buffer.from('{}')],
      ]),
    FORM,
    422,
    /each file once/,
  ],
  ['a form with a large file', async () => form([['f', WEIGHTS, Buffer.alloc(2 ** 20 + 1)]]), FORM, 413, /at most/],
  ['a form with a pickle', async () => form([['f', 'adapter_model.bin', Buffer.from('x')]]), FORM, 422, /a pickle/],
  ['a form cut short', async () => form([['f', CONFIG, Buffer.from('{}')]], false), FORM, 400, /Unexpected end/],
  ['a form without a boundary', async () => form([]), { 'content-type': 'multipart/form-data' }, 400, /boundary/],
];

for (const [what, body, headers, status, message] of ATTACKS) {
  test(`${what} is a ${status}, and nothing of it stays`, async (t) => {
    const { put, seen, left } = rig(t);
    const reply = await put(await body(), headers);
    assert.equal(reply.statusCode, status, reply.body);
    assert.match(reply.json().error, message);
    assert.deepEqual(seen, []);
    assert.deepEqual(left(), []);
  });
}

test('names, queries and types are checked before the body is read', async (t) => {
  const { put, left, admin, lifecycle } = rig(t);
  const body = await tarOfFiles(SAFE);
  assert.equal((await put(body, TAR, '/adapters/__base__')).statusCode, 400);
  assert.equal((await put(body, TAR, '/adapters/sql?pin=maybe')).statusCode, 400);
  assert.equal((await put(body, TAR, '/adapters/sql?source=x')).statusCode, 400);
  assert.equal((await put(body, TAR, '/adapters/sql?dryRun&wait=false')).statusCode, 400);
  assert.equal((await put(Buffer.from('{}'), { 'content-type': 'application/json' })).statusCode, 415);
  assert.equal((await put(body, { 'content-type': 'application/gzip' })).statusCode, 415);
  const posted = await admin.inject({ method: 'POST', url: '/adapters', headers: TAR, payload: body });
  assert.equal(posted.statusCode, 415);
  lifecycle.beginDrain();
  assert.equal((await put(body)).statusCode, 503);
  assert.deepEqual(left(), []);
});

test('a client that stalls or leaves takes its upload with it', async (t) => {
  const { admin, left, seen } = rig(t);
  await admin.listen({ host: '127.0.0.1', port: 0 });
  const { port } = admin.server.address() as AddressInfo;
  const begin = (): ReturnType<typeof httpRequest> => {
    const sending = httpRequest({ host: '127.0.0.1', port, method: 'PUT', path: '/adapters/sql', headers: TAR });
    sending.on('error', () => undefined);
    sending.write(Buffer.alloc(100));
    return sending;
  };
  const leaving = begin();
  await eventually(() => left().length === 1, 'the upload begins');
  leaving.destroy();
  await eventually(() => left().length === 0, 'the upload of the client that left is gone');
  const stalling = begin();
  const status = await new Promise((resolve, reject) => {
    stalling.once('response', (reply) => resolve(reply.statusCode)).once('error', reject);
  });
  assert.equal(status, 400);
  stalling.destroy();
  assert.deepEqual(left(), []);
  assert.deepEqual(seen, []);
});

test('a client hears why its large upload was refused', async (t) => {
  const { admin, left } = rig(t);
  await admin.listen({ host: '127.0.0.1', port: 0 });
  const { port } = admin.server.address() as AddressInfo;
  const body = await tarOf([[{ name: WEIGHTS }, Buffer.alloc(8 * 2 ** 20)]]);
  for (let tries = 0; tries < 3; tries += 1) {
    const reply = await fetch(`http://127.0.0.1:${port}/adapters/sql`, { method: 'PUT', headers: TAR, body });
    assert.equal(reply.status, 413);
    assert.equal(((await reply.json()) as { code: string }).code, 'ERR_ADAPTER_TOO_LARGE');
  }
  assert.deepEqual(left(), []);
});

test('files arrive byte by byte as they were', async (t) => {
  const { put, engine } = rig(t);
  const files = await adapterFiles(t, 9);
  let weights: Buffer | null = null;
  engine.onAdmin = (call) => {
    const { received } = (call as { source: UploadSource }).source;
    weights = readFileSync(join(received?.directory ?? '', WEIGHTS));
    return { outcome: 'created', replaced: null, adapter: adapter('sql') };
  };
  await put(await tarOfFiles(files));
  assert.deepEqual(weights, files[WEIGHTS]);
});
