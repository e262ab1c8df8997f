import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { SamplingParams } from '../../../src/core/request.js';
import { lastSampledBy, NO_TOKEN, type StepOutput } from '../../../src/core/step.js';
import { checkBatch } from '../../../src/scheduler/invariants.js';
import { BASE_ROWS } from '../../../src/scheduler/row-adapters.js';
import type { StepPlan } from '../../../src/scheduler/step-plan.js';
import { soloRun } from './fake-model.js';
import { Harness, makeRequest, rowsOf, SERVED_BY } from './requests.js';

const FAILURE = { code: 'ERR_STEP_FAILED', message: 'the step failed' } as const;

/** A step that runs. */
interface Launched {
  readonly plan: StepPlan;
  readonly tokens: readonly number[];
  readonly output: StepOutput;
}

function launch(harness: Harness, plan: StepPlan | null): Launched {
  assert.ok(plan, 'something can run');
  const batch = harness.scheduler.buildBatch(plan);
  assert.deepEqual(checkBatch(batch, plan, harness.limits), []);
  harness.check();
  return { plan, tokens: [...batch.tokens], output: harness.model.run(batch) };
}

const first = (harness: Harness): Launched => launch(harness, harness.scheduler.plan(harness.nowMs));
const behind = (harness: Harness): Launched => launch(harness, harness.scheduler.planAhead(harness.nowMs));

function commit(harness: Harness, { plan, output }: Launched): void {
  harness.nowMs += 1;
  harness.events.push(...harness.scheduler.commit(plan, output, harness.nowMs));
  harness.check();
}

/** What a request of `makeRequest` answers. */
function answer(id: number, prompt: number, maxNew: number): readonly number[] {
  return soloRun(makeRequest(id, prompt, maxNew), BASE_ROWS).tokens;
}

describe('a step planned while one is in flight', () => {
  test('goes on with tokens that are named by slot', () => {
    const harness = new Harness({ maxBatchTokens: 6 });
    harness.enqueue(1, 4, 3);
    harness.enqueue(2, 6, 3);
    const one = first(harness);
    assert.equal(rowsOf(one.plan), '1:p4 2:p2');
    const two = behind(harness);
    assert.equal(rowsOf(two.plan), '1:1 2:p4');
    assert.deepEqual(two.tokens[0], lastSampledBy(0));
    commit(harness, one);
    assert.deepEqual(harness.tokensOf(1), answer(1, 4, 3).slice(0, 1));
    const three = behind(harness);
    commit(harness, two);
    assert.equal(rowsOf(three.plan), '1:1 2:1', 'the last of request 1');
    const four = behind(harness);
    assert.equal(rowsOf(four.plan), '2:1', 'its length is known');
    commit(harness, three);
    const five = harness.scheduler.planAhead(9);
    assert.equal(five, null, 'nobody goes on');
    commit(harness, four);
    assert.deepEqual([harness.tokensOf(1), harness.tokensOf(2)], [answer(1, 4, 3), answer(2, 6, 3)]);
    assert.equal(harness.scheduler.counts().usedBlocks, 0);
  });

  test('admits what comes, beside sequences whose tokens are not known', () => {
    const harness = new Harness();
    harness.enqueue(1, 4, 9);
    const one = first(harness);
    harness.enqueue(2, 5, 2);
    const two = behind(harness);
    assert.equal(rowsOf(two.plan), '1:1 2:p5');
    commit(harness, one);
    assert.deepEqual(harness.eventsOf(2), [], 'admitted by its own step');
    commit(harness, two);
    assert.deepEqual(
      harness.eventsOf(2).map(({ kind }) => kind),
      ['admitted', 'token'],
    );
  });

  test('finds what the step before it published, and waits for what that fills', () => {
    const harness = new Harness({ maxBatchTokens: 8 });
    const promptIds = Uint32Array.from({ length: 13 }, (_, at) => at);
    const enqueue = (id: number): void =>
      harness.scheduler.enqueue(makeRequest(id, 13, 2, { promptIds }), BASE_ROWS, 0, SERVED_BY);
    enqueue(1);
    const one = first(harness);
    const two = behind(harness);
    assert.equal(rowsOf(two.plan), '1:p5');
    commit(harness, one);
    enqueue(2);
    const three = behind(harness);
    assert.equal(rowsOf(three.plan), '1:1', 'request 2 would compute again what is in flight');
    commit(harness, two);
    const four = launch(harness, harness.scheduler.planAhead(9));
    assert.equal(rowsOf(four.plan), '2:p1', 'three blocks were there');
    commit(harness, three);
    commit(harness, four);
    harness.runToEnd();
    assert.deepEqual(harness.tokensOf(2), harness.tokensOf(1));
  });

  test('is settled in its turn, and only one at a time is', () => {
    const harness = new Harness();
    harness.enqueue(1, 4, 9);
    assert.throws(() => harness.scheduler.planAhead(0), /expected one plan in flight, got 0/);
    const one = first(harness);
    const two = behind(harness);
    assert.throws(() => harness.scheduler.planAhead(0), /expected one plan in flight, got 2/);
    assert.throws(() => harness.scheduler.plan(0), /expected the plan in flight to be settled/);
    assert.throws(() => harness.scheduler.commit(two.plan, two.output, 1), /expected the plan in flight, got another/);
    assert.throws(() => harness.scheduler.rollback(two.plan, FAILURE), /expected the plan in flight, got another/);
    commit(harness, one);
    commit(harness, two);
  });
});

describe('a sequence that ends while the next step has a row of it', () => {
  /** Request 1 ends with its second token, which the second step samples; the third has a row in vain. */
  function ending(): { readonly harness: Harness; readonly third: Launched; readonly second: Launched } {
    const harness = new Harness({ maxSequences: 1 });
    const stopIds = [answer(1, 4, 9)[1] as number];
    harness.scheduler.enqueue(makeRequest(1, 4, 9, { stopIds, minNewTokens: 1 }), BASE_ROWS, 0, SERVED_BY);
    const one = first(harness);
    const second = behind(harness);
    commit(harness, one);
    const third = behind(harness);
    assert.equal(rowsOf(third.plan), '1:1');
    return { harness, second, third };
  }

  test('hears nothing more; its slot and blocks come free when that step is done', () => {
    const { harness, second, third } = ending();
    harness.enqueue(2, 4, 1);
    commit(harness, second);
    assert.equal(harness.eventsOf(1).at(-1)?.kind, 'finish');
    const heard = harness.events.length;
    assert.equal(harness.scheduler.planAhead(9), null, 'no slot is free');
    assert.equal(harness.scheduler.counts().usedBlocks, 2);
    commit(harness, third);
    assert.equal(harness.events.length, heard);
    assert.equal(harness.scheduler.counts().usedBlocks, 0);
    assert.equal(rowsOf(harness.step()), '2:p4');
  });

  test('may do so for want of a token', () => {
    const { harness, second, third } = ending();
    commit(harness, { ...second, output: { ...second.output, tokens: Uint32Array.of(NO_TOKEN) } });
    assert.equal(harness.eventsOf(1).at(-1)?.kind, 'error');
    commit(harness, third);
    assert.equal(harness.eventsOf(1).filter(({ kind }) => kind === 'error' || kind === 'finish').length, 1);
    assert.equal(harness.scheduler.counts().usedBlocks, 0);
  });

  test('may be aborted between the two', () => {
    const { harness, second, third } = ending();
    assert.equal(harness.scheduler.abort(1), true);
    const heard = harness.events.length;
    commit(harness, second);
    commit(harness, third);
    assert.equal(harness.events.length, heard);
    assert.equal(harness.scheduler.counts().usedBlocks, 0);
  });
});

describe('failures', () => {
  test('of the first step take its sequences along; the second counts for the others', () => {
    const harness = new Harness({ prefixCache: false });
    harness.enqueue(1, 4, 9);
    const one = first(harness);
    harness.enqueue(2, 5, 2);
    const two = behind(harness);
    harness.events.push(...harness.scheduler.rollback(one.plan, FAILURE));
    harness.check();
    assert.deepEqual(harness.events, [{ kind: 'error', id: 1, error: FAILURE }]);
    commit(harness, two);
    harness.runToEnd();
    assert.deepEqual(harness.tokensOf(2), answer(2, 5, 2));
    assert.equal(harness.eventsOf(1).length, 1);
  });

  test('of both end every sequence once', () => {
    const harness = new Harness();
    harness.enqueue(1, 4, 9);
    const one = first(harness);
    harness.enqueue(2, 5, 2);
    const two = behind(harness);
    for (const { plan } of [one, two]) harness.events.push(...harness.scheduler.rollback(plan, FAILURE));
    harness.check();
    assert.deepEqual(harness.events, [
      { kind: 'error', id: 1, error: FAILURE },
      { kind: 'error', id: 2, error: FAILURE },
    ]);
    assert.equal(harness.scheduler.counts().usedBlocks, 0);
  });

  test('what a failed step left in blocks is found by nobody', () => {
    const harness = new Harness({ maxBatchTokens: 4 });
    const promptIds = Uint32Array.from({ length: 9 }, (_, at) => at);
    const enqueue = (id: number): void =>
      harness.scheduler.enqueue(makeRequest(id, 9, 2, { promptIds }), BASE_ROWS, 0, SERVED_BY);
    enqueue(1);
    const one = first(harness);
    const two = behind(harness);
    harness.scheduler.rollback(one.plan, FAILURE);
    commit(harness, two);
    enqueue(2);
    assert.equal(harness.step().cachedTokens, 0);
  });
});

describe('what waits for its token', () => {
  const waits = (sampling: Partial<SamplingParams>, maxNew = 9, constraint?: number): boolean => {
    const harness = new Harness();
    const plain = makeRequest(1, 4, maxNew);
    const request = { ...plain, sampling: { ...plain.sampling, ...sampling } };
    harness.scheduler.enqueue(request, BASE_ROWS, 0, SERVED_BY, constraint);
    harness.enqueue(2, 4, 9);
    first(harness);
    return harness.scheduler.planAhead(1) === null;
  };

  test('penalties and constraints do, unless the sequence ends anyway', () => {
    assert.equal(waits({}), false);
    assert.equal(waits({ temperature: 2, greedy: false, topK: 5, seed: 3n }), false);
    for (const penalty of [{ repetitionPenalty: 1.1 }, { presencePenalty: 0.1 }, { frequencyPenalty: -0.1 }]) {
      assert.equal(waits(penalty), true);
      assert.equal(waits(penalty, 1), false);
    }
    assert.equal(waits({}, 9, 5), true);
    assert.equal(waits({}, 1, 5), false);
  });

  test('drafts do, and what promises them', () => {
    const harness = new Harness({ speculation: true, maxBatchTokens: 32, maxSequences: 2, maxPrefillRows: 4 });
    const promptIds = Uint32Array.from({ length: 20 }, (_, at) => at);
    harness.scheduler.enqueue(makeRequest(1, 20, 40, { promptIds }), BASE_ROWS, 0, SERVED_BY);
    let planned = 0;
    let running = first(harness);
    for (;;) {
      const drafting = running.plan.draftRows > 0;
      const next = harness.scheduler.planAhead(1);
      if (next === null) {
        commit(harness, running);
        if (harness.scheduler.counts().running === 0) break;
        running = first(harness);
        continue;
      }
      assert.equal(drafting, false, 'how far a sequence comes with drafts is not known');
      planned += 1;
      const launched = launch(harness, next);
      commit(harness, running);
      running = launched;
    }
    assert.ok(planned > 0);
    assert.ok(harness.events.some((event) => event.kind === 'token' && event.speculated));
    const { tokens } = soloRun(makeRequest(1, 20, 40, { promptIds }), BASE_ROWS);
    assert.deepEqual(harness.tokensOf(1), tokens);
  });

  test('a sequence without a block does, and nobody is preempted for it in vain', () => {
    const harness = new Harness({ kvBlocks: 4, blockSize: 4, maxSequences: 2, prefixCache: false });
    harness.enqueue(1, 6, 6);
    harness.enqueue(2, 7, 6);
    const one = first(harness);
    const two = behind(harness);
    assert.equal(rowsOf(two.plan), '1:1 2:1');
    commit(harness, one);
    assert.equal(harness.scheduler.planAhead(2), null, 'request 2 needs a third block');
    harness.check();
    commit(harness, two);
    const three = first(harness);
    assert.deepEqual(three.plan.preemptedIds, [2]);
    const four = behind(harness);
    assert.equal(rowsOf(four.plan), '1:1');
    commit(harness, three);
    commit(harness, four);
    harness.runToEnd();
    assert.deepEqual([harness.tokensOf(1), harness.tokensOf(2)], [answer(1, 6, 6), answer(2, 7, 6)]);
  });
});
