import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { LoramuxError } from '../../../src/core/errors.js';
import { type GenerateRequest, GREEDY_SAMPLING } from '../../../src/core/request.js';
import { NO_TOKEN } from '../../../src/core/step.js';
import { BASE_ROWS, oneAdapter } from '../../../src/scheduler/row-adapters.js';
import { soloRun, soloScores, VOCABULARY } from './fake-model.js';
import { Harness, makeRequest, rowsOf, SERVED_BY } from './requests.js';

const FAILURE = { code: 'ERR_STEP_FAILED', message: 'the step failed' } as const;

describe('batching', () => {
  test('running sequences get their row before any prefill', () => {
    const harness = new Harness({ maxBatchTokens: 6, maxSequences: 3 });
    harness.enqueue(1, 2, 9);
    harness.enqueue(2, 20, 9);
    harness.enqueue(3, 4, 9);
    const steps = Array.from({ length: 6 }, () => rowsOf(harness.step()));
    assert.deepEqual(steps, ['1:p2 2:p4', '1:1 2:p5', '1:1 2:p5', '1:1 2:p5', '1:1 2:p1 3:p4', '1:1 2:1 3:1']);
  });

  test('the oldest prefill goes on before the next is admitted', () => {
    const harness = new Harness({ maxBatchTokens: 4 });
    harness.enqueue(1, 6, 1);
    harness.enqueue(2, 6, 1);
    const steps = Array.from({ length: 3 }, () => rowsOf(harness.step()));
    assert.deepEqual(steps, ['1:p4', '1:p2 2:p2', '2:p4']);
    assert.equal(harness.scheduler.plan(9), null);
  });

  test('a step that decodes reads prompts that it can hold whole, and longer ones in chunks', () => {
    const harness = new Harness({
      maxSequences: 6,
      maxBatchTokens: 64,
      maxPrefillRows: 8,
      kvBlocks: 64,
      prefixCache: false,
    });
    harness.enqueue(1, 2, 9);
    harness.step();
    harness.enqueue(2, 9, 2);
    assert.equal(rowsOf(harness.step()), '1:1 2:p2', 'alone, no more than with others');
    for (const [id, prompt] of [
      [3, 20],
      [4, 3],
      [5, 4],
    ] as const) {
      harness.enqueue(id, prompt, 2);
    }
    assert.equal(rowsOf(harness.step()), '1:1 2:p2 3:p2 4:p3 5:p1', 'the oldest first, all rows used');
    harness.enqueue(6, 20, 2);
    const steps = Array.from({ length: 3 }, () => rowsOf(harness.step()));
    assert.deepEqual(steps, ['1:1 2:p2 3:p2 4:1 5:p3 6:p1', '1:1 2:p2 3:p2 5:1 6:p2', '1:1 2:p1 3:p2 6:p2']);
  });

  test('a long prompt of which the cache holds all but a little is a short one', () => {
    const harness = new Harness({ maxSequences: 2, maxBatchTokens: 64, maxPrefillRows: 8, blockSize: 4 });
    harness.enqueue(1, 2, 20);
    harness.enqueue(2, 16, 1);
    harness.step();
    harness.scheduler.enqueue({ ...makeRequest(2, 19, 2), id: 3 }, BASE_ROWS, harness.nowMs, SERVED_BY);
    assert.equal(rowsOf(harness.step()), '1:1 3:p3');
  });

  test("the engine's own requests take one row of a step that decodes, all of their rows of any other", () => {
    const harness = new Harness({ maxSequences: 4 });
    const own = (id: number): void =>
      harness.scheduler.enqueueFirst(makeRequest(id, 3, 1), oneAdapter(5), 0, SERVED_BY);
    own(11);
    harness.enqueue(1, 2, 9);
    assert.equal(rowsOf(harness.step()), '1:p2 11:p3');
    own(12);
    own(13);
    harness.enqueue(2, 4, 9);
    const steps = Array.from({ length: 3 }, () => rowsOf(harness.step()));
    assert.deepEqual(steps, ['1:1 2:p4 12:p1 13:p1', '1:1 2:1 12:p1 13:p1', '1:1 2:1 12:p1 13:p1']);
    assert.deepEqual(harness.runningIds(), [1, 2]);
  });

  test('slots are reused lowest first', () => {
    const harness = new Harness({ maxSequences: 3 });
    harness.enqueue(1, 2, 1);
    harness.enqueue(2, 2, 8);
    harness.enqueue(3, 2, 1);
    harness.enqueue(4, 2, 8);
    harness.step();
    assert.deepEqual(harness.runningIds(), [2]);
    harness.step();
    const slots = harness.scheduler.snapshot().running.map(({ id, slot }) => [id, slot]);
    assert.deepEqual(slots, [
      [2, 1],
      [4, 0],
    ]);
  });

  test('the plan counts what telemetry reports', () => {
    const harness = new Harness();
    harness.enqueue(1, 3, 4, 7);
    harness.step();
    harness.enqueue(2, 4, 4, -1);
    harness.enqueue(3, 5, 4, 8);
    const plan = harness.step();
    const { rows, prefillRows, decodeRows, baseRows, loraRows, sampledRows, distinctAdapters } = plan;
    const segments = plan.segments.length;
    assert.deepEqual(
      { rows, prefillRows, decodeRows, baseRows, loraRows, sampledRows, segments, distinctAdapters },
      {
        rows: 10,
        prefillRows: 9,
        decodeRows: 1,
        baseRows: 4,
        loraRows: 6,
        sampledRows: 3,
        segments: 3,
        distinctAdapters: 2,
      },
    );
  });
});

describe('admission', () => {
  test('a request whose adapter is loading holds nobody back', () => {
    const harness = new Harness({ maxSequences: 2 });
    harness.enqueue(1, 2, 3, null);
    harness.enqueue(2, 2, 3, 5);
    harness.enqueue(3, 2, 9, 5);
    assert.equal(rowsOf(harness.step()), '2:p2 3:p2');
    harness.enqueue(4, 2, 3, 5);
    harness.scheduler.adapterReady(1, oneAdapter(4), { adapter: 'late', digest: 'abc', tierAtArrival: 'disk' });
    assert.deepEqual(harness.waitingIds(), [1, 4]);
    harness.step();
    harness.step();
    assert.equal(rowsOf(harness.step()), '1:p2 3:1');
    const [admitted] = harness.eventsOf(1);
    assert.deepEqual(admitted, {
      kind: 'admitted',
      id: 1,
      atMs: 3,
      servedBy: { adapter: 'late', digest: 'abc', tierAtArrival: 'disk' },
      cachedTokens: 0,
    });
  });

  test('nothing runnable means no plan', () => {
    const harness = new Harness();
    assert.equal(harness.scheduler.plan(0), null);
    harness.enqueue(1, 2, 2, null);
    assert.equal(harness.scheduler.plan(0), null);
  });

  test('blocks promised to an earlier prefill are not promised twice', () => {
    const harness = new Harness({ maxBatchTokens: 4, kvBlocks: 5, blockSize: 4 });
    harness.enqueue(1, 14, 1);
    harness.enqueue(2, 8, 1);
    harness.enqueue(3, 2, 1);
    const steps = Array.from({ length: 5 }, () => rowsOf(harness.step()));
    // 1 owns 4 of 5 blocks from the start; 2 waits for two, and 3 does not overtake it.
    assert.deepEqual(steps, ['1:p4', '1:p4', '1:p4', '1:p2', '2:p4']);
  });

  test('the queue is bounded, loading requests included', () => {
    const harness = new Harness({ maxQueue: 2 });
    harness.enqueue(1, 2, 2);
    harness.enqueue(2, 2, 2, null);
    assert.throws(() => harness.enqueue(3, 2, 2), { code: 'ERR_QUEUE_FULL', message: /at most 2/ });
    assert.deepEqual(harness.scheduler.snapshot().liveIds, [1, 2]);
    harness.step();
    assert.doesNotThrow(() => harness.enqueue(3, 2, 2));
  });

  test('what could never fit is refused at once', () => {
    const harness = new Harness({ kvBlocks: 2, blockSize: 4, maxModelLen: 20 });
    assert.throws(() => harness.enqueue(1, 8, 2), { code: 'ERR_PROMPT_TOO_LONG', message: /at most 2 KV blocks/ });
    assert.throws(() => harness.enqueue(1, 18, 3), { code: 'ERR_PROMPT_TOO_LONG', message: /at most 20, got 18 \+ 3/ });
    harness.enqueue(1, 8, 1);
    assert.throws(() => harness.enqueue(1, 8, 1), { code: 'ERR_VALIDATION' });
    harness.runToEnd();
  });
});

describe('preemption', () => {
  /** Two sequences of one block each in a pool of three: the first to need another takes it, the next is short. */
  function crowded(): Harness {
    const harness = new Harness({ kvBlocks: 3, blockSize: 4, maxModelLen: 12 });
    harness.enqueue(1, 3, 8);
    harness.enqueue(2, 3, 8);
    for (let steps = 0; steps < 2; steps += 1) harness.step();
    return harness;
  }

  test('the most recently admitted goes back to the front and is computed again', () => {
    const harness = crowded();
    harness.enqueue(3, 1, 1);
    const plan = harness.step();
    assert.equal(rowsOf(plan), '1:1');
    assert.deepEqual(plan.preemptedIds, [2]);
    assert.deepEqual(harness.waitingIds(), [2, 3]);
    harness.runToEnd();
    for (const id of [1, 2, 3]) {
      const request = id === 3 ? makeRequest(3, 1, 1) : makeRequest(id, 3, 8);
      assert.deepEqual(harness.tokensOf(id), soloRun(request, BASE_ROWS).tokens);
      assert.equal(harness.eventsOf(id).filter((event) => event.kind === 'admitted').length, 1);
      assert.equal(harness.eventsOf(id).at(-1)?.kind, 'finish');
    }
    assert.equal(harness.scheduler.counts().usedBlocks, 0);
  });

  test('a failed step leaves its victims preempted and everyone else alone', () => {
    const harness = crowded();
    const plan = harness.scheduler.plan(5);
    assert.ok(plan);
    harness.model.runAndFail(harness.scheduler.buildBatch(plan));
    const events = harness.scheduler.rollback(plan, FAILURE);
    assert.deepEqual(events, [{ kind: 'error', id: 1, error: FAILURE }]);
    harness.check();
    assert.deepEqual(harness.waitingIds(), [2]);
    harness.runToEnd();
    assert.deepEqual(harness.tokensOf(2), soloRun(makeRequest(2, 3, 8), BASE_ROWS).tokens);
  });

  test('a victim aborted before the commit does not come back', () => {
    const harness = crowded();
    harness.step(() => assert.equal(harness.scheduler.abort(2), true));
    assert.deepEqual(harness.waitingIds(), []);
    harness.runToEnd();
    assert.deepEqual(harness.tokensOf(1), soloRun(makeRequest(1, 3, 8), BASE_ROWS).tokens);
  });

  test('takes as many as it must, most recent first', () => {
    const harness = new Harness({ kvBlocks: 4, blockSize: 2, maxModelLen: 8 });
    for (const id of [1, 2, 3, 4]) harness.enqueue(id, 2, 5);
    harness.step();
    const plan = harness.step();
    assert.equal(rowsOf(plan), '1:1 2:1');
    assert.deepEqual(plan.preemptedIds, [4, 3]);
    assert.deepEqual(harness.waitingIds(), [3, 4]);
    harness.runToEnd();
    for (const id of [1, 2, 3, 4])
      assert.deepEqual(harness.tokensOf(id), soloRun(makeRequest(id, 2, 5), BASE_ROWS).tokens);
  });
});

describe('prompt scores', () => {
  const scoring = (id: number, prompt: number, maxNewTokens: number, top = 0): GenerateRequest =>
    makeRequest(id, prompt, maxNewTokens, { promptLogprobs: { top } });
  const kinds = (harness: Harness, id: number): string[] => harness.eventsOf(id).map(({ kind }) => kind);

  test('come in parts with the chunks and are reported once, before the first token', () => {
    const harness = new Harness({ maxBatchTokens: 4 });
    harness.scheduler.enqueue(scoring(1, 10, 2, 1), BASE_ROWS, 0, SERVED_BY);
    harness.enqueue(2, 2, 9);
    const plans = Array.from({ length: 4 }, () => harness.step());
    assert.deepEqual(plans.map(rowsOf), ['1:p4', '1:p4', '1:p2 2:p2', '1:1 2:1']);
    assert.deepEqual(
      plans.map(({ scoredRows, sampledRows }) => [scoredRows, sampledRows]),
      [
        [4, 0],
        [4, 0],
        [1, 2],
        [0, 2],
      ],
    );
    assert.deepEqual(kinds(harness, 1), ['admitted', 'prompt', 'token', 'token', 'finish']);
    const event = harness.eventsOf(1)[1];
    assert.ok(event?.kind === 'prompt');
    assert.deepEqual(event.prompt.logprobs, Float32Array.from(soloScores(scoring(1, 10, 2), BASE_ROWS)));
    const prompt = [...scoring(1, 10, 2).promptIds];
    assert.deepEqual(
      event.prompt.top?.map(({ ids }) => [...ids]),
      prompt.map((id, at) => (at === 0 ? [] : [id])),
    );
  });

  test('are all there is when no token is wanted', () => {
    const harness = new Harness();
    for (const prompt of [1, 5]) harness.scheduler.enqueue(scoring(prompt, prompt, 0), BASE_ROWS, 0, SERVED_BY);
    const plan = harness.step();
    assert.deepEqual([plan.scoredRows, plan.sampledRows], [4, 0]);
    for (const id of [1, 5]) {
      assert.deepEqual(kinds(harness, id), ['admitted', 'prompt', 'finish']);
      assert.deepEqual(harness.eventsOf(id).at(-1), { kind: 'finish', id, reason: 'length' });
    }
    assert.equal(harness.scheduler.counts().usedBlocks, 0);
    assert.throws(() => harness.enqueue(2, 3, 0), { code: 'ERR_VALIDATION' });
  });

  test('a step scores no more rows than its memory allows; others go on beside', () => {
    const harness = new Harness({ vocabSize: 2 ** 23 });
    for (const id of [1, 2]) harness.scheduler.enqueue(scoring(id, 4, 1), BASE_ROWS, 0, SERVED_BY);
    harness.enqueue(3, 3, 2);
    const steps = Array.from({ length: 3 }, () => rowsOf(harness.step()));
    assert.deepEqual(steps, ['1:p2', '1:p2 2:p1 3:p3', '2:p3 3:1']);
  });

  test('go on after a preemption where they were', () => {
    // A step may score one row; 1 takes the blocks of 2 while 2 is being scored.
    const harness = new Harness({ kvBlocks: 4, blockSize: 4, maxModelLen: 16, vocabSize: 2 ** 24 });
    harness.enqueue(1, 3, 4);
    harness.scheduler.enqueue(scoring(2, 10, 1), BASE_ROWS, 0, SERVED_BY);
    const steps = Array.from({ length: 5 }, () => rowsOf(harness.step()));
    assert.deepEqual(steps, ['1:p3 2:p1', '1:1 2:p1', '1:1', '1:1', '2:p3']);
    harness.runToEnd();
    assert.deepEqual(kinds(harness, 2), ['admitted', 'prompt', 'token', 'finish']);
    const event = harness.eventsOf(2)[1];
    assert.ok(event?.kind === 'prompt');
    assert.deepEqual(event.prompt.logprobs, Float32Array.from(soloScores(scoring(2, 10, 1), BASE_ROWS)));
  });

  test('a row without finite logits ends its own request', () => {
    const harness = new Harness();
    harness.scheduler.enqueue(scoring(1, 3, 4), BASE_ROWS, 0, SERVED_BY);
    harness.enqueue(2, 3, 4);
    const plan = harness.scheduler.plan(0);
    assert.ok(plan);
    const output = harness.model.run(harness.scheduler.buildBatch(plan));
    output.tokens[1] = NO_TOKEN;
    const events = harness.scheduler.commit(plan, output, 1);
    assert.deepEqual(
      events.map(({ kind, id }) => [kind, id]),
      [
        ['admitted', 1],
        ['admitted', 2],
        ['error', 1],
        ['token', 2],
      ],
    );
    harness.check();
    assert.deepEqual(harness.runningIds(), [2]);
  });
});

describe('plan, commit, rollback', () => {
  test('planning changes no sequence', () => {
    const harness = new Harness({ kvBlocks: 3, maxModelLen: 12 });
    harness.enqueue(1, 3, 8);
    harness.enqueue(2, 3, 8);
    harness.step();
    harness.step();
    harness.enqueue(3, 3, 2);
    const { running, waiting } = harness.scheduler.counts();
    const plan = harness.scheduler.plan(9);
    assert.ok(plan);
    assert.deepEqual([harness.scheduler.counts().running, harness.scheduler.counts().waiting], [running, waiting]);
    harness.check();
    harness.scheduler.rollback(plan, FAILURE);
  });

  test('a failed step fails its sequences, admitted ones included, and no others', () => {
    const harness = new Harness({ maxBatchTokens: 4 });
    harness.enqueue(1, 2, 4);
    harness.enqueue(2, 4, 4, 3);
    harness.enqueue(3, 4, 4);
    harness.step();
    const plan = harness.scheduler.plan(1);
    assert.ok(plan);
    assert.equal(rowsOf(plan), '1:1 3:p1 2:p2');
    const error = new LoramuxError('ERR_STEP_FAILED', 'out of luck', { field: 'x' });
    assert.deepEqual(
      harness.scheduler.rollback(plan, error),
      [1, 3, 2].map((id) => ({ kind: 'error', id, error: error.toRecord() })),
    );
    harness.check();
    assert.deepEqual(harness.scheduler.counts(), {
      waiting: 0,
      waitingForAdapter: 0,
      running: 0,
      totalBlocks: 32,
      usedBlocks: 0,
      cachedBlocks: 0,
      adapterBlocks: 0,
      steps: 1,
      lastStepMs: 1,
    });
  });

  test('an output that does not fit the plan is refused before anything changes', () => {
    const harness = new Harness();
    harness.enqueue(1, 2, 4);
    const plan = harness.scheduler.plan(0);
    assert.ok(plan);
    const top = { indptr: Int32Array.of(0, 0), ids: new Uint32Array(0), logprobs: new Float32Array(0) };
    const output = { top, logits: null, failures: [], maskSeconds: 0, runSeconds: 0, sampleSeconds: 0 };
    const empty = { ...output, tokens: new Uint32Array(0), logprobs: new Float32Array(0) };
    assert.throws(() => harness.scheduler.commit(plan, empty, 0), {
      code: 'ERR_NATIVE',
      message: /of 1 tokens.*got 0, 0, 1/,
    });
    assert.deepEqual(harness.scheduler.rollback(plan, FAILURE), [{ kind: 'error', id: 1, error: FAILURE }]);
    harness.check();
  });

  test('each plan is settled once, and only one is made at a time', () => {
    const harness = new Harness();
    harness.enqueue(1, 2, 4);
    const plan = harness.step(() => assert.throws(() => harness.scheduler.plan(0), { code: 'ERR_ENGINE_FATAL' }));
    assert.throws(() => harness.scheduler.rollback(plan, FAILURE), { code: 'ERR_ENGINE_FATAL' });
    assert.throws(() => harness.scheduler.buildBatch(plan), { code: 'ERR_ENGINE_FATAL' });
  });

  test('the log-probability is reported only where it was asked for', () => {
    const harness = new Harness();
    harness.scheduler.enqueue(makeRequest(1, 2, 1, { logprobs: { of: 'processed', top: 0 } }), BASE_ROWS, 0, SERVED_BY);
    harness.enqueue(2, 2, 1);
    harness.step();
    const [token] = soloRun(makeRequest(1, 2, 1), BASE_ROWS).tokens;
    assert.deepEqual(harness.eventsOf(1).at(1), {
      kind: 'token',
      id: 1,
      token,
      logprob: -(token ?? 0),
      top: null,
      speculated: false,
    });
    const other = harness.eventsOf(2).at(1);
    assert.ok(other?.kind === 'token' && Number.isNaN(other.logprob));
  });

  test('the likeliest tokens come beside a token, those of its own row', () => {
    const harness = new Harness();
    const tops = [2, 0, 3];
    for (const [id, top] of tops.entries()) {
      const request = makeRequest(id, 2, 1, { logprobs: { of: 'raw', top } });
      harness.scheduler.enqueue(request, BASE_ROWS, 0, SERVED_BY);
    }
    harness.step();
    for (const [id, top] of tops.entries()) {
      const event = harness.eventsOf(id).at(1);
      assert.ok(event?.kind === 'token');
      const ids = [event.token, 0, 1].slice(0, top);
      const wanted = { ids: Uint32Array.from(ids), logprobs: Float32Array.from(ids, (token) => -token) };
      assert.deepEqual(event.top, top === 0 ? null : wanted);
      assert.equal(event.top?.ids.buffer.byteLength ?? 0, 4 * top, 'a copy, not a view of all lists');
    }
  });

  test('sampling that cannot be is refused at the door, by name', () => {
    const refused: readonly (readonly [Partial<GenerateRequest>, RegExp])[] = [
      ...(
        [
          [{ temperature: 0 }, /temperature.*got 0/],
          [{ temperature: Number.NaN }, /temperature.*got NaN/],
          [{ temperature: 1e-60 }, /temperature/],
          [{ temperature: 1e60 }, /temperature/],
          [{ topK: -1 }, /topK.*got -1/],
          [{ topK: 0.5 }, /topK/],
          [{ topP: 0 }, /topP/],
          [{ topP: 1.01 }, /topP/],
          [{ minP: -0.1 }, /minP/],
          [{ minP: Number.NaN }, /minP/],
          [{ typicalP: 0 }, /typicalP/],
          [{ repetitionPenalty: 0 }, /repetitionPenalty/],
          [{ presencePenalty: Number.POSITIVE_INFINITY }, /presencePenalty/],
          [{ frequencyPenalty: Number.NaN }, /frequencyPenalty/],
          [{ logitBias: new Map([[VOCABULARY, 1]]) }, /logitBias.*below 23.*got 23/],
          [{ logitBias: new Map([[1.5, 1]]) }, /logitBias/],
          [{ logitBias: new Map([[1, Number.NaN]]) }, /logitBias.*got NaN/],
          [{ seed: -1n }, /seed/],
          [{ seed: 2n ** 64n }, /seed/],
        ] as const
      ).map(([change, message]) => [{ sampling: { ...GREEDY_SAMPLING, ...change } }, message] as const),
      [{ choice: -1 }, /choice/],
      [{ minNewTokens: 5 }, /minNewTokens.*\(4\).*got 5/],
      [{ stopIds: [-1] }, /stopIds/],
      [{ logprobs: { of: 'raw', top: VOCABULARY + 1 } }, /logprobs.top/],
      [{ promptLogprobs: { top: -1 } }, /promptLogprobs.top/],
    ];
    const harness = new Harness();
    for (const [change, message] of refused) {
      const enqueue = () => harness.scheduler.enqueue(makeRequest(1, 2, 4, change), BASE_ROWS, 0, SERVED_BY);
      assert.throws(enqueue, { code: 'ERR_VALIDATION', message });
    }
    assert.deepEqual(harness.scheduler.snapshot().liveIds, []);
  });

  test('stop ids are banned until enough tokens are there', () => {
    const harness = new Harness();
    const stopIds = Array.from({ length: VOCABULARY - 1 }, (_, id) => id);
    harness.scheduler.enqueue(makeRequest(1, 2, 9, { stopIds, minNewTokens: 3 }), BASE_ROWS, 0, SERVED_BY);
    harness.runToEnd();
    const tokens = harness.tokensOf(1);
    assert.deepEqual(tokens.slice(0, 3), [22, 22, 22]);
    assert.deepEqual(tokens, soloRun(makeRequest(1, 2, 9, { stopIds, minNewTokens: 3 }), BASE_ROWS).tokens);
  });

  test('a stop id ends the generation after it was reported', () => {
    const harness = new Harness();
    const plain = soloRun(makeRequest(1, 2, 6), BASE_ROWS).tokens;
    const stop = plain[2] as number;
    harness.scheduler.enqueue(makeRequest(1, 2, 6, { stopIds: [stop] }), BASE_ROWS, 0, SERVED_BY);
    harness.runToEnd();
    assert.deepEqual(harness.tokensOf(1), plain.slice(0, plain.indexOf(stop) + 1));
    assert.deepEqual(harness.eventsOf(1).at(-1), { kind: 'finish', id: 1, reason: 'eos_token' });
  });
});

describe('abort and fail', () => {
  test('an abort outside the step frees everything at once, without an event', () => {
    const harness = new Harness();
    harness.enqueue(1, 5, 4);
    harness.step();
    harness.enqueue(2, 5, 4);
    harness.enqueue(3, 5, 4, null);
    for (const id of [1, 2, 3]) assert.equal(harness.scheduler.abort(id), true);
    harness.check();
    const { running, waiting, usedBlocks } = harness.scheduler.counts();
    assert.deepEqual({ running, waiting, usedBlocks }, { running: 0, waiting: 0, usedBlocks: 0 });
    for (const id of [1, 2, 3, 4]) assert.equal(harness.scheduler.abort(id), false);
    harness.scheduler.adapterReady(3, oneAdapter(7));
    assert.equal(harness.scheduler.plan(0), null);
  });

  test('an abort during the step takes effect when it is settled', () => {
    const harness = new Harness();
    harness.enqueue(1, 5, 4);
    harness.step();
    harness.enqueue(2, 5, 4);
    harness.step(() => {
      assert.equal(harness.scheduler.abort(1), true);
      assert.equal(harness.scheduler.abort(1), false);
      assert.equal(harness.scheduler.abort(2), true);
      assert.ok(harness.scheduler.counts().usedBlocks > 0);
      harness.check();
    });
    assert.equal(harness.scheduler.counts().usedBlocks, 0);
    assert.equal(harness.tokensOf(1).length, 1);
    assert.deepEqual(harness.eventsOf(2), []);
  });

  test('a request that waits outside the step can be aborted during it', () => {
    const harness = new Harness({ maxBatchTokens: 4 });
    harness.enqueue(1, 9, 9);
    harness.enqueue(2, 1, 9);
    harness.step((plan) => {
      assert.equal(rowsOf(plan), '1:p4');
      harness.scheduler.abort(2);
      assert.deepEqual(harness.waitingIds(), [1]); // 1 is admitted when the step is committed
      harness.check();
    });
  });

  test('fail gives one error event, whatever the request was doing', () => {
    const harness = new Harness();
    const error = { code: 'ERR_ADAPTER_INVALID', message: 'bad' } as const;
    harness.enqueue(1, 2, 4, null);
    assert.deepEqual(harness.scheduler.fail(1, error), { kind: 'error', id: 1, error });
    assert.equal(harness.scheduler.fail(1, error), null);
    harness.enqueue(2, 2, 4);
    harness.step(() => assert.deepEqual(harness.scheduler.fail(2, error), { kind: 'error', id: 2, error }));
    assert.deepEqual(harness.eventsOf(2), []);
  });

  test('failByAdapter takes those of one adapter, waiting or running', () => {
    const harness = new Harness({ maxSequences: 2 });
    harness.enqueue(1, 2, 9, 5);
    harness.enqueue(2, 2, 9, 6);
    harness.enqueue(3, 2, 9, 5);
    harness.step();
    const error = { code: 'ERR_ADAPTER_UNLOADED', message: 'gone' } as const;
    harness.step(() =>
      assert.deepEqual(
        harness.scheduler.failByAdapter(5, error),
        [1, 3].map((id) => ({ kind: 'error', id, error })),
      ),
    );
    assert.deepEqual(harness.runningIds(), [2]);
    assert.equal(harness.scheduler.counts().waiting, 0);
  });
});
