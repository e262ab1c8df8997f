import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { LoramuxError } from '../../../src/core/errors.js';
import type { SequenceEvent, ServedBy } from '../../../src/core/request.js';
import type { StepOutput } from '../../../src/core/step.js';
import { checkBatch, checkSnapshot } from '../../../src/scheduler/invariants.js';
import { blocksFor, longPromptRows, maxScoredRows, type SchedulerLimits } from '../../../src/scheduler/policy.js';
import { BASE_ROWS, type RowAdapters, rowAdapters } from '../../../src/scheduler/row-adapters.js';
import { Scheduler } from '../../../src/scheduler/scheduler.js';
import type { SchedulerSnapshot } from '../../../src/scheduler/snapshot.js';
import { acceptedDraftsOf, type StepPlan } from '../../../src/scheduler/step-plan.js';
import { FakeModel, soloRun, soloScores, VOCABULARY } from './fake-model.js';
import { makeRequest } from './requests.js';

/** Fixed, so that a failure is the same for everyone; `fc.assert` prints the shrunk scenario. */
const SEED = 20_260_301;

/** When something happens to a request: before the plan of tick `tick`, or between its plan and its settlement. */
interface Moment {
  readonly tick: number;
  readonly midStep: boolean;
}

interface Scripted {
  readonly arrival: Moment;
  readonly prompt: number;
  /** Prompts of one family begin alike. */
  readonly family: number;
  readonly salt: string | null;
  readonly maxNew: number;
  readonly adapters: RowAdapters;
  /** Ticks until the adapter is there; 0 = it is at arrival. */
  readonly loadTicks: number;
  readonly loadFails: boolean;
  readonly stopId: number | null;
  readonly minNew: number;
  /** Alternatives beside the prompt's scores; null = the prompt is not scored. */
  readonly scores: number | null;
  readonly penalty: boolean;
  readonly abort: Moment | null;
}

interface Scenario {
  readonly limits: SchedulerLimits;
  /** Each step is planned, where that may be, while the one before it is in flight. */
  readonly ahead: boolean;
  readonly requests: readonly Scripted[];
  /** Ticks whose step fails. */
  readonly failingTicks: readonly number[];
  /** An adapter that is taken away, failing its requests. */
  readonly unload: { readonly moment: Moment; readonly adapter: number } | null;
}

/** A step that runs: what it comes to, or null where it fails. */
interface Launched {
  readonly plan: StepPlan;
  readonly output: StepOutput | null;
}

/** How one request fared. */
interface Outcome {
  readonly events: SequenceEvent[];
  aborted: boolean;
  refused: boolean;
  /** Tick of each event. */
  readonly ticks: number[];
}

const LAST_TICK = 25;
const moment = fc.record({ tick: fc.nat(LAST_TICK), midStep: fc.boolean() });

/** Blocks are so few that preemption is the rule; what is too long for them is refused at the door. */
const limits = fc
  .record({
    maxSequences: fc.integer({ min: 1, max: 5 }),
    spareRows: fc.nat(6),
    maxPrefillRows: fc.integer({ min: 1, max: 10 }),
    maxQueue: fc.integer({ min: 1, max: 12 }),
    kvBlocks: fc.integer({ min: 3, max: 14 }),
    blockSize: fc.integer({ min: 1, max: 4 }),
    prefixCache: fc.oneof({ weight: 4, arbitrary: fc.constant(true) }, fc.constant(false)),
    speculation: fc.boolean(),
    // A step may score any number of rows, or three, or one.
    vocabSize: fc.constantFrom(VOCABULARY, Math.floor(2 ** 24 / 3), 2 ** 24),
  })
  .map(({ spareRows, ...rest }) => ({
    ...rest,
    maxBatchTokens: rest.maxSequences + spareRows,
    maxModelLen: 20,
  }));

/** The base, one adapter, or up to three with weights; some begin within the prompt, or never. */
const terms = fc.uniqueArray(fc.record({ adapter: fc.nat(3), weight: fc.constantFrom(1, 1, 0.5, -0.1) }), {
  selector: ({ adapter }) => adapter,
  maxLength: 3,
});
const adapters = fc
  .record({
    terms,
    from: fc.oneof({ weight: 2, arbitrary: fc.constant(0) }, fc.nat(8), fc.constant(Number.POSITIVE_INFINITY)),
  })
  .map(({ terms, from }) => (terms.length === 0 ? BASE_ROWS : rowAdapters(terms, from)));

/** Requests come alone, or as several of the same prompt at once. */
const burst = (one: fc.Arbitrary<Scripted>): fc.Arbitrary<Scripted[]> =>
  fc
    .tuple(one, fc.oneof(fc.constant([]), fc.array(fc.integer({ min: 1, max: 10 }), { minLength: 1, maxLength: 3 })))
    .map(([first, twins]) => [first, ...twins.map((maxNew) => ({ ...first, maxNew, stopId: null, abort: null }))]);

const scripted: fc.Arbitrary<Scripted> = fc.record({
  arrival: moment,
  prompt: fc.integer({ min: 1, max: 10 }),
  family: fc.nat(1),
  salt: fc.constantFrom(null, null, null, 'a', 'b'),
  maxNew: fc.nat(10),
  adapters,
  loadTicks: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.integer({ min: 1, max: 12 })),
  loadFails: fc.oneof({ weight: 4, arbitrary: fc.constant(false) }, fc.constant(true)),
  stopId: fc.option(fc.nat(VOCABULARY - 1)),
  minNew: fc.nat(4),
  scores: fc.option(fc.nat(2), { freq: 2 }),
  penalty: fc.boolean(),
  abort: fc.option(moment, { freq: 5 }),
});

const scenario: fc.Arbitrary<Scenario> = fc.record({
  limits,
  ahead: fc.boolean(),
  requests: fc.array(burst(scripted), { minLength: 1, maxLength: 8 }).map((bursts) => bursts.flat()),
  failingTicks: fc.array(fc.nat(40), { maxLength: 2 }),
  unload: fc.option(fc.record({ moment, adapter: fc.integer({ min: 0, max: 3 }) }), { freq: 5 }),
});

/** What the random runs came across, so that a green run cannot mean that nothing happened. */
const met = {
  splits: 0,
  lists: 0,
  preempted: 0,
  midStepAborts: 0,
  failedSteps: 0,
  refused: 0,
  mixedSteps: 0,
  chunks: 0,
  cacheHits: 0,
  sharedBlocks: 0,
  setAside: 0,
  longChunks: 0,
  failedLoads: 0,
  scored: 0,
  fullOfScores: 0,
  drafted: 0,
  accepted: 0,
  ahead: 0,
  admittedAhead: 0,
  waits: 0,
  rowsInVain: 0,
  failedBefore: 0,
  failedBehind: 0,
  replacedBlocks: 0,
};

/** Plays a scenario tick by tick, checking every law of a step as it goes. */
class Run {
  readonly outcomes: Outcome[];
  readonly scheduler: Scheduler;
  readonly #scenario: Scenario;
  readonly #model: FakeModel;
  #tick = 0;

  constructor(scenarioToPlay: Scenario) {
    this.#scenario = scenarioToPlay;
    this.scheduler = new Scheduler(scenarioToPlay.limits);
    this.#model = new FakeModel(scenarioToPlay.limits.blockSize);
    this.outcomes = scenarioToPlay.requests.map(() => ({ events: [], aborted: false, refused: false, ticks: [] }));
  }

  /**
   * Nobody starves: the sequence admitted longest ago is never preempted and advances by a row in every step, so once
   * nothing new happens, as many steps suffice as there are tokens.
   */
  play(): void {
    const { requests } = this.#scenario;
    const tokens = requests.reduce((sum, { prompt, maxNew }) => sum + prompt + maxNew, 0);
    const lastChange = LAST_TICK + Math.max(...requests.map(({ loadTicks }) => loadTicks));
    // A row in vain takes a step of its own at worst.
    const lastTick = lastChange + tokens + requests.length;
    let inFlight: Launched | null = null;
    for (; this.#tick <= lastTick; this.#tick += 1) {
      this.#changes(false);
      inFlight ??= this.#launch(this.#plan(), this.#tick);
      const behind: Launched | null = inFlight === null ? null : this.#launch(this.#planAhead(), this.#tick + 1);
      this.#changes(true);
      if (inFlight !== null) this.#settle(inFlight, behind);
      inFlight = behind;
      this.#checkSnapshot();
      if (this.#tick > lastChange && inFlight === null && this.scheduler.snapshot().liveIds.length === 0) break;
    }
    const { waiting, running, usedBlocks } = this.scheduler.counts();
    assert.deepEqual({ waiting, running, usedBlocks }, { waiting: 0, running: 0, usedBlocks: 0 }, 'nothing is left');
    assert.equal(this.scheduler.snapshot().freeSlots, this.#scenario.limits.maxSequences);
  }

  #plan(): StepPlan | null {
    const before = this.scheduler.snapshot();
    const counts = this.#sequenceCounts();
    const plan = this.scheduler.plan(this.#tick);
    assert.deepEqual(this.#sequenceCounts(), counts, 'planning changes no count of sequences');
    assert.deepEqual(withoutPlan(this.scheduler.snapshot()), withoutPlan(before), 'planning changes no sequence');
    this.#checkSnapshot();
    if (plan === null) assert.equal(before.running.length + before.waiting.length, 0, 'idle only without work');
    else this.#checkBatchingLaw(plan, before);
    return plan;
  }

  #planAhead(): StepPlan | null {
    if (!this.#scenario.ahead) return null;
    const plan = this.scheduler.planAhead(this.#tick);
    this.#checkSnapshot();
    if (plan === null) {
      met.waits += 1;
      return null;
    }
    assert.equal(plan.preempted.length, 0, 'nobody is preempted ahead');
    assert.equal(plan.draftRows, 0, 'nothing is guessed behind what is not known');
    met.ahead += 1;
    if (plan.admitted.length > 0) met.admittedAhead += 1;
    // A plan changes nothing but who holds blocks, so this is what it was made from.
    this.#checkBatchingLaw(plan, this.scheduler.snapshot());
    return plan;
  }

  #sequenceCounts() {
    const { usedBlocks, cachedBlocks, ...rest } = this.scheduler.counts();
    return rest;
  }

  /** Runs a step that is to be settled at `tick`. */
  #launch(plan: StepPlan | null, tick: number): Launched | null {
    if (plan === null) return null;
    const batch = this.scheduler.buildBatch(plan);
    assert.deepEqual(checkBatch(batch, plan, this.#scenario.limits), []);
    met.preempted += plan.preempted.length;
    if (plan.scoredRows === maxScoredRows(this.#scenario.limits.vocabSize)) met.fullOfScores += 1;
    if (plan.entries.some((entry) => entry.baseCount > 0)) met.splits += 1;
    if (batch.adapterTable.some((list) => list.length > 1)) met.lists += 1;
    if (plan.decodeRows > 0 && plan.prefillRows > 0) met.mixedSteps += 1;
    if (plan.entries.some((entry) => !entry.samples)) met.chunks += 1;
    if (plan.cachedTokens > 0) met.cacheHits += 1;
    if (this.scheduler.snapshot().blockHolders.some((holders) => holders > 1)) met.sharedBlocks += 1;
    if (!this.#scenario.failingTicks.includes(tick)) return { plan, output: this.#model.run(batch) };
    met.failedSteps += 1;
    this.#model.runAndFail(batch);
    return { plan, output: null };
  }

  #settle({ plan, output }: Launched, behind: Launched | null): void {
    this.#checkSnapshot();
    if (output === null) {
      if (behind !== null) met.failedBefore += 1;
      this.#record(this.scheduler.rollback(plan, { code: 'ERR_STEP_FAILED', message: 'scripted' }));
    } else {
      if (behind?.output === null) met.failedBehind += 1;
      met.drafted += plan.draftRows;
      met.accepted += acceptedDraftsOf(plan, output.tokens);
      this.#record(this.scheduler.commit(plan, output, this.#tick));
    }
    if (behind === null) return;
    met.rowsInVain += behind.plan.entries.filter(({ sequence }) => sequence.ended).length;
    met.replacedBlocks += this.scheduler.snapshot().replacedBlocks.length;
  }

  /**
   * A step is no larger than allowed and no smaller than possible: whatever is left out was stopped by a limit, or waits
   * for a prefill to fill a block that it needs.
   */
  #checkBatchingLaw(plan: StepPlan, before: SchedulerSnapshot): void {
    const { maxBatchTokens, maxPrefillRows, kvBlocks, blockSize } = before.limits;
    const { decodeRows } = plan;
    const allowed = decodeRows === 0 ? maxBatchTokens : Math.min(maxBatchTokens, decodeRows + maxPrefillRows);
    assert.ok(plan.rows <= allowed);
    const rows = new Map(plan.entries.map((entry) => [entry.sequence.id, entry.count - entry.drafts.length]));
    assert.ok(before.limits.speculation || plan.draftRows === 0, 'no drafts unless asked for');
    const outOfScores = plan.scoredRows === maxScoredRows(before.limits.vocabSize);
    const preempted = new Set(plan.preemptedIds);
    const kept = before.running.filter(({ id }) => !preempted.has(id));
    const long = this.#longRows(plan);
    for (const { id, computed, prefillLength, prefillStart, promptLength, end, scored, ended } of kept) {
      const most = this.#scenario.requests[id]?.maxNew as number;
      if (ended || (computed >= prefillLength && end - promptLength >= most))
        assert.equal(rows.has(id), false, 'what ends has no row');
      else if (computed >= prefillLength)
        assert.equal(rows.get(id), 1, 'every running sequence past its prefill decodes');
      else if (plan.rows < allowed && (scored === null || !outOfScores)) {
        const isLong = decodeRows > 0 && prefillLength - prefillStart > maxPrefillRows;
        const count = isLong ? Math.min(long.each, prefillLength - computed) : prefillLength - computed;
        if (!isLong || !long.usedUp) assert.equal(rows.get(id), count, 'prefills use what is left for them');
      }
    }
    const last = before.running.at(-preempted.size - 1);
    assert.deepEqual(kept.at(-1), preempted.size > 0 ? last : before.running.at(-1), 'the most recent are preempted');

    const admitted = plan.admitted.map(({ sequence }) => sequence.id);
    const order = before.waiting.map(({ id }) => id);
    assert.deepEqual(
      admitted,
      order.filter((id) => admitted.includes(id)),
      'admission in queue order',
    );
    const next = before.waiting.find(({ id }) => !admitted.includes(id));
    if (next === undefined) return;
    const overtaking = plan.admitted.slice(order.indexOf(next.id));
    assert.ok(
      overtaking.every(({ sequence, start, count }) => start + count === sequence.length),
      'what overtakes is done with its prefill',
    );
    if (plan.rows === allowed || preempted.size > 0) return;
    const held = new Set([
      ...kept.flatMap(({ blocks }) => blocks),
      ...before.replacedBlocks,
      ...plan.entries.flatMap((entry) => entry.newBlocks),
    ]);
    const outOfSlots = before.freeSlots === admitted.length;
    const outOfBlocks = blocksFor(next.length, blockSize) > kvBlocks - held.size;
    if (outOfSlots || outOfBlocks || long.usedUp || (outOfScores && next.scored !== null)) return;
    const prefilling = plan.entries.filter(({ phase }) => phase === 'prefill').map(({ sequence }) => sequence.id);
    const unsettled = kept.filter(({ settled, computed }) => settled < computed).map(({ id }) => id);
    const leader = [...prefilling, ...unsettled].find((id) => this.#beginAlike(id, next.id, blockSize));
    assert.ok(leader !== undefined, `request ${next.id} could have been admitted`);
    met.setAside += 1;
  }

  /** Holds a step to what it may have of prompts that are longer than all prefill rows of a step that decodes. */
  #longRows({ decodeRows, entries }: StepPlan): { each: number; usedUp: boolean } {
    const { maxPrefillRows } = this.#scenario.limits;
    if (decodeRows === 0) return { each: Number.POSITIVE_INFINITY, usedUp: false };
    const { each, together } = longPromptRows(maxPrefillRows);
    const long = entries.filter(({ phase, sequence, start }) => {
      const from = sequence.slot < 0 ? start : sequence.prefillStart;
      return phase === 'prefill' && sequence.length - from > maxPrefillRows;
    });
    const taken = long.reduce((sum, { count }) => sum + count, 0);
    assert.ok(taken <= together, 'long prompts leave rows to others');
    assert.ok(
      long.every(({ count }) => count <= each),
      'a long prompt takes its share at most',
    );
    if (long.length > 0) met.longChunks += 1;
    return { each, usedUp: taken === together };
  }

  /** True when the first block of both holds the same tokens under the same salt. */
  #beginAlike(one: number, other: number, blockSize: number): boolean {
    const [a, b] = [one, other].map((id) => toRequest(id, this.#scenario.requests[id] as Scripted));
    if (a === undefined || b === undefined) return false;
    const shared = Math.min(blockSize, a.promptIds.length, b.promptIds.length);
    const same = (length: number) => a.promptIds.slice(0, length).join() === b.promptIds.slice(0, length).join();
    return this.#scenario.limits.prefixCache && a.cacheSalt === b.cacheSalt && same(shared);
  }

  /** Everything from outside that is scripted for this moment. */
  #changes(midStep: boolean): void {
    const now = ({ tick, midStep: mid }: Moment) => tick === this.#tick && mid === midStep;
    const { requests, unload } = this.#scenario;
    for (const [id, request] of requests.entries()) {
      const outcome = this.outcomes[id] as Outcome;
      if (now(request.arrival)) this.#arrive(id, request, outcome);
      const { loadTicks, arrival } = request;
      if (loadTicks > 0 && now({ ...arrival, tick: arrival.tick + loadTicks })) this.#loaded(id, request);
      if (request.abort !== null && now(request.abort) && this.scheduler.abort(id)) {
        outcome.aborted = true;
        if (midStep) met.midStepAborts += 1;
      }
    }
    if (unload !== null && now(unload.moment)) {
      this.#record(this.scheduler.failByAdapter(unload.adapter, { code: 'ERR_ADAPTER_UNLOADED', message: 'scripted' }));
    }
  }

  #arrive(id: number, request: Scripted, outcome: Outcome): void {
    const { kvBlocks, blockSize, maxModelLen, maxQueue } = this.#scenario.limits;
    const { prompt, maxNew, scores } = request;
    const senseless = maxNew === 0 && scores === null;
    const tooLong =
      prompt + maxNew > maxModelLen || blocksFor(Math.max(prompt, prompt + maxNew - 1), blockSize) > kvBlocks;
    const full = this.scheduler.counts().waiting >= maxQueue;
    try {
      const adapter = request.loadTicks > 0 ? null : request.adapters;
      this.scheduler.enqueue(toRequest(id, request), adapter, this.#tick, servedBy(id));
      assert.ok(!senseless && !tooLong && !full, 'what cannot fit or wait is refused');
    } catch (error) {
      assert.ok(error instanceof LoramuxError);
      const wrong = senseless ? 'ERR_VALIDATION' : 'ERR_PROMPT_TOO_LONG';
      assert.equal(error.code, senseless || tooLong ? wrong : 'ERR_QUEUE_FULL');
      assert.ok(senseless || tooLong || full, 'what fits and may wait is accepted');
      outcome.refused = true;
      met.refused += 1;
    }
  }

  #loaded(id: number, request: Scripted): void {
    if (!request.loadFails) {
      this.scheduler.adapterReady(id, request.adapters);
      return;
    }
    const event = this.scheduler.fail(id, { code: 'ERR_ADAPTER_INVALID', message: 'scripted' });
    if (event === null) return;
    met.failedLoads += 1;
    this.#record([event]);
  }

  #record(events: readonly SequenceEvent[]): void {
    for (const event of events) {
      const outcome = this.outcomes[event.id] as Outcome;
      assert.equal(outcome.aborted, false, `no event after request ${event.id} was aborted`);
      outcome.events.push(event);
      outcome.ticks.push(this.#tick);
    }
  }

  #checkSnapshot(): void {
    assert.deepEqual(checkSnapshot(this.scheduler.snapshot()), []);
  }
}

function toRequest(id: number, { prompt, family, salt, maxNew, minNew, stopId, penalty, scores }: Scripted) {
  const promptIds = Uint32Array.from({ length: prompt }, (_, index) => (family * 5 + index * 3) % 20);
  // Some end in a token of their own.
  if (id % 3 === 0) promptIds[prompt - 1] = 20 + (id % 2);
  const stopIds = stopId === null ? [] : [stopId];
  const adapter = `flow-${id % 4}`;
  const promptLogprobs = scores === null ? null : { top: scores };
  const rest = { adapter, promptIds, promptLogprobs, cacheSalt: salt, stopIds, minNewTokens: Math.min(minNew, maxNew) };
  const request = makeRequest(id, prompt, maxNew, rest);
  return { ...request, sampling: { ...request.sampling, repetitionPenalty: penalty ? 1.2 : 1 } };
}

function servedBy(id: number): ServedBy {
  return { adapter: `adapter-${id}`, digest: null, tierAtArrival: 'disk' };
}

/** A snapshot without what a plan may touch: its marks, and who holds which blocks. */
function withoutPlan(snapshot: SchedulerSnapshot) {
  const plain = (sequences: SchedulerSnapshot['running']) =>
    sequences.map((sequence) => ({ ...sequence, inFlight: false }));
  return {
    ...snapshot,
    plansInFlight: 0,
    plannedBlocks: [],
    writtenBlocks: [],
    preemptedIds: [],
    blankBlockIds: [],
    cachedBlockIds: [],
    publishedBlockIds: [],
    blockHolders: [],
    usedBlocks: 0,
    running: plain(snapshot.running),
    waiting: plain(snapshot.waiting),
    waitingForAdapter: plain(snapshot.waitingForAdapter),
  };
}

/** Each request got what it would have got alone, or a true beginning of it, and one terminal event at most. */
function checkOutcome(id: number, request: Scripted, outcome: Outcome, ahead: boolean): void {
  const kinds = outcome.events.map((event) => event.kind);
  const terminal = kinds.filter((kind) => kind === 'finish' || kind === 'error');
  if (outcome.refused) {
    assert.deepEqual(kinds, [], 'a refused request hears nothing more');
    return;
  }
  assert.equal(terminal.length, outcome.aborted ? 0 : 1, `terminal events of request ${id}: ${kinds}`);
  if (!outcome.aborted) assert.equal(kinds.at(-1), terminal[0], 'the terminal event is the last');

  const solo = soloRun(toRequest(id, request), request.adapters);
  const tokens = outcome.events.flatMap((event) => (event.kind === 'token' ? [event.token] : []));
  const finish = outcome.events.find((event) => event.kind === 'finish');
  assert.deepEqual(tokens, finish === undefined ? solo.tokens.slice(0, tokens.length) : solo.tokens);
  if (finish !== undefined) assert.equal(finish.reason, solo.reason);
  checkScores(id, request, outcome, tokens.length > 0 || finish !== undefined);

  assert.equal(kinds.lastIndexOf('admitted'), tokens.length > 0 || kinds.includes('admitted') ? 0 : -1);
  const [admitted] = outcome.events;
  if (admitted?.kind !== 'admitted') return;
  assert.deepEqual(admitted.servedBy, servedBy(id));
  const planned = outcome.ticks[0] as number;
  assert.ok(
    admitted.atMs === planned || (ahead && admitted.atMs === planned - 1),
    'admitted at the time of its first plan',
  );
}

/** A prompt is scored once, before the first token, as it would be alone; `due` = it must have come by now. */
function checkScores(id: number, request: Scripted, { events }: Outcome, due: boolean): void {
  const reports = events.flatMap((event) => (event.kind === 'prompt' ? [event.prompt] : []));
  if (request.scores === null) assert.equal(reports.length, 0, 'no scores unless asked for');
  else if (due) assert.equal(reports.length, 1, 'scores came');
  assert.ok(reports.length <= 1, 'scores come once');
  const [report] = reports;
  if (report === undefined) return;
  met.scored += 1;
  assert.equal(
    events.findIndex(({ kind }) => kind === 'prompt'),
    1,
    'scores follow admission',
  );
  const wanted = soloScores(toRequest(id, request), request.adapters);
  assert.deepEqual(report.logprobs, Float32Array.from(wanted));
  const lists = report.top?.map(({ ids }) => ids.length) ?? [];
  assert.deepEqual(lists, request.scores === 0 ? [] : wanted.map((_, at) => (at === 0 ? 0 : request.scores)));
}

test('random runs: every request answers as if alone, one terminal event each, nothing left behind', () => {
  fc.assert(
    fc.property(scenario, (play) => {
      const run = new Run(play);
      run.play();
      for (const [id, request] of play.requests.entries())
        checkOutcome(id, request, run.outcomes[id] as Outcome, play.ahead);
    }),
    { seed: SEED, numRuns: 800, includeErrorInReport: true },
  );
  for (const [what, times] of Object.entries(met)) assert.ok(times >= 50, `${what} came up ${times} times`);
});

test('random runs: requests whose adapter never comes change nothing for the others', () => {
  const onlyReady = scripted.map((request) => ({ ...request, loadTicks: 0, loadFails: false }));
  const scenarios = fc.record({
    limits: limits.map((drawn) => ({ ...drawn, maxQueue: 100 })),
    ahead: fc.boolean(),
    requests: fc.array(burst(onlyReady), { minLength: 1, maxLength: 6 }).map((bursts) => bursts.flat()),
    stuck: fc.array(scripted, { minLength: 1, maxLength: 10 }),
  });
  fc.assert(
    fc.property(scenarios, ({ stuck, ...play }) => {
      const quiet = { ...play, failingTicks: [], unload: null };
      const alone = new Run(quiet);
      alone.play();
      // Still loading when all else is done; then the load fails.
      const loadTicks = 500;
      const never = stuck.map((request) => ({ ...request, loadTicks, loadFails: true, abort: null }));
      const beside = new Run({ ...quiet, requests: [...play.requests, ...never] });
      beside.play();
      assert.deepEqual(beside.outcomes.slice(0, play.requests.length), alone.outcomes);
    }),
    { seed: SEED, numRuns: 60 },
  );
});
