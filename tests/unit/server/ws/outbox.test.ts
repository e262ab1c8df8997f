import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { merged, Outbox, type TokenPiece } from '../../../../src/server/ws/outbox.js';

const LIMITS = { highWaterBytes: 100, maxHeldCharacters: 1_000, maxHeldMs: 500 };

/** A socket whose buffer empties when the test says so. */
class FakeSocket {
  bufferedAmount = 0;
  readonly frames: ReturnType<typeof JSON.parse>[] = [];
  #done: (() => void)[] = [];

  send(frame: string, done: () => void): void {
    this.frames.push(JSON.parse(frame));
    this.#done.push(done);
  }

  drain(): void {
    this.bufferedAmount = 0;
    for (const done of this.#done.splice(0)) done();
  }
}

function piece(text: string, index = 0): TokenPiece {
  return { index, text, tokenIds: [text.length], logprobs: { tokens: [text] }, toolCalls: [] };
}

function rig(): { socket: FakeSocket; outbox: Outbox; clock: { ms: number } } {
  const socket = new FakeSocket();
  const clock = { ms: 0 };
  return { socket, clock, outbox: new Outbox(socket, LIMITS, () => clock.ms) };
}

test('tokens go out one by one while the socket keeps up', () => {
  const { socket, outbox } = rig();
  const stream = outbox.stream('a');
  assert.ok(stream.token(piece('x')) && stream.token(piece('y')));
  assert.deepEqual(
    socket.frames.map(({ type, id, seq, text }) => [type, id, seq, text]),
    [
      ['token', 'a', 0, 'x'],
      ['token', 'a', 1, 'y'],
    ],
  );
});

test('behind, tokens gather and go out merged, in order with what follows', () => {
  const { socket, outbox } = rig();
  const stream = outbox.stream('a');
  stream.token(piece('a'));
  socket.bufferedAmount = 101;
  for (const text of ['b', 'c', 'd']) assert.ok(stream.token(piece(text)));
  assert.equal(socket.frames.length, 1);
  socket.drain();
  assert.deepEqual(
    socket.frames.slice(1).map(({ seq, text, token_ids: ids, logprobs }) => [seq, text, ids, logprobs.tokens]),
    [[1, 'bcd', [1, 1, 1], ['b', 'c', 'd']]],
  );
  socket.bufferedAmount = 101;
  stream.token(piece('e'));
  stream.last({ type: 'done', id: 'a' });
  assert.deepEqual(
    socket.frames.slice(2).map(({ type, text }) => [type, text]),
    [
      ['token', 'e'],
      ['done', undefined],
    ],
  );
});

test('a stream that waits for too long, or holds too much, is given up', () => {
  const { socket, outbox, clock } = rig();
  socket.bufferedAmount = 101;
  const slow = outbox.stream('slow');
  assert.ok(slow.token(piece('x')));
  clock.ms = 501;
  assert.equal(slow.token(piece('x')), false);
  const wide = outbox.stream('wide');
  assert.equal(wide.token(piece('x'.repeat(1_001))), false);
});

test('after the close nothing is sent', () => {
  const { socket, outbox } = rig();
  const stream = outbox.stream('a');
  outbox.close();
  stream.token(piece('x'));
  outbox.write({ type: 'pong' });
  assert.equal(socket.frames.length, 0);
});

test('merging keeps each choice’s text, tokens and log-probabilities, in frames below 64 KiB', () => {
  const pieces = fc.array(fc.tuple(fc.string({ maxLength: 5_000 }), fc.integer({ min: 0, max: 2 })), { maxLength: 30 });
  fc.assert(
    fc.property(pieces, (given) => {
      const all = given.map(([text, index]) => piece(text, index));
      const out = merged(all);
      for (const index of [0, 1, 2]) {
        const of = (list: readonly TokenPiece[]) => list.filter((each) => each.index === index);
        assert.equal(
          of(out)
            .map(({ text }) => text)
            .join(''),
          of(all)
            .map(({ text }) => text)
            .join(''),
        );
        assert.deepEqual(
          of(out).flatMap(({ tokenIds }) => tokenIds),
          of(all).flatMap(({ tokenIds }) => tokenIds),
        );
        const scores = (list: readonly TokenPiece[]) =>
          of(list).flatMap(({ logprobs }) => (logprobs as { tokens: string[] }).tokens);
        assert.deepEqual(scores(out), scores(all));
      }
      for (const { text } of out) assert.ok(text.length <= 8_192);
    }),
  );
});
