import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Difference, RowCheck } from '../../../src/cli/verify/row-check.js';
import { type Answer, hashLogits } from '../../../src/cli/verify/solo-runs.js';

const ROWS = [Float32Array.of(0, 1), Float32Array.of(2, 3), Float32Array.of(4, 5)];
const ANSWER: Answer = { tokens: [1, 0, 1], logits: ROWS.map(hashLogits) };
const DIGEST = 'd'.repeat(64);

interface Rig {
  readonly check: RowCheck;
  readonly differences: Difference[];
  readonly counts: number[];
  readonly ends: number[];
}

function rig({ compareLogits = true, stopAt = 99 } = {}): Rig {
  const differences: Difference[] = [];
  const counts: number[] = [];
  const ends: number[] = [];
  const check = new RowCheck({
    target: { adapter: 'a', composition: null },
    caseIndex: 2,
    tokens: 3,
    compareLogits,
    answerOf: (digest, at) => (digest === DIGEST && at === 2 ? ANSWER : undefined),
    onDifference: (difference) => differences.push(difference),
    onToken: (count) => counts.push(count) > 0 && count < stopAt,
    onEnd: () => ends.push(counts.length),
  });
  return { check, differences, counts, ends };
}

function admit(check: RowCheck, digest: string | null = DIGEST): void {
  check.onEvent({
    kind: 'admitted',
    id: 1,
    atMs: 0,
    servedBy: { adapter: 'a', digest, tierAtArrival: 'host' },
    cachedTokens: 0,
  });
}

function token(check: RowCheck, value: number, logits: Float32Array): void {
  check.onLogits(logits);
  check.onEvent({ kind: 'token', id: 1, token: value, logprob: Number.NaN, top: null, speculated: false });
}

const finish = { kind: 'finish', id: 1, reason: 'length' } as const;

test('a request that is as alone passes', () => {
  const { check, differences, counts, ends } = rig();
  admit(check);
  for (const [at, row] of ROWS.entries()) token(check, ANSWER.tokens[at] as number, row);
  check.onEvent(finish);
  assert.deepEqual([differences, counts, ends], [[], [1, 2, 3], [3]]);
});

test('the last bit of a logit counts, also the sign of zero, unless only tokens are compared', () => {
  for (const compareLogits of [true, false]) {
    const { check, differences } = rig({ compareLogits });
    admit(check);
    token(check, 1, Float32Array.of(-0, 1));
    assert.equal(differences.length, compareLogits ? 1 : 0);
  }
});

test('logits are copied when they are shown', () => {
  const { check, differences } = rig();
  const shared = (ROWS[0] as Float32Array).slice();
  admit(check);
  check.onLogits(shared);
  shared.fill(7);
  check.onEvent({ kind: 'token', id: 1, token: 1, logprob: 0, top: null, speculated: false });
  assert.deepEqual(differences, []);
});

test('another token is a difference at its position, with the logits behind it', () => {
  const { check, differences, ends } = rig();
  admit(check);
  token(check, 1, ROWS[0] as Float32Array);
  token(check, 1, ROWS[1] as Float32Array);
  token(check, 5, ROWS[2] as Float32Array);
  assert.deepEqual(differences, [
    {
      adapter: 'a',
      composition: null,
      digest: DIGEST,
      caseIndex: 2,
      position: 1,
      expected: 'token 0',
      found: 'token 1',
      logits: ROWS[1] as Float32Array,
    },
  ]);
  assert.deepEqual(ends, [1]);
});

test('an unknown digest, an early end and an error are differences', () => {
  const unknown = rig();
  admit(unknown.check, 'e'.repeat(64));
  token(unknown.check, 1, ROWS[0] as Float32Array);
  assert.match(unknown.differences[0]?.expected ?? '', /solo run/);

  const early = rig();
  admit(early.check);
  token(early.check, 1, ROWS[0] as Float32Array);
  early.check.onEvent(finish);
  assert.match(early.differences[0]?.found ?? '', /after 1/);

  const failed = rig();
  failed.check.onEvent({ kind: 'error', id: 1, error: { code: 'ERR_STEP_FAILED', message: 'broken' } });
  assert.equal(failed.differences[0]?.found, 'ERR_STEP_FAILED: broken');
  assert.deepEqual(failed.ends, [0]);
});

test('after an abort nothing is compared', () => {
  const { check, differences, ends } = rig({ stopAt: 1 });
  admit(check);
  token(check, 1, ROWS[0] as Float32Array);
  token(check, 9, ROWS[0] as Float32Array);
  check.cancel();
  assert.deepEqual([differences, ends], [[], [1]]);
});
