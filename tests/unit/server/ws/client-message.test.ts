import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { LoramuxError } from '../../../../src/core/errors.js';
import { readClientMessage } from '../../../../src/server/ws/client-message.js';

const read = (value: unknown) => readClientMessage(Buffer.from(JSON.stringify(value)));

test('messages are read as they are meant, and long integers keep their digits', () => {
  assert.deepEqual(read({ type: 'cancel', id: 'a' }), { type: 'cancel', id: 'a' });
  assert.deepEqual(read({ type: 'ping' }), { type: 'ping', t: undefined });
  const frame = '{"type":"generate","id":"a","api":"generate","body":{"seed":18446744073709551615},"deadline_ms":5}';
  assert.deepEqual(readClientMessage(Buffer.from(frame)), {
    type: 'generate',
    id: 'a',
    api: 'generate',
    body: { seed: 18446744073709551615n },
    deadlineMs: 5,
  });
});

test('each thing that is wrong is named', () => {
  const generate = { type: 'generate', id: 'a', api: 'chat', body: {} };
  const cases: readonly (readonly [message: unknown, field: string])[] = [
    [[], 'message'],
    [{ type: 'other' }, 'type'],
    [{ ...generate, id: '' }, 'id'],
    [{ ...generate, id: 'a b' }, 'id'],
    [{ ...generate, id: 'x'.repeat(65) }, 'id'],
    [{ ...generate, api: 'tts' }, 'api'],
    [{ ...generate, body: 'text' }, 'body'],
    [{ ...generate, body: { stream: false } }, 'body.stream'],
    [{ ...generate, deadline_ms: 0 }, 'deadline_ms'],
    [{ ...generate, priority: 1 }, 'priority'],
    [{ type: 'cancel', id: 7 }, 'id'],
    [{ type: 'ping', extra: 1 }, 'extra'],
  ];
  for (const [message, field] of cases) {
    assert.throws(
      () => read(message),
      (thrown: unknown) => thrown instanceof LoramuxError && thrown.details?.field === field,
      `${JSON.stringify(message)} names ${field}`,
    );
  }
});

test('no frame makes it throw anything else', () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.uint8Array(),
        fc.json().map((text) => Buffer.from(text)),
      ),
      (bytes) => {
        try {
          readClientMessage(Buffer.from(bytes));
        } catch (thrown) {
          assert.ok(thrown instanceof LoramuxError && thrown.code === 'ERR_BAD_REQUEST', String(thrown));
        }
      },
    ),
  );
});
