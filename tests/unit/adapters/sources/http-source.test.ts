import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import { join } from 'node:path';
import { test } from 'node:test';
import type { HttpSource } from '../../../../src/core/adapter-source.js';
import { LoramuxError } from '../../../../src/core/errors.js';
import { startServer } from '../../../helpers/local-server.js';
import { coded, temporaryDirectory, until } from '../support.js';
import {
  adapterFiles,
  allowing,
  CONFIG,
  digestOf,
  fetchRig,
  type Handler,
  LIMITS,
  type Rig,
  serveFile,
  startFiles,
  tagOf,
  tarOfFiles,
  WEIGHTS,
} from './support.js';

function from(location: string, token: string | null = null): HttpSource {
  return { type: 'http', location, token };
}

/** Bytes that the client said it had, each time it said so. */
type Progress = Rig['progress'];

/**
 * Sends the first half of the weights and, when the client has it, does `end`; for the first `times` requests. A reset
 * takes with it what was not read.
 */
function halfway(
  times: number,
  progress: () => Progress,
  end: (response: ServerResponse) => void,
  headers: Record<string, string> = {},
): Handler {
  let left = times;
  return (_request, response, bytes, name) => {
    if (name !== WEIGHTS || left === 0) return false;
    left -= 1;
    response.writeHead(200, {
      etag: tagOf(bytes),
      'accept-ranges': 'bytes',
      'content-length': bytes.length,
      ...headers,
    });
    const half = Math.floor(bytes.length / 2);
    const heard = progress().length;
    const hasHalf = () => progress().some((each, index) => index >= heard && each.bytes >= half);
    response.write(bytes.subarray(0, half), () => void until(hasHalf).then(() => end(response)));
    return true;
  };
}

test('a directory is fetched by the names of its files, and nothing else of it', async (t) => {
  const files = { ...(await adapterFiles(t)), 'tokenizer.json': Buffer.from('{}'), 'README.md': Buffer.from('#') };
  const server = await startFiles(t, files);
  const rig = await fetchRig(t, { rules: allowing(server) });
  const fetched = await rig.fetch({ source: from(`${server.url}/a/?sig=secret`) });
  assert.deepEqual(fetched.map(({ path }) => path).sort(), [CONFIG, WEIGHTS, 'tokenizer.json'].sort());
  const { 'README.md': _, ...wanted } = files;
  assert.equal(await rig.arrived(), digestOf(wanted));
  assert.ok(server.requests.every(({ path }) => path.startsWith('/a/') && path.endsWith('?sig=secret')));
  const last = rig.progress.at(-1);
  assert.ok(last !== undefined && last.total !== null && last.bytes <= last.total && last.bytes > 0);
});

const BREAKS: readonly (readonly [string, (response: ServerResponse) => void])[] = [
  ['is reset', (response) => response.socket?.resetAndDestroy()],
  ['ends early', (response) => response.socket?.end()],
  ['stalls', () => undefined],
];

for (const [what, end] of BREAKS) {
  test(`a transfer that ${what} goes on where it broke off`, async (t) => {
    const files = await adapterFiles(t);
    const server = await startFiles(
      t,
      files,
      halfway(2, () => rig.progress, end),
    );
    const rig: Rig = await fetchRig(t, { rules: allowing(server) });
    await rig.fetch({ source: from(`${server.url}/a`) });
    assert.equal(await rig.arrived(), digestOf(files));
    const ranges = server.requests.filter(({ path }) => path.endsWith(WEIGHTS)).map(({ headers }) => headers.range);
    const half = Math.floor((files[WEIGHTS]?.length ?? 0) / 2);
    // The double answers the second try from the start again, as a server may.
    assert.deepEqual(ranges, [undefined, `bytes=${half}-`, `bytes=${half}-`]);
  });

  test(`a transfer that ${what} begins anew where the server cannot resume`, async (t) => {
    const files = await adapterFiles(t);
    for (const headers of [{ etag: 'W/"weak"' }, { 'accept-ranges': 'none' }]) {
      const server = await startFiles(
        t,
        files,
        halfway(1, () => rig.progress, end, headers),
      );
      const rig: Rig = await fetchRig(t, { rules: allowing(server) });
      await rig.fetch({ source: from(`${server.url}/a`) });
      assert.equal(await rig.arrived(), digestOf(files));
      assert.ok(server.requests.every(({ headers: asked }) => asked.range === undefined));
    }
  });
}

test('a file that changed between two tries is fetched whole, not patched together', async (t) => {
  const before = await adapterFiles(t, 1);
  const after = await adapterFiles(t, 2);
  let isChanged = false;
  const server = await startFiles(t, before, (request, response, bytes, name) => {
    if (name !== WEIGHTS) return false;
    if (isChanged) {
      serveFile(request, response, after[WEIGHTS] ?? bytes);
      return true;
    }
    isChanged = true;
    const reset = (each: ServerResponse) => each.socket?.resetAndDestroy();
    return halfway(1, () => rig.progress, reset)(request, response, bytes, name);
  });
  const rig = await fetchRig(t, { rules: allowing(server) });
  await rig.fetch({ source: from(`${server.url}/a`) });
  assert.deepEqual(await readFile(join(rig.directory, WEIGHTS)), after[WEIGHTS]);
  assert.ok(server.requests.some(({ headers }) => headers['if-range'] === tagOf(before[WEIGHTS] ?? Buffer.of())));
});

test('a server that is busy for a while is asked again', async (t) => {
  const files = await adapterFiles(t);
  let busy = 2;
  const server = await startFiles(t, files, (_request, response) => {
    busy -= 1;
    if (busy >= 0) response.writeHead(busy === 0 ? 429 : 503).end();
    return busy >= 0;
  });
  const rig = await fetchRig(t, { rules: allowing(server) });
  await rig.fetch({ source: from(`${server.url}/a`) });
  assert.equal(await rig.arrived(), digestOf(files));
});

const FAILURES: readonly (readonly [what: string, odd: Handler, message: RegExp, asked: number])[] = [
  ['answers 503', (_q, response) => Boolean(response.writeHead(503).end()), /answered 503/, 3],
  ['answers 403', (_q, response) => Boolean(response.writeHead(403).end()), /answered 403: give a token/, 1],
  ['resets', (_q, response) => Boolean(response.socket?.resetAndDestroy()), /the connection was cut/, 3],
  ['talks nonsense', (_q, response) => Boolean(response.socket?.end('nonsense\r\n\r\n')), /malformed/, 3],
  [
    'announces more than it sends',
    (_q, response) => {
      response.writeHead(200, { 'content-length': 1000 }).write('short', () => response.socket?.end());
      return true;
    },
    /the connection was cut/,
    3,
  ],
  [
    'compresses unasked',
    (_q, response) => Boolean(response.writeHead(200, { 'content-encoding': 'gzip' }).end('x')),
    /sends gzip/,
    1,
  ],
  [
    'redirects for ever',
    (request, response) => Boolean(response.writeHead(302, { location: request.url }).end()),
    /more than 5 redirects/,
    6,
  ],
];

for (const [what, odd, message, asked] of FAILURES) {
  test(`a server that ${what} is a 502 after bounded tries`, async (t) => {
    const server = await startFiles(t, {}, odd);
    const rig = await fetchRig(t, { rules: allowing(server) });
    await assert.rejects(rig.fetch({ source: from(`${server.url}/a?sig=secret`, 'hidden') }), (thrown) => {
      assert.ok(thrown instanceof LoramuxError);
      assert.equal(thrown.code, 'ERR_ADAPTER_SOURCE');
      assert.match(thrown.message, message);
      assert.ok(thrown.message.includes(`${server.url}/a could not be fetched`));
      assert.doesNotMatch(JSON.stringify(thrown.toRecord()), /secret|hidden/);
      return true;
    });
    assert.equal(server.requests.length, asked);
  });
}

test('a server that never answers is a 504 after bounded tries', async (t) => {
  const server = await startFiles(t, {}, () => true);
  const rig = await fetchRig(t, { rules: allowing(server) });
  await assert.rejects(
    rig.fetch({ source: from(`${server.url}/a`) }),
    coded('ERR_ADAPTER_SOURCE_TIMEOUT', /nothing came for 1 s/),
  );
  assert.equal(server.requests.length, 3);
});

test('a server that drips is a 504 when the time for all of it is over', async (t) => {
  const server = await startFiles(t, {}, (_request, response) => {
    response.writeHead(200);
    const timer = setInterval(() => response.write(' '), 20);
    response.on('close', () => clearInterval(timer));
    return true;
  });
  const rig = await fetchRig(t, { rules: allowing(server), limits: { ...LIMITS, totalMs: 300 } });
  await assert.rejects(
    rig.fetch({ source: from(`${server.url}/a`) }),
    coded('ERR_ADAPTER_SOURCE_TIMEOUT', /longer than 0.3 s/),
  );
  assert.equal(server.requests.length, 1);
});

test('a file over the cap is a 413, announced or not, and little of it is read', async (t) => {
  const files = await adapterFiles(t);
  let sent = 0;
  const endless: Handler = (_request, response, _bytes, name) => {
    if (name !== WEIGHTS) return false;
    response.writeHead(200);
    const chunk = Buffer.alloc(65_536);
    const more = (): void => {
      sent += chunk.length;
      if (!response.destroyed && response.write(chunk)) setImmediate(more);
    };
    response.on('drain', more);
    more();
    return true;
  };
  const announced: Handler = (_request, response, _bytes, name) => {
    if (name === WEIGHTS) response.writeHead(200, { 'content-length': 2 ** 40 }).write('x');
    return name === WEIGHTS;
  };
  for (const odd of [endless, announced]) {
    const server = await startFiles(t, files, odd);
    const rig = await fetchRig(t, { rules: allowing(server) });
    await assert.rejects(
      rig.fetch({ source: from(`${server.url}/a`) }),
      coded('ERR_ADAPTER_TOO_LARGE', /at most 1048576 bytes.*--max-adapter-size/),
    );
    assert.equal(server.requests.length, 2);
  }
  assert.ok(sent < 16 * LIMITS.maxBytes, `${sent} bytes were taken`);
});

test('a directory without an adapter is a 404, one with a pickle is refused with the conversion', async (t) => {
  const { [CONFIG]: config = Buffer.of(), [WEIGHTS]: weights = Buffer.of() } = await adapterFiles(t);
  const cases: readonly (readonly [Record<string, Uint8Array>, ReturnType<typeof coded>])[] = [
    [{ [WEIGHTS]: weights }, coded('ERR_ADAPTER_NOT_FOUND', /adapter_config\.json/)],
    [{ [CONFIG]: config }, coded('ERR_ADAPTER_NOT_FOUND', /adapter_model\.safetensors/)],
    [{ [CONFIG]: config, 'adapter_model.bin': weights }, coded('ERR_ADAPTER_INVALID', /a pickle.*python -c/)],
  ];
  for (const [files, expected] of cases) {
    const server = await startFiles(t, files);
    const rig = await fetchRig(t, { rules: allowing(server) });
    await assert.rejects(rig.fetch({ source: from(`${server.url}/a`) }), expected);
    assert.ok(server.requests.every(({ method, path }) => method === 'HEAD' || !path.includes('.bin')));
  }
});

test('hosts that no rule names are refused and not asked', async (t) => {
  const server = await startFiles(t, await adapterFiles(t));
  const rig = await fetchRig(t);
  await assert.rejects(
    rig.fetch({ source: from(`${server.url}/a?sig=secret`) }),
    (thrown) =>
      coded('ERR_ADAPTER_FORBIDDEN', /--adapter-hosts/)(thrown) && !(thrown as Error).message.includes('secret'),
  );
  assert.equal(server.requests.length, 0);
});

test('a listed name at a private address is refused, at any of its answers', async (t) => {
  for (const address of ['127.0.0.1', '10.0.0.1', '169.254.169.254', '::1', 'fd00::1', '::ffff:10.0.0.1']) {
    const resolve = async () => [{ address, family: address.includes(':') ? 6 : 4 }];
    const rig = await fetchRig(t, { rules: { hosts: [{ host: 'a.example', port: null }], privateHosts: [] } }, resolve);
    await assert.rejects(
      rig.fetch({ source: from('http://a.example/a') }),
      coded('ERR_ADAPTER_FORBIDDEN', /no public address.*--adapter-private-hosts/),
    );
  }
  const literal = await fetchRig(t, { rules: { hosts: [{ host: '127.0.0.1', port: null }], privateHosts: [] } });
  await assert.rejects(literal.fetch({ source: from('http://127.1/a') }), coded('ERR_ADAPTER_FORBIDDEN'));
});

test('the connection goes to the address that was checked: each request resolves once', async (t) => {
  const files = await adapterFiles(t);
  const server = await startFiles(t, files);
  let lookups = 0;
  // No resolver of the system knows this name; a second answer would lead elsewhere.
  const resolve = async () => {
    lookups += 1;
    return [{ address: '127.0.0.1', family: 4 }];
  };
  const rules = { hosts: [], privateHosts: [{ host: 'files.invalid', port: server.port }] };
  const rig = await fetchRig(t, { rules }, resolve);
  await rig.fetch({ source: from(`http://files.invalid:${server.port}/a`) });
  assert.equal(await rig.arrived(), digestOf(files));
  assert.equal(lookups, server.requests.length);
  assert.equal(server.requests[0]?.headers.host, `files.invalid:${server.port}`);
});

test('redirects are checked like first requests', async (t) => {
  const inner = await startFiles(t, await adapterFiles(t));
  const targets = [`${inner.url}/a/${CONFIG}`, 'http://169.254.169.254/latest', 'http://b.example/x', 'http://[::1]/x'];
  for (const location of targets) {
    const outer = await startFiles(t, {}, (_request, response) => Boolean(response.writeHead(302, { location }).end()));
    const rules = { hosts: [{ host: 'b.example', port: null }], privateHosts: allowing(outer).privateHosts };
    const rig = await fetchRig(t, { rules }, async () => [{ address: '192.168.0.1', family: 4 }]);
    await assert.rejects(rig.fetch({ source: from(`${outer.url}/a`) }), coded('ERR_ADAPTER_FORBIDDEN'));
  }
  assert.equal(inner.requests.length, 0);
  for (const location of ['file:///etc/passwd', 'http://user:pass@127.0.0.1/x', '//']) {
    const outer = await startFiles(t, {}, (_request, response) => Boolean(response.writeHead(302, { location }).end()));
    const rig = await fetchRig(t, { rules: allowing(outer) });
    await assert.rejects(rig.fetch({ source: from(`${outer.url}/a`) }), coded('ERR_ADAPTER_SOURCE', /redirects/));
  }
});

test('a token goes to the server it was given for, and not along with redirects', async (t) => {
  const files = await adapterFiles(t);
  const store = await startFiles(t, files);
  const front = await startServer(t, (request, response) => {
    response.writeHead(307, { location: `${store.url}${request.url}` }).end();
  });
  const rig = await fetchRig(t, { rules: allowing(store, front) });
  await rig.fetch({ source: from(`${front.url}/a`, 'hidden') });
  assert.equal(await rig.arrived(), digestOf(files));
  assert.ok(front.requests.every(({ headers }) => headers.authorization === 'Bearer hidden'));
  assert.ok(store.requests.every(({ headers }) => headers.authorization === undefined));
});

test('what did not change since the last fetch does not come again', async (t) => {
  const files = { ...(await adapterFiles(t)) };
  const server = await startFiles(t, files);
  const first = await fetchRig(t, { rules: allowing(server) });
  const source = from(`${server.url}/a`);
  const previous = { directory: first.directory, files: await first.fetch({ source }) };
  files[CONFIG] = Buffer.from(`${files[CONFIG]} `);
  const second = await fetchRig(t, { rules: allowing(server) });
  const asked = server.requests.length;
  assert.deepEqual((await second.fetch({ source, previous })).length, 2);
  assert.equal(await second.arrived(), digestOf(files));
  assert.notEqual(await first.arrived(), digestOf(files));
  assert.equal(server.requests[asked + 1]?.headers['if-none-match'], tagOf(files[WEIGHTS] ?? Buffer.of()));
  // A copy that is gone is fetched whole.
  const third = await fetchRig(t, { rules: allowing(server) });
  await third.fetch({ source, previous: { ...previous, directory: await temporaryDirectory(t) } });
  assert.equal(await third.arrived(), digestOf(files));
});

test('a tar archive is unpacked while it comes, also when it breaks off', async (t) => {
  const files = await adapterFiles(t);
  const archive = await tarOfFiles({ ...files, 'training_args.bin': Buffer.from('pickle') }, './sql/');
  let broken = 0;
  const server = await startServer(t, (request, response) => {
    if (broken++ > 0) serveFile(request, response, archive);
    else {
      response.writeHead(200, { etag: tagOf(archive), 'accept-ranges': 'bytes', 'content-length': archive.length });
      response.write(archive.subarray(0, 5000), () => setTimeout(() => response.socket?.resetAndDestroy(), 40));
    }
  });
  const rig = await fetchRig(t, { rules: allowing(server) });
  const source = from(`${server.url}/sql.tar`);
  const fetched = await rig.fetch({ source });
  assert.equal(await rig.arrived(), digestOf(files));
  assert.equal(server.requests[1]?.headers.range, 'bytes=5000-');
  // Unchanged since: one question, no bytes.
  const again = await fetchRig(t, { rules: allowing(server) });
  await again.fetch({ source, previous: { directory: rig.directory, files: fetched } });
  assert.equal(await again.arrived(), digestOf(files));
  assert.equal(server.requests.length, 3);
  assert.equal(again.progress.length, 0);
});

test('what is no tar archive, or is cut short, is refused', async (t) => {
  const whole = await tarOfFiles(await adapterFiles(t));
  for (const archive of [Buffer.alloc(2000, 'x'), whole.subarray(0, whole.length - 3000)]) {
    const server = await startServer(t, (request, response) => serveFile(request, response, archive));
    const rig = await fetchRig(t, { rules: allowing(server) });
    await assert.rejects(
      rig.fetch({ source: from(`${server.url}/x.tar`) }),
      coded('ERR_ADAPTER_INVALID', /tar archive|Unexpected end/),
    );
  }
});

test('an aborted fetch ends at once and closes its connection', async (t) => {
  let closed = false;
  const server = await startFiles(t, {}, (_request, response) => {
    response.on('close', () => {
      closed = true;
    });
    return true;
  });
  const rig = await fetchRig(t, { rules: allowing(server), limits: { ...LIMITS, stallMs: 60_000 } });
  const controller = new AbortController();
  const fetching = rig.fetch({ source: from(`${server.url}/a`), signal: controller.signal });
  await until(() => server.requests.length === 1);
  controller.abort();
  await assert.rejects(fetching, coded('ERR_ABORTED'));
  await until(() => closed);
});
