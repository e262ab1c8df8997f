import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { StepBatch } from '../../../src/core/step.js';
import { checkBatch, checkSnapshot } from '../../../src/scheduler/invariants.js';
import { BASE_ROWS } from '../../../src/scheduler/row-adapters.js';
import type { SchedulerSnapshot, SequenceSnapshot } from '../../../src/scheduler/snapshot.js';
import { Harness } from './requests.js';

function busyHarness(): Harness {
  const harness = new Harness({ maxSequences: 2 });
  harness.enqueue(1, 5, 9, 3);
  harness.enqueue(2, 3, 9, -1);
  harness.enqueue(3, 3, 9, -1);
  harness.enqueue(4, 3, 9, null);
  harness.step();
  return harness;
}

test('every broken snapshot is noticed', () => {
  const good = busyHarness().scheduler.snapshot();
  assert.deepEqual(checkSnapshot(good), []);
  const [first, second] = good.running as readonly [SequenceSnapshot, SequenceSnapshot];
  const withFirst = (change: Partial<SequenceSnapshot>) => ({ ...good, running: [{ ...first, ...change }, second] });
  const [waiting] = good.waiting as readonly [SequenceSnapshot];
  const broken: readonly [string, SchedulerSnapshot, RegExp][] = [
    ['a lost block', { ...good, blankBlockIds: good.blankBlockIds.slice(1) }, /held, blank, cached and elsewhere/],
    ['a wrong count', { ...good, usedBlocks: good.usedBlocks - 1 }, /used blocks/],
    [
      'a block of two sequences that was not published',
      withFirst({ blocks: [second.blocks[0] as number, second.blocks[0] as number] }),
      /has 3 holders, yet is not published/,
    ],
    ['a holder too many', { ...good, blockHolders: good.blockHolders.with(0, 2) }, /holders of each block/],
    [
      'a block both held and blank',
      { ...good, blankBlockIds: [...good.blankBlockIds, 0] },
      /held, blank, cached and elsewhere/,
    ],
    ['a block both held and cached', { ...good, cachedBlockIds: [0] }, /held, blank, cached and elsewhere/],
    ['a write to a published block', { ...good, writtenBlocks: [first.published[0] as number] }, /shared, yet written/],
    [
      'a write to a cached block',
      { ...good, writtenBlocks: [7], publishedBlockIds: [...good.publishedBlockIds, 7] },
      /shared, yet written/,
    ],
    ['a full block not published', withFirst({ published: [] }), /published blocks of sequence 1/],
    [
      'blocks kept with the cache off',
      { ...good, limits: { ...good.limits, prefixCache: false }, cachedBlockIds: [7] },
      /nothing is cached/,
    ],
    ['a block too few', withFirst({ blocks: first.blocks.slice(1) }), /blocks of sequence 1/],
    ['a block that does not exist', withFirst({ blocks: [0, 99] }), /held, blank, cached and elsewhere/],
    ['a shared slot', withFirst({ slot: second.slot }), /distinct slots/],
    ['a slot out of range', withFirst({ slot: 2 }), /slots are 0/],
    ['a lost slot', { ...good, freeSlots: 1 }, /taken \+ free slots/],
    ['too many running', { ...good, limits: { ...good.limits, maxSequences: 1 } }, /at most 1 run/],
    ['a sequence twice', { ...good, waiting: [waiting, { ...waiting }] }, /distinct sequences/],
    ['a sequence lost', { ...good, waiting: [] }, /live requests/],
    ['an ended sequence kept', withFirst({ ended: true }), /ended, yet is held/],
    ['in flight without a plan', withFirst({ inFlight: true }), /without a plan/],
    ['out of order', { ...good, running: [second, first] }, /by admission/],
    ['tokens skipped', withFirst({ computed: 4 }), /prefilling sequence 1/],
    ['tokens ahead', withFirst({ computed: 6 }), /computed tokens of decoding sequence 1/],
    ['a waiting sequence with a slot', { ...good, waiting: [{ ...waiting, slot: 1 }] }, /holds nothing/],
    ['runnable without an adapter', { ...good, waiting: [{ ...waiting, adapters: null }] }, /without an adapter/],
    [
      'waiting for nothing',
      { ...good, waitingForAdapter: good.waitingForAdapter.map((sequence) => ({ ...sequence, adapters: BASE_ROWS })) },
      /waits for an adapter that it has/,
    ],
  ];
  for (const [what, snapshot, pattern] of broken) {
    assert.match(checkSnapshot(snapshot).join('\n'), pattern, what);
  }
});

test('every broken batch is noticed', () => {
  const harness = busyHarness();
  harness.step((plan) => {
    const good = harness.scheduler.buildBatch(plan);
    const copy = (array: Int32Array, index: number, value: number) => array.with(index, value);
    const broken: readonly [Partial<StepBatch>, RegExp][] = [
      [{ tokens: copy(good.tokens, 0, 21) }, /sequence 2: tokens/],
      [{ cuSeqlens: copy(good.cuSeqlens, 1, 2) }, /cuSeqlens/],
      [{ contextLens: copy(good.contextLens, 1, 9) }, /contextLens/],
      [{ blockTables: copy(good.blockTables, 0, 7) }, /sequence 2: block table/],
      [{ slotMapping: copy(good.slotMapping, 0, good.slotMapping[1] as number) }, /distinct K\/V places/],
      [{ slotMapping: copy(good.slotMapping, 1, 99) }, /sequence 1: slotMapping/],
      [{ segmentIndptr: copy(good.segmentIndptr, 1, 0) }, /segmentIndptr/],
      [{ segmentAdapters: copy(good.segmentAdapters, 0, 0) }, /segmentAdapters/],
      [{ adapterTable: [[{ adapter: 4, weight: 1 }]] }, /adapterTable/],
      [{ adapterTable: [[{ adapter: 3, weight: 0.5 }]] }, /adapterTable/],
      [{ logitsRows: copy(good.logitsRows, 0, 1) }, /logitsRows/],
      [{ sampling: good.sampling.toReversed() }, /sampled slot/],
      [{ sampling: [] }, /length of sampling/],
    ];
    for (const [change, pattern] of broken) {
      assert.match(checkBatch({ ...good, ...change }, plan, harness.limits).join('\n'), pattern);
    }
    assert.match(checkBatch(good, plan, { ...harness.limits, maxBatchTokens: 1 }).join('\n'), /1 … 1 rows, got 2/);
  });
});
