import assert from 'node:assert/strict';
import {
  type GenerateRequest,
  GREEDY_SAMPLING,
  PLAIN_REQUEST,
  type SequenceEvent,
  type ServedBy,
} from '../../../src/core/request.js';
import { checkBatch, checkSnapshot } from '../../../src/scheduler/invariants.js';
import type { SchedulerLimits } from '../../../src/scheduler/policy.js';
import { BASE_ROWS, oneAdapter, type RowAdapters } from '../../../src/scheduler/row-adapters.js';
import { Scheduler } from '../../../src/scheduler/scheduler.js';
import type { StepPlan } from '../../../src/scheduler/step-plan.js';
import { FakeModel, VOCABULARY } from './fake-model.js';

export const SERVED_BY: ServedBy = { adapter: '__base__', digest: null, tierAtArrival: null };

/** A request with a prompt of `prompt` tokens, distinct by id. */
export function makeRequest(
  id: number,
  prompt: number,
  maxNewTokens: number,
  rest: Partial<GenerateRequest> = {},
): GenerateRequest {
  return {
    id,
    adapter: '__base__',
    promptIds: Uint32Array.from({ length: prompt }, (_, index) => (id * 7 + index * 3) % 20),
    maxNewTokens,
    stopIds: [],
    sampling: GREEDY_SAMPLING,
    ...PLAIN_REQUEST,
    ...rest,
  };
}

export function makeLimits(rest: Partial<SchedulerLimits> = {}): SchedulerLimits {
  return {
    maxSequences: 4,
    maxBatchTokens: 16,
    maxPrefillRows: 1_000,
    maxQueue: 8,
    kvBlocks: 32,
    blockSize: 4,
    maxModelLen: 64,
    vocabSize: VOCABULARY,
    prefixCache: true,
    speculation: false,
    ...rest,
  };
}

/** A handle, −1 for the base, null for an adapter that is loading. */
export function rowsOn(adapter: RowAdapters | number | null): RowAdapters | null {
  if (typeof adapter !== 'number') return adapter;
  return adapter < 0 ? BASE_ROWS : oneAdapter(adapter);
}

/** A scheduler with a fake model behind it; checks the invariants around every step. */
export class Harness {
  readonly limits: SchedulerLimits;
  readonly scheduler: Scheduler;
  readonly model: FakeModel;
  readonly events: SequenceEvent[] = [];
  nowMs = 0;

  constructor(limits: Partial<SchedulerLimits> = {}) {
    this.limits = makeLimits(limits);
    this.scheduler = new Scheduler(this.limits);
    this.model = new FakeModel(this.limits.blockSize);
  }

  enqueue(id: number, prompt: number, maxNew: number, adapter: RowAdapters | number | null = -1): void {
    this.scheduler.enqueue(makeRequest(id, prompt, maxNew), rowsOn(adapter), this.nowMs, SERVED_BY);
  }

  /** Plans and runs one step; `during` is called between plan and commit. */
  step(during: (plan: StepPlan) => void = () => {}): StepPlan {
    const plan = this.scheduler.plan(this.nowMs);
    assert.ok(plan, 'something can run');
    const batch = this.scheduler.buildBatch(plan);
    assert.deepEqual(checkBatch(batch, plan, this.limits), []);
    during(plan);
    const output = this.model.run(batch);
    this.nowMs += 1;
    this.events.push(...this.scheduler.commit(plan, output, this.nowMs));
    this.check();
    return plan;
  }

  runToEnd(): void {
    for (let steps = 0; this.scheduler.counts().running + this.scheduler.counts().waiting > 0; steps += 1) {
      assert.ok(steps < 10_000, 'comes to an end');
      this.step();
    }
  }

  check(): void {
    assert.deepEqual(checkSnapshot(this.scheduler.snapshot()), []);
  }

  eventsOf(id: number): SequenceEvent[] {
    return this.events.filter((event) => event.id === id);
  }

  tokensOf(id: number): number[] {
    return this.eventsOf(id).flatMap((event) => (event.kind === 'token' ? [event.token] : []));
  }

  runningIds(): number[] {
    return this.scheduler.snapshot().running.map((sequence) => sequence.id);
  }

  waitingIds(): number[] {
    return this.scheduler.snapshot().waiting.map((sequence) => sequence.id);
  }
}

/** `id:count` of each entry in row order, prefill rows marked `p`: what a step holds at a glance. */
export function rowsOf(plan: StepPlan): string {
  return plan.entries
    .map((entry) => `${entry.sequence.id}:${entry.phase === 'prefill' ? 'p' : ''}${entry.count}`)
    .join(' ');
}
