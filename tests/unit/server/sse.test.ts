import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, get, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type TestContext, test } from 'node:test';
import { SseStream } from '../../../src/server/sse.js';

/** A response being written and the client's side of it. */
async function connect(t: TestContext): Promise<{ response: ServerResponse; client: () => Promise<IncomingMessage> }> {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const request = get({ port: (server.address() as AddressInfo).port, host: '127.0.0.1' });
  request.on('error', () => {});
  const answered = once(request, 'response').then(([response]) => response as IncomingMessage);
  const [, response] = (await once(server, 'request')) as [IncomingMessage, ServerResponse];
  return { response, client: () => answered };
}

test('a silent stream is kept alive with comments', async (t) => {
  const { response, client } = await connect(t);
  const stream = new SseStream(response, { 'x-a': '1' }, { keepAliveMs: 10, stallMs: 1_000 });
  const incoming = await client();
  assert.equal(incoming.headers['x-a'], '1');
  await once(incoming, 'readable');
  assert.match(String(incoming.read()), /^(:\n\n)+$/);
  await stream.send('{}');
  stream.end();
  assert.match((await incoming.toArray()).join(''), /^(:\n\n)*data: \{\}\n\n$/);
});

test('writes wait for a reader that is slow, and a reader that stalls is disconnected', async (t) => {
  const { response, client } = await connect(t);
  const stream = new SseStream(response, {}, { keepAliveMs: 10_000, stallMs: 50 });
  await stream.send('{}');
  const incoming = await client();
  incoming.pause();
  const big = 'x'.repeat(1 << 20);
  await assert.rejects(
    async () => {
      for (let sent = 0; sent < 64; sent += 1) await stream.send(big);
    },
    { code: 'ERR_ABORTED' },
  );
  assert.ok(response.destroyed);
  stream.sendLast('{}');
  stream.end();
});

test('a reader that leaves ends the wait', async (t) => {
  const { response, client } = await connect(t);
  const stream = new SseStream(response, {}, { keepAliveMs: 10_000, stallMs: 10_000 });
  await stream.send('{}');
  const incoming = await client();
  incoming.pause();
  const sending = (async () => {
    for (let sent = 0; sent < 64; sent += 1) await stream.send('x'.repeat(1 << 20));
  })();
  setTimeout(() => incoming.destroy(), 20);
  await assert.rejects(sending, { code: 'ERR_ABORTED' });
  assert.throws(() => stream.send('{}'), { code: 'ERR_ABORTED' });
  stream.end();
});
