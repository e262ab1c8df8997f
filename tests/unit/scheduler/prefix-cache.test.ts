import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { GenerateRequest } from '../../../src/core/request.js';
import { BASE_ROWS, type RowAdapters, rowAdapters } from '../../../src/scheduler/row-adapters.js';
import { soloRun } from './fake-model.js';
import { Harness, makeRequest, rowsOf, SERVED_BY } from './requests.js';

const BLOCK = 4;
const DIGEST = 'd1';
const OTHER_DIGEST = 'd2';

/** `length` tokens that all prompts of these tests begin with, then `rest`. */
function promptOf(length: number, ...rest: number[]): Uint32Array {
  return Uint32Array.from([...Array.from({ length }, (_, index) => (index * 3) % 17), ...rest]);
}

function under(handle: number, digest: string, { from = 0, weight = 1 } = {}): RowAdapters {
  return rowAdapters([{ adapter: handle, digest, weight }], from);
}

/** Puts a request with `promptIds` into the queue. */
function ask(
  harness: Harness,
  id: number,
  promptIds: Uint32Array,
  adapters = BASE_ROWS,
  rest: Partial<GenerateRequest> = {},
): GenerateRequest {
  const request = makeRequest(id, 1, 2, { promptIds, ...rest });
  harness.scheduler.enqueue(request, adapters, harness.nowMs, SERVED_BY);
  return request;
}

/** Runs a request alone to its end; how many of its tokens were cached. Its answer must be that of a world without cache. */
function cachedOf(harness: Harness, id: number, promptIds: Uint32Array, adapters = BASE_ROWS, rest = {}): number {
  const request = ask(harness, id, promptIds, adapters, rest);
  harness.runToEnd();
  assert.deepEqual(harness.tokensOf(id), soloRun(request, adapters).tokens);
  const [admitted] = harness.eventsOf(id);
  assert.ok(admitted?.kind === 'admitted');
  return admitted.cachedTokens;
}

describe('what is found', () => {
  test('full blocks of an equal beginning, and never the last token', () => {
    const harness = new Harness();
    assert.equal(cachedOf(harness, 1, promptOf(11)), 0);
    assert.equal(cachedOf(harness, 2, promptOf(11)), 2 * BLOCK);
    assert.equal(cachedOf(harness, 3, promptOf(8)), BLOCK, 'the eighth token is computed to be sampled from');
    assert.equal(cachedOf(harness, 4, promptOf(6, 1, 1, 1)), BLOCK);
    assert.equal(cachedOf(harness, 5, Uint32Array.from([1, ...promptOf(10)])), 0);
    const { usedBlocks, cachedBlocks } = harness.scheduler.counts();
    assert.equal(usedBlocks, 0);
    // Of 1 three blocks (its answer fills the third), of 4 one, of 5 three.
    assert.equal(cachedBlocks, 3 + 1 + 3);
  });

  test('an answer is part of the next turn', () => {
    const harness = new Harness();
    ask(harness, 1, promptOf(7), BASE_ROWS, { maxNewTokens: 10 });
    harness.runToEnd();
    const turn = [...promptOf(7), ...harness.tokensOf(1), 2, 3];
    assert.equal(cachedOf(harness, 2, Uint32Array.from(turn)), 16, 'the last token of an answer is never fed');
  });

  test('a plan says what was looked up and found', () => {
    const harness = new Harness();
    cachedOf(harness, 1, promptOf(9));
    ask(harness, 2, promptOf(9, 5));
    const plan = harness.step();
    assert.deepEqual([plan.lookedUpTokens, plan.cachedTokens], [10, 8]);
    assert.equal(rowsOf(plan), '2:p2');
  });

  test('nothing with the cache off, and nothing for a prompt that is scored', () => {
    const off = new Harness({ prefixCache: false });
    cachedOf(off, 1, promptOf(11));
    assert.equal(cachedOf(off, 2, promptOf(11)), 0);
    assert.equal(off.scheduler.counts().cachedBlocks, 0);

    const harness = new Harness();
    cachedOf(harness, 1, promptOf(11));
    ask(harness, 2, promptOf(11), BASE_ROWS, { promptLogprobs: { top: 0 } });
    const plan = harness.scheduler.plan(0);
    assert.deepEqual([plan?.entries[0]?.start, plan?.lookedUpTokens], [0, 0]);
  });
});

describe('whose K/V it is', () => {
  test('the base, adapters, weights and lists are kept apart', () => {
    const harness = new Harness({ kvBlocks: 64 });
    const sum = rowAdapters([
      { adapter: 1, digest: DIGEST, weight: 1 },
      { adapter: 2, digest: OTHER_DIGEST, weight: 1 },
    ]);
    const kinds = [BASE_ROWS, under(1, DIGEST), under(2, OTHER_DIGEST), under(1, DIGEST, { weight: 0.5 }), sum];
    kinds.forEach((adapters, at) => {
      assert.equal(cachedOf(harness, at + 1, promptOf(11), adapters), 0, `kind ${at}`);
    });
    kinds.forEach((adapters, at) => {
      assert.equal(cachedOf(harness, at + 11, promptOf(11), adapters), 8, `kind ${at} again`);
    });
  });

  test('a reload of the same files finds it, other files under the same name do not', () => {
    const harness = new Harness();
    cachedOf(harness, 1, promptOf(11), under(1, DIGEST));
    ask(harness, 2, promptOf(11), under(7, DIGEST));
    assert.equal(rowsOf(harness.step()), '2:p3');
    ask(harness, 3, promptOf(11), under(8, OTHER_DIGEST));
    assert.equal(rowsOf(harness.step()), '2:1 3:p11');
  });

  test('adapters without a digest are known by handles, which are never used twice', () => {
    const harness = new Harness();
    const byHandle = (handle: number) => rowAdapters([{ adapter: handle, weight: 1 }]);
    cachedOf(harness, 1, promptOf(11), byHandle(1));
    assert.equal(cachedOf(harness, 2, promptOf(11), byHandle(2)), 0);
    assert.equal(cachedOf(harness, 3, promptOf(11), byHandle(1)), 8);
  });

  test('salts are kept apart', () => {
    const harness = new Harness();
    for (const [id, cacheSalt] of [null, 'a', 'b'].entries()) {
      assert.equal(cachedOf(harness, id + 1, promptOf(11), BASE_ROWS, { cacheSalt }), 0);
    }
    for (const [id, cacheSalt] of [null, 'a', 'b'].entries()) {
      assert.equal(cachedOf(harness, id + 11, promptOf(11), BASE_ROWS, { cacheSalt }), 8);
    }
  });

  test('an activated adapter shares what lies before its call with the base, and what lies behind with itself', () => {
    const harness = new Harness({ kvBlocks: 64 });
    cachedOf(harness, 1, promptOf(20));
    const activated = (handle: number, digest: string, from: number) => under(handle, digest, { from });
    assert.equal(cachedOf(harness, 2, promptOf(20), activated(1, DIGEST, 10)), 8, 'base blocks before position 10');
    assert.equal(cachedOf(harness, 3, promptOf(20), activated(1, DIGEST, 10)), 16, 'all of its own');
    assert.equal(cachedOf(harness, 4, promptOf(20), activated(2, OTHER_DIGEST, 10)), 8, 'another adapter');
    assert.equal(
      cachedOf(harness, 5, promptOf(20), activated(1, DIGEST, 9)),
      8,
      'the same begins earlier in its block',
    );
    assert.equal(cachedOf(harness, 6, promptOf(20), activated(1, DIGEST, 8)), 8, 'and with its block');
    assert.equal(cachedOf(harness, 7, promptOf(20), activated(1, DIGEST, Infinity)), 16, 'never called: the base');
    assert.equal(cachedOf(harness, 8, promptOf(20), under(1, DIGEST)), 0, 'the whole prompt under the adapter');
  });
});

describe('who holds it', () => {
  test('choices of one prompt share its full blocks', () => {
    const harness = new Harness({ kvBlocks: 32 });
    for (const id of [1, 2, 3, 4]) ask(harness, id, promptOf(14), BASE_ROWS, { choice: id - 1, maxNewTokens: 2 });
    assert.equal(rowsOf(harness.step()), '1:p14', 'one computes, the others wait for it');
    assert.equal(rowsOf(harness.step()), '1:1 2:p2 3:p2 4:p2');
    // Three blocks for all, and for each of those that go on the one that its last two tokens are in.
    assert.equal(harness.scheduler.counts().usedBlocks, 3 + 3);
  });

  test('equal prompts that were computed side by side end up in the same blocks', () => {
    const harness = new Harness();
    ask(harness, 1, promptOf(3), BASE_ROWS, { maxNewTokens: 12 });
    ask(harness, 2, promptOf(3), BASE_ROWS, { maxNewTokens: 12 });
    harness.step();
    assert.equal(harness.scheduler.counts().usedBlocks, 2, 'less than a block is not waited for');
    for (let steps = 0; steps < 6; steps += 1) harness.step();
    const [one, two] = harness.scheduler.snapshot().running;
    assert.deepEqual(one?.published, two?.published);
    assert.equal(harness.scheduler.counts().usedBlocks, 2 + 2);
  });

  test('under pressure the path used longest ago goes first, from its end', () => {
    const harness = new Harness({ kvBlocks: 6, maxModelLen: 24 });
    cachedOf(harness, 1, promptOf(8, 1), BASE_ROWS, { maxNewTokens: 1 });
    cachedOf(harness, 2, promptOf(4, 9, 9, 9, 9, 9), BASE_ROWS, { maxNewTokens: 1 });
    assert.equal(harness.scheduler.counts().cachedBlocks, 3);
    assert.equal(
      cachedOf(
        harness,
        3,
        Uint32Array.from({ length: 16 }, () => 5),
        BASE_ROWS,
        { maxNewTokens: 1 },
      ),
      0,
    );
    // Four blocks: the three blank ones, and the second of request 1.
    assert.equal(cachedOf(harness, 4, promptOf(4, 9, 9, 9, 9, 8), BASE_ROWS, { maxNewTokens: 1 }), 8);
    assert.equal(cachedOf(harness, 5, promptOf(8, 2), BASE_ROWS, { maxNewTokens: 1 }), 4);
  });

  test('what a preempted sequence computed is still there when it comes back', () => {
    const harness = new Harness({ kvBlocks: 7, maxModelLen: 24 });
    const first = ask(harness, 1, promptOf(4), BASE_ROWS, { maxNewTokens: 14 });
    const second = ask(
      harness,
      2,
      Uint32Array.from({ length: 9 }, () => 5),
      BASE_ROWS,
      { maxNewTokens: 8 },
    );
    let returned = '';
    while (harness.scheduler.counts().running + harness.scheduler.counts().waiting > 0) {
      const plan = harness.step();
      if (plan.admitted.some(({ sequence }) => sequence.everAdmitted && sequence.id === 2)) returned = rowsOf(plan);
    }
    assert.deepEqual(harness.tokensOf(1), soloRun(first, BASE_ROWS).tokens);
    assert.deepEqual(harness.tokensOf(2), soloRun(second, BASE_ROWS).tokens);
    assert.match(returned, /2:p\d$/);
  });
});

describe('waiting for a prefill that is under way', () => {
  test('lasts as long as the prompts are equal, and no longer', () => {
    const harness = new Harness({ maxBatchTokens: 6 });
    ask(harness, 1, promptOf(16, 7));
    ask(harness, 2, promptOf(8, 9, 9, 9));
    const steps = Array.from({ length: 5 }, () => rowsOf(harness.step()));
    assert.deepEqual(steps.slice(0, 4), ['1:p6', '1:p6', '1:p5 2:p1', '1:1 2:p2']);
  });

  test('ends when the one that computes does', () => {
    const harness = new Harness({ maxBatchTokens: 6 });
    ask(harness, 1, promptOf(12));
    ask(harness, 2, promptOf(13));
    harness.step();
    harness.scheduler.abort(1);
    assert.equal(rowsOf(harness.step()), '2:p6');
    assert.equal(harness.scheduler.snapshot().running[0]?.published.length, 2);
  });

  test('holds up nobody behind it who takes nothing from it', () => {
    const harness = new Harness({ maxSequences: 3, maxBatchTokens: 20, kvBlocks: 9 });
    ask(harness, 1, promptOf(14));
    ask(harness, 2, promptOf(14, 3));
    ask(harness, 3, Uint32Array.of(8, 8, 8));
    ask(harness, 4, Uint32Array.of(6, 6, 6));
    // One slot is set aside for 2.
    assert.equal(rowsOf(harness.step()), '1:p14 3:p3');
    assert.deepEqual(harness.waitingIds(), [2, 4]);
    assert.equal(rowsOf(harness.step()), '1:1 3:1 2:p3');
  });

  test('what would carry over to the next step does not overtake', () => {
    const harness = new Harness({ maxBatchTokens: 16 });
    ask(harness, 1, promptOf(14));
    ask(harness, 2, promptOf(14, 3));
    ask(harness, 3, Uint32Array.of(8, 8, 8));
    assert.equal(rowsOf(harness.step()), '1:p14');
    assert.equal(rowsOf(harness.step()), '1:1 2:p3 3:p3');
  });
});
