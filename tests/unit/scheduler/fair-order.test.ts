import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { FairOrder, QUANTUM } from '../../../src/scheduler/fair-order.js';
import { BASE_ROWS } from '../../../src/scheduler/row-adapters.js';
import { Sequence } from '../../../src/scheduler/sequence.js';
import { Harness, makeRequest, rowsOn, SERVED_BY } from './requests.js';

const SEED = 20_261_123;

/** A request of `tokens` tokens, prompt and output together. */
function arrive(order: FairOrder, id: number, adapter: string, tokens: number): Sequence {
  const request = makeRequest(id, tokens - 1, 1, { adapter });
  const sequence = new Sequence(request, BASE_ROWS, id, 0, SERVED_BY);
  order.insert(sequence);
  return sequence;
}

function ids(order: FairOrder): number[] {
  return Array.from(order.order(), ({ id }) => id);
}

describe('turns', () => {
  test('a flow takes what adds up to its quantum, the next follows', () => {
    const order = new FairOrder();
    for (const id of [1, 2, 3, 4, 5]) arrive(order, id, 'many', QUANTUM / 2);
    arrive(order, 6, 'few', 10);
    assert.deepEqual(ids(order), [1, 2, 6, 3, 4, 5]);
  });

  test('a large request waits until its turns have added up to it', () => {
    const order = new FairOrder();
    arrive(order, 1, 'large', 2 * QUANTUM + 1);
    for (const id of [2, 3, 4, 5]) arrive(order, id, 'even', QUANTUM);
    assert.deepEqual(ids(order), [2, 3, 1, 4, 5]);
  });

  test('within a flow requests go by arrival', () => {
    const order = new FairOrder();
    for (const id of [3, 1, 2]) arrive(order, id, 'one', 10);
    assert.deepEqual(ids(order), [1, 2, 3]);
  });

  test('who stops waiting loses what was left, who begins to wait is the last', () => {
    const order = new FairOrder();
    const gone = arrive(order, 1, 'a', 3 * QUANTUM);
    const [b, c] = [arrive(order, 2, 'b', QUANTUM), arrive(order, 3, 'c', QUANTUM)];
    assert.equal(order.take(b), true);
    assert.equal(order.remove(gone), true);
    assert.equal(order.remove(gone), false);
    arrive(order, 4, 'a', QUANTUM);
    assert.deepEqual(ids(order), [3, 4]);
    assert.equal(order.take(c), true);
    assert.equal(order.size, 1);
  });
});

describe('random arrivals', () => {
  const arrivals = fc.array(
    fc.record({
      flow: fc.nat(5),
      tokens: fc.oneof(fc.integer({ min: 2, max: 60 }), fc.integer({ min: 2, max: 4_000 })),
      /** What happens after it: so many requests go, and one leaves. */
      served: fc.nat(3),
      leaves: fc.option(fc.nat(20), { freq: 4 }),
    }),
    { minLength: 1, maxLength: 60 },
  );

  /** Plays arrivals; `onServed` sees each request that goes, and those that waited before it went. */
  function play(
    script: readonly { flow: number; tokens: number; served: number; leaves: number | null }[],
    onServed: (served: Sequence, waiting: readonly Sequence[]) => void,
  ): void {
    const order = new FairOrder();
    const waiting: Sequence[] = [];
    const serve = (): void => {
      const planned = [...order.order()];
      assert.deepEqual([...order.order()], planned, 'looking changes nothing');
      assert.equal(new Set(planned).size, waiting.length);
      const [next] = planned;
      if (next === undefined) return;
      onServed(next, waiting);
      order.take(next);
      waiting.splice(waiting.indexOf(next), 1);
      assert.deepEqual([...order.order()], planned.slice(1), 'what goes was foreseen');
    };
    script.forEach(({ flow, tokens, served, leaves }, id) => {
      waiting.push(arrive(order, id, `flow-${flow}`, tokens));
      for (let count = 0; count < served; count += 1) serve();
      const [left] = leaves === null ? [] : waiting.splice(leaves % Math.max(1, waiting.length), 1);
      if (left !== undefined) order.remove(left);
    });
    while (waiting.length > 0) serve();
  }

  test('no request waits, once first of its flow, for more tokens of others than the bound', () => {
    let nearest = 0;
    fc.assert(
      fc.property(arrivals, (script) => {
        const largest = Math.max(...script.map(({ tokens }) => tokens));
        const flows = new Set(script.map(({ flow }) => flow)).size;
        /** Tokens of other flows that went while this request was the first of its own. */
        const waited = new Map<Sequence, number>();
        play(script, (served, waiting) => {
          const size = costOf(served);
          const bound = (flows - 1) * (largest + size + QUANTUM) + QUANTUM;
          const tokens = waited.get(served) ?? 0;
          assert.ok(tokens <= bound, `waited for ${tokens} tokens, expected at most ${bound}`);
          nearest = Math.max(nearest, tokens / bound);
          const heads = new Map<string, Sequence>();
          for (const one of waiting) if (!heads.has(one.request.adapter)) heads.set(one.request.adapter, one);
          for (const head of heads.values()) {
            if (head.request.adapter !== served.request.adapter) waited.set(head, (waited.get(head) ?? 0) + size);
          }
        });
      }),
      { seed: SEED, numRuns: 400, includeErrorInReport: true },
    );
    assert.ok(nearest > 0.2, `the bound is of the right size: ${nearest}`);
  });
});

function costOf({ request }: Sequence): number {
  return request.promptIds.length + request.maxNewTokens;
}

const FLOOD_PROMPT = 500;
const PREFILL_ROWS = 32;

/** Steps that short requests on adapters of their own wait when they arrive `after` steps into a flood of long prompts. */
function waitInFlood(after: number): number {
  const harness = new Harness({
    maxSequences: 8,
    maxBatchTokens: 64,
    maxPrefillRows: PREFILL_ROWS,
    maxQueue: 200,
    kvBlocks: 4_096,
    maxModelLen: 600,
    prefixCache: false,
    speculation: false,
  });
  const enqueue = (id: number, adapter: string, prompt: number, maxNew: number, handle: number): void => {
    const request = makeRequest(id, prompt, maxNew, { adapter });
    harness.scheduler.enqueue(request, rowsOn(handle), harness.nowMs, SERVED_BY);
  };
  for (let id = 0; id < 100; id += 1) enqueue(id, 'flood', FLOOD_PROMPT, 12, 1);
  for (let steps = 0; steps < after; steps += 1) harness.step();
  const shorts = [200, 201, 202, 203];
  for (const id of shorts) enqueue(id, `short-${id}`, 8, 4, id);
  while (shorts.some((id) => harness.waitingIds().includes(id))) {
    const plan = harness.step();
    assert.ok(plan.decodeRows === 0 || plan.prefillRows <= PREFILL_ROWS, 'running rows wait for no more prompt rows');
  }
  assert.ok(harness.waitingIds().length >= 90, 'most of the flood still waits');
  return harness.nowMs - after;
}

test('a flood of long prompts on one adapter delays short requests on others by two prompts at most', () => {
  const waits = Array.from({ length: 20 }, (_, index) => waitInFlood(20 + index));
  // The prompt that is being read, and one more whose turn it was already.
  const most = 2 * Math.ceil(FLOOD_PROMPT / PREFILL_ROWS);
  assert.ok(Math.max(...waits) <= most, `waited ${waits} steps, expected at most ${most}`);
  assert.ok(Math.max(...waits) > 3, 'they do wait');
});
