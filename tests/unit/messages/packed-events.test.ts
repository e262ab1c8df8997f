import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { SequenceEvent } from '../../../src/core/request.js';
import { packEvents, visitEvents } from '../../../src/messages/packed-events.js';

const id = fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER });
const PLAIN = { noNullPrototype: true } as const;
const token = fc.record(
  {
    kind: fc.constant('token' as const),
    id,
    token: fc.integer({ min: 0, max: 2 ** 32 - 1 }),
    logprob: fc.oneof(fc.constant(Number.NaN), fc.float({ max: 0 })),
    top: fc.oneof(
      { weight: 4, arbitrary: fc.constant(null) },
      fc.constant({ ids: Uint32Array.of(3), logprobs: Float32Array.of(-1) }),
    ),
    speculated: fc.boolean(),
  },
  PLAIN,
);
const finish = fc.record(
  { kind: fc.constant('finish' as const), id, reason: fc.constantFrom('length', 'eos_token') },
  PLAIN,
);
const error = fc.record(
  {
    kind: fc.constant('error' as const),
    id,
    error: fc.constant({ code: 'ERR_STEP_FAILED', message: 'the step failed' } as const),
  },
  PLAIN,
);
const events: fc.Arbitrary<SequenceEvent[]> = fc.array(fc.oneof({ weight: 4, arbitrary: token }, finish, error));

test('events come out of a cloned message as they went in, in order', () => {
  fc.assert(
    fc.property(events, (sent) => {
      const received: SequenceEvent[] = [];
      visitEvents(structuredClone(packEvents(sent)), (event) => received.push(event));
      assert.deepEqual(received, sent);
    }),
  );
});
