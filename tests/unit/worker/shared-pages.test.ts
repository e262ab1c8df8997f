import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type AdapterLease, type AdapterRecord, createRecord } from '../../../src/adapters/adapter-record.js';
import { VersionStore } from '../../../src/adapters/version-store.js';
import { LoramuxError } from '../../../src/core/errors.js';
import { PagePool } from '../../../src/core/page-pool.js';
import type { SequenceEvent } from '../../../src/core/request.js';
import { checkBatch, checkSnapshot } from '../../../src/scheduler/invariants.js';
import { blocksFor, type SchedulerLimits } from '../../../src/scheduler/policy.js';
import { BASE_ROWS, oneAdapter, type RowAdapters } from '../../../src/scheduler/row-adapters.js';
import { Scheduler } from '../../../src/scheduler/scheduler.js';
import { FakeModel, soloRun, VOCABULARY } from '../scheduler/fake-model.js';
import { makeRequest, SERVED_BY } from '../scheduler/requests.js';

const SEED = 20_261_123;
const PAGE_BYTES = 1000;
const LAST_ARRIVAL = 40;
/** Milliseconds of a tick: a load is overdue after four. */
const TICK_MS = 600;

interface Scripted {
  readonly tick: number;
  readonly prompt: number;
  readonly maxNew: number;
  /** −1 = the base. */
  readonly adapter: number;
  /** Leaves so many ticks after it came; null = stays. */
  readonly leaves: number | null;
}

interface Scenario {
  readonly pages: number;
  readonly blockSize: number;
  readonly maxModelLen: number;
  readonly maxSequences: number;
  readonly prefixCache: boolean;
  /** Runs of pages that each adapter needs. */
  readonly adapters: readonly (readonly number[])[];
  /** The operator pins it once it is there. */
  readonly pinned: number | null;
  readonly requests: readonly Scripted[];
}

const scenario: fc.Arbitrary<Scenario> = fc
  .record({
    pages: fc.integer({ min: 8, max: 24 }),
    blockSize: fc.integer({ min: 1, max: 3 }),
    room: fc.double({ min: 0.2, max: 0.8, noNaN: true }),
    maxSequences: fc.integer({ min: 1, max: 5 }),
    prefixCache: fc.boolean(),
    adapters: fc.array(fc.array(fc.constantFrom(1, 1, 1, 2, 3), { minLength: 1, maxLength: 5 }), {
      minLength: 2,
      maxLength: 6,
      size: 'max',
    }),
    pinned: fc.option(fc.nat(5), { freq: 3 }),
    requests: fc.array(
      fc.record({
        tick: fc.nat(LAST_ARRIVAL),
        prompt: fc.integer({ min: 1, max: 16 }),
        maxNew: fc.integer({ min: 1, max: 14 }),
        adapter: fc.integer({ min: -1, max: 5 }),
        leaves: fc.option(fc.nat(15), { freq: 6 }),
      }),
      { minLength: 20, maxLength: 60, size: 'max' },
    ),
  })
  .map(({ room, ...rest }) => ({
    ...rest,
    maxModelLen: Math.max(2, Math.floor(room * (rest.pages - 1)) * rest.blockSize),
    requests: rest.requests.map((request) => ({
      ...request,
      adapter: Math.min(request.adapter, rest.adapters.length - 1),
    })),
  }));

/** What the random runs came across, so that a green run cannot mean that nothing happened. */
const met = {
  evictedForKv: 0,
  evictedForAdapters: 0,
  contentGivenToAdapters: 0,
  pagesToAdapters: 0,
  pagesToKv: 0,
  waitsForPages: 0,
  overdue: 0,
  preempted: 0,
  noSpace: 0,
  longRuns: 0,
};

/** Requests, loads and steps over one pool, tick by tick, as the worker's loop drives them. */
class World {
  readonly failed = new Map<number, string>();
  readonly rows = new Map<number, RowAdapters>();
  readonly tokens = new Map<number, number[]>();
  readonly ended = new Set<number>();
  readonly #scenario: Scenario;
  readonly #limits: SchedulerLimits;
  readonly #pool: PagePool;
  readonly #scheduler: Scheduler;
  readonly #model: FakeModel;
  readonly #store: VersionStore;
  readonly #records: AdapterRecord[];
  /** Requests without a lease on their adapter, by adapter. */
  readonly #waiting: Set<number>[];
  readonly #loading = new Set<number>();
  readonly #leases = new Map<number, AdapterLease>();
  readonly #leased = new Map<number, number>();
  /** By page: handle of the adapter in it, as the native side knows. */
  readonly #placed = new Map<number, number>();
  readonly #lastUse = new Map<number, 'kv' | 'adapter'>();
  #tick = 0;
  /** Blocks of the step in flight. */
  #inFlight = new Set<number>();
  #planning = false;
  #nextKey = 1;

  constructor(scenario: Scenario) {
    const { pages, blockSize, maxModelLen, maxSequences, prefixCache, adapters } = scenario;
    this.#scenario = scenario;
    this.#limits = {
      maxSequences,
      maxBatchTokens: maxSequences + 4,
      maxPrefillRows: 6,
      maxQueue: 1000,
      kvBlocks: pages,
      blockSize,
      maxModelLen,
      vocabSize: VOCABULARY,
      prefixCache,
      speculation: false,
    };
    this.#pool = new PagePool(pages);
    this.#scheduler = new Scheduler(this.#limits, this.#pool);
    this.#model = new FakeModel(blockSize);
    this.#store = new VersionStore({
      capacityBytes: (pages - blocksFor(maxModelLen, blockSize)) * PAGE_BYTES,
      pages: { pool: this.#pool, pageBytes: PAGE_BYTES },
      host: null,
      now: () => this.#tick * TICK_MS,
      releaseAdapter: (handle) => this.#release(handle),
      emit: (fact) => {
        if (fact.kind === 'adapter-evict') met[this.#planning ? 'evictedForKv' : 'evictedForAdapters'] += 1;
      },
    });
    this.#records = adapters.map((_, index) => createRecord(`a${index}`, { type: 'dir', location: `/${index}` }));
    this.#waiting = adapters.map(() => new Set());
  }

  /** Plays until nothing is left to do. */
  async play(): Promise<void> {
    const { requests } = this.#scenario;
    for (; this.#tick < 3_000; this.#tick += 1) {
      this.#changes();
      this.#wantAdapters();
      await settled();
      this.#store.gatherPages(this.#scheduler.counts().running);
      await this.#step();
      this.#check();
      if (this.#tick > LAST_ARRIVAL && this.ended.size === requests.length && this.#loading.size === 0) break;
    }
    assert.equal(this.ended.size, requests.length, 'every request ends');
    assert.deepEqual([this.#store.memory.length, this.#leases.size], [0, 0]);
    assert.equal(this.#scheduler.counts().usedBlocks, 0);
  }

  #changes(): void {
    for (const [id, { tick, prompt, maxNew, adapter, leaves }] of this.#scenario.requests.entries()) {
      if (tick === this.#tick) this.#arrive(id, prompt, maxNew, adapter);
      if (leaves !== null && tick + leaves === this.#tick && !this.ended.has(id)) {
        this.#scheduler.abort(id);
        this.#end(id);
      }
    }
  }

  #arrive(id: number, prompt: number, maxNew: number, adapter: number): void {
    try {
      this.#scheduler.enqueue(makeRequest(id, prompt, maxNew), adapter < 0 ? BASE_ROWS : null, this.#tick, SERVED_BY);
      this.tokens.set(id, []);
      if (adapter < 0) this.rows.set(id, BASE_ROWS);
      else this.#waiting[adapter]?.add(id);
    } catch (thrown) {
      assert.ok(thrown instanceof LoramuxError && prompt + maxNew > this.#limits.maxModelLen, `${thrown}`);
      this.ended.add(id);
    }
  }

  /** Requests take leases on what is there, and have the rest loaded. */
  #wantAdapters(): void {
    for (const [adapter, waiting] of this.#waiting.entries()) {
      const record = this.#records[adapter] as AdapterRecord;
      if (waiting.size === 0) continue;
      if (record.current === null) {
        if (!this.#loading.has(adapter)) void this.#load(adapter, record);
        continue;
      }
      if (!this.#store.mayLease()) {
        met.overdue += 1;
        continue;
      }
      for (const id of waiting) this.#lend(id, this.#store.lease(record, record.current, 'host'));
      waiting.clear();
    }
  }

  async #load(adapter: number, record: AdapterRecord): Promise<void> {
    this.#loading.add(adapter);
    const key = this.#nextKey++;
    const runs = (this.#scenario.adapters[adapter] as readonly number[]).toSorted((a, b) => b - a);
    const bytes = runs.reduce((sum, length) => sum + length, 0) * PAGE_BYTES;
    try {
      const before = this.#tick;
      const { cachedBlocks } = this.#scheduler.counts();
      const reserved = this.#store.memory.reserve(key, bytes, key, runs);
      met.contentGivenToAdapters += cachedBlocks - this.#scheduler.counts().cachedBlocks;
      const pages = await reserved;
      if (this.#tick > before) met.waitsForPages += 1;
      this.#place(key, pages, runs);
      await settled();
      const of = { key, handle: key, digest: `${adapter}`, variant: [], invocation: null, text: null, bytes };
      const waiting = [...(this.#waiting[adapter] as Set<number>)];
      this.#waiting[adapter]?.clear();
      if (adapter === this.#scenario.pinned) record.operatorPin = true;
      const version = { ...of, loadedAtMs: 0, retired: null };
      const leases = this.#store.publish(
        record,
        version,
        waiting.map(() => 'disk' as const),
      );
      for (const [at, id] of waiting.entries()) this.#lend(id, leases[at] as AdapterLease);
    } catch (thrown) {
      assert.ok(thrown instanceof LoramuxError && thrown.code === 'ERR_ADAPTER_NO_SPACE', `${thrown}`);
      met.noSpace += 1;
      for (const id of this.#waiting[adapter] as Set<number>) {
        this.#record([this.#scheduler.fail(id, thrown)].flatMap((event) => event ?? []));
        this.failed.set(id, thrown.code);
      }
      this.#waiting[adapter]?.clear();
    } finally {
      this.#loading.delete(adapter);
    }
  }

  /** As the native side: a page is one adapter's, runs are neighbours, and no step in flight reads it. */
  #place(handle: number, pages: readonly number[], runs: readonly number[]): void {
    assert.equal(
      pages.length,
      runs.reduce((sum, length) => sum + length, 0),
    );
    let at = 0;
    for (const length of runs) {
      const run = pages.slice(at, at + length);
      for (const [index, page] of run.entries()) assert.equal(page, (run[0] as number) + index, 'neighbours');
      if (length > 1) met.longRuns += 1;
      at += length;
    }
    for (const page of pages) {
      assert.ok(!this.#placed.has(page), `page ${page} is another adapter's`);
      assert.ok(!this.#inFlight.has(page), `a step in flight has page ${page}`);
      this.#placed.set(page, handle);
      if (this.#lastUse.get(page) === 'kv') met.pagesToAdapters += 1;
      this.#lastUse.set(page, 'adapter');
      this.#model.overwrite(page);
    }
  }

  #release(handle: number): void {
    assert.equal(this.#leased.get(handle) ?? 0, 0, `adapter ${handle} went under its leases`);
    for (const [page, owner] of this.#placed) if (owner === handle) this.#placed.delete(page);
  }

  #lend(id: number, lease: AdapterLease): void {
    this.#leases.set(id, lease);
    this.#leased.set(lease.handle, (this.#leased.get(lease.handle) ?? 0) + 1);
    this.rows.set(id, oneAdapter(lease.handle));
    this.#scheduler.adapterReady(id, oneAdapter(lease.handle));
  }

  async #step(): Promise<void> {
    this.#planning = true;
    const plan = this.#scheduler.plan(this.#tick);
    this.#planning = false;
    if (plan === null) return;
    met.preempted += plan.preempted.length;
    const batch = this.#scheduler.buildBatch(plan);
    assert.deepEqual(checkBatch(batch, plan, this.#limits), []);
    this.#inFlight = new Set([...batch.blockTables].filter((block) => block >= 0));
    for (const page of this.#inFlight) {
      assert.ok(!this.#placed.has(page), `block ${page} of a step holds an adapter`);
      if (this.#lastUse.get(page) === 'adapter') met.pagesToKv += 1;
      this.#lastUse.set(page, 'kv');
    }
    for (const { adapter } of batch.adapterTable.flat()) assert.ok([...this.#placed.values()].includes(adapter));
    const output = this.#model.run(batch);
    // Loads go on beside the step.
    this.#wantAdapters();
    this.#store.memory.pump();
    await settled();
    this.#inFlight.clear();
    this.#record(this.#scheduler.commit(plan, output, this.#tick));
  }

  #record(events: readonly SequenceEvent[]): void {
    for (const event of events) {
      if (event.kind === 'token') this.tokens.get(event.id)?.push(event.token);
      if (event.kind === 'finish' || event.kind === 'error') this.#end(event.id);
    }
  }

  #end(id: number): void {
    assert.ok(!this.ended.has(id), `request ${id} ends once`);
    this.ended.add(id);
    for (const waiting of this.#waiting) waiting.delete(id);
    const lease = this.#leases.get(id);
    this.#leases.delete(id);
    if (lease === undefined) return;
    this.#leased.set(lease.handle, (this.#leased.get(lease.handle) as number) - 1);
    lease.release();
  }

  #check(): void {
    const snapshot = this.#scheduler.snapshot();
    assert.deepEqual(checkSnapshot(snapshot), []);
    assert.deepEqual(this.#store.violations(), []);
    // What is neither the KV cache's nor free is an adapter's, or set aside for the one that waits first.
    const elsewhere = new Set(snapshot.elsewhereIds);
    for (const page of this.#placed.keys()) assert.ok(elsewhere.has(page), `page ${page} has two owners`);
    const most = this.#limits.kvBlocks - blocksFor(this.#limits.maxModelLen, this.#limits.blockSize);
    assert.ok(elsewhere.size <= most, `adapters have ${elsewhere.size} pages, ${most} at most are theirs`);
  }
}

/** Lets promises that nothing holds up go on. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 8; turn += 1) await Promise.resolve();
}

test('random runs over shared pages: every request ends, none is answered wrong, and no page is two things', async () => {
  await fc.assert(
    fc.asyncProperty(scenario, async (play) => {
      const world = new World(play);
      await world.play();
      for (const [id, { prompt, maxNew, leaves }] of play.requests.entries()) {
        const rows = world.rows.get(id);
        const tokens = world.tokens.get(id);
        if (rows === undefined || tokens === undefined) continue;
        const solo = soloRun(makeRequest(id, prompt, maxNew), rows).tokens;
        assert.deepEqual(tokens, leaves === null ? solo : solo.slice(0, tokens.length), `request ${id}`);
      }
    }),
    { seed: SEED, numRuns: 300, includeErrorInReport: true },
  );
  for (const [what, times] of Object.entries(met)) assert.ok(times >= 30, `${what} came up ${times} times`);
});
