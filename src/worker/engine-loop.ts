import type { AdapterRegistry } from '../adapters/registry.js';
import type { AdminCall, AdminReply, EngineState } from '../core/adapter-admin.js';
import type { Constraint } from '../core/constraint.js';
import { LoramuxError, toLoramuxError } from '../core/errors.js';
import type { GenerateRequest, SequenceEvent } from '../core/request.js';
import { NO_CONSTRAINT, type StepBatch, type StepOutput } from '../core/step.js';
import type { Telemetry } from '../core/telemetry.js';
import type { NativeEngine } from '../engine/binding.js';
import { packEvents } from '../messages/packed-events.js';
import type { FromWorker, ToWorker } from '../messages/worker-messages.js';
import { BASE_ROWS, oneAdapter } from '../scheduler/row-adapters.js';
import type { Scheduler } from '../scheduler/scheduler.js';
import { acceptedDraftsOf, type StepPlan } from '../scheduler/step-plan.js';
import { type Claim, claim, notYetServedBy, tryClaim } from './claim.js';
import { ConstraintCompiler } from './constraint-compiler.js';
import { LeaseBook } from './lease-book.js';
import { ProbeBook } from './probe-book.js';
import { returnedLogits } from './returned-logits.js';

/** Steps that may fail one after another before the engine is given up. */
const MAX_FAILED_STEPS = 3;

export interface EngineLoopDeps {
  readonly engine: NativeEngine;
  readonly scheduler: Scheduler;
  readonly registry: AdapterRegistry;
  readonly post: (message: FromWorker) => void;
  /** Milliseconds on a clock that never runs backwards. */
  readonly now: () => number;
  /**
   * Shown the logits [V] behind every token before it is committed; valid during the call. Makes each step copy them
   * all, so for checks only.
   */
  readonly onLogits?: ((requestId: number, logits: Float32Array) => void) | undefined;
  /** Hand the engine the next step, where that may be planned, while it is at one. */
  readonly launchAhead: boolean;
}

/** A step that the engine has or soon has. */
interface Launched {
  readonly plan: StepPlan;
  readonly startedMs: number;
  readonly done: Promise<StepDone>;
}

interface StepDone {
  readonly batch: Pick<StepBatch, 'sampling' | 'returnLogits'>;
  readonly plannedMs: number;
  readonly output: StepOutput;
}

/**
 * The engine worker's heart: takes requests, plans, steps, commits and reports, one message a step. It alone touches
 * the scheduler and the engine; adapters load beside it and never hold a step up. The engine runs steps in the order
 * in which it gets them, so that each is settled before the one behind it.
 */
export class EngineLoop {
  readonly #deps: EngineLoopDeps;
  readonly #leases = new LeaseBook();
  readonly #matchers = new LeaseBook();
  readonly #compiler: ConstraintCompiler;
  readonly #probes = new ProbeBook();
  /** Held for requests that were asked for another prompt. */
  readonly #parked = new Map<number, Claim>();
  #events: SequenceEvent[] = [];
  #facts: Telemetry[] = [];
  #wake: (() => void) | null = null;
  #stopping = false;
  #gaveUp = false;
  #failedSteps = 0;
  /** When the step before was settled. */
  #settledMs = 0;
  #flushQueued = false;
  readonly #ended: Promise<void>;

  constructor(deps: EngineLoopDeps) {
    this.#deps = deps;
    this.#compiler = new ConstraintCompiler(deps.engine);
    this.#ended = this.#run();
  }

  handle(message: ToWorker): void {
    switch (message.type) {
      case 'submit':
        this.#submit(message.request);
        break;
      case 'abort':
        this.#deps.scheduler.abort(message.id);
        this.#letGo(message.id);
        break;
      case 'admin':
        void this.#answer(message.callId, message.call);
        break;
      case 'stop':
        void this.#stop();
        break;
    }
    this.#awake();
  }

  /** A fact for metrics; sent with the next message. */
  report(fact: Telemetry): void {
    this.#facts.push(fact);
    this.#queueFlush();
  }

  /**
   * Logits [V] of the token after a prompt, under one native adapter handle or the base (null): one more request in
   * the next steps. The caller keeps the handle alive. Errors: ERR_ENGINE_CLOSED, and those of the step.
   */
  probe(promptIds: Uint32Array, handle: number | null): Promise<Float32Array> {
    const { scheduler, now } = this.#deps;
    if (this.#stopping) return Promise.reject(stoppedError());
    const { request, logits } = this.#probes.begin(promptIds);
    const servedBy = { adapter: request.adapter, digest: null, tierAtArrival: null };
    try {
      scheduler.enqueueFirst(request, handle === null ? BASE_ROWS : oneAdapter(handle), now(), servedBy);
    } catch (thrown) {
      this.#probes.receive({ kind: 'error', id: request.id, error: toLoramuxError(thrown).toRecord() });
    }
    this.#awake();
    return logits;
  }

  state(): EngineState {
    const counts = this.#deps.scheduler.counts();
    return {
      waiting: counts.waiting,
      waitingForAdapter: counts.waitingForAdapter,
      running: counts.running,
      kvBlocks: {
        total: counts.totalBlocks,
        used: counts.usedBlocks,
        cached: counts.cachedBlocks,
        adapters: counts.adapterBlocks,
        blockSize: this.#deps.engine.blockSize,
      },
      tiers: this.#deps.registry.tiers(),
      steps: counts.steps,
      lastStepAgeMs: counts.lastStepMs === null ? null : this.#deps.now() - counts.lastStepMs,
      draining: this.#stopping,
    };
  }

  #submit(request: GenerateRequest): void {
    if (request.constraint === null) this.#enqueue(request, NO_CONSTRAINT);
    else void this.#constrain(request, request.constraint);
  }

  /** Compiles a request's constraint before it joins the queue; others run on meanwhile. */
  async #constrain(request: GenerateRequest, constraint: Constraint): Promise<void> {
    const waiting = new AbortController();
    this.#matchers.wait(request.id, waiting);
    try {
      this.#deps.scheduler.requireRoom(this.#compiler.waiting);
      const held = await this.#compiler.open(constraint, waiting.signal);
      this.#matchers.hold(request.id, held);
      this.#enqueue(request, held.handle);
      this.#awake();
    } catch (error) {
      if (!waiting.signal.aborted) this.#refuse(request.id, error);
    }
  }

  #enqueue(request: GenerateRequest, constraint: number): void {
    const { scheduler, registry, now } = this.#deps;
    try {
      const held = this.#parked.get(request.id) ?? tryClaim(registry, request);
      if (held !== null) {
        this.#leases.hold(request.id, held);
        if (this.#park(request, held)) return;
      }
      const servedBy = held?.servedBy ?? notYetServedBy(request);
      scheduler.enqueue(request, held?.rowsFor(request.promptIds) ?? null, now(), servedBy, constraint);
      if (held === null) void this.#load(request);
    } catch (error) {
      this.#refuse(request.id, error);
    }
  }

  /** Asks for another prompt if this one was made with another text handling than that of the request's adapter. */
  #park({ id, textDigest }: GenerateRequest, held: Claim): boolean {
    this.#parked.delete(id);
    if (textDigest === undefined || textDigest === (held.text?.digest ?? null)) return false;
    this.#matchers.end(id);
    this.#parked.set(id, held);
    this.#emit({ kind: 'text', id, text: held.text });
    return true;
  }

  /** Answers a request that the scheduler does not have. */
  #refuse(id: number, error: unknown): void {
    this.#letGo(id);
    this.#emit({ kind: 'error', id, error: toLoramuxError(error).toRecord() });
  }

  /** Gives back what a request holds, or ends its wait for it. */
  #letGo(id: number): void {
    this.#parked.delete(id);
    this.#leases.end(id);
    this.#matchers.end(id);
  }

  /** Waits for a request's adapters; others run on meanwhile. */
  async #load(request: GenerateRequest): Promise<void> {
    const waiting = new AbortController();
    this.#leases.wait(request.id, waiting);
    const { now } = this.#deps;
    const startedMs = now();
    try {
      const held = await claim(this.#deps.registry, request, waiting.signal);
      if (waiting.signal.aborted) {
        held.release();
        return;
      }
      const tierAtArrival = held.servedBy.tierAtArrival ?? 'disk';
      this.report({ kind: 'adapter-wait', tierAtArrival, seconds: (now() - startedMs) / 1000 });
      this.#leases.hold(request.id, held);
      if (this.#park(request, held)) this.#deps.scheduler.abort(request.id);
      else this.#deps.scheduler.adapterReady(request.id, held.rowsFor(request.promptIds), held.servedBy);
      this.#awake();
    } catch (error) {
      if (waiting.signal.aborted) return;
      this.#settle(this.#deps.scheduler.fail(request.id, toLoramuxError(error)));
    }
  }

  async #run(): Promise<void> {
    const { scheduler, registry, launchAhead } = this.#deps;
    let first: Launched | null = null;
    while (first !== null || !this.#stopping) {
      let behind: Launched | null = null;
      registry.gatherPages(scheduler.counts().running);
      try {
        first ??= this.#launch((nowMs) => scheduler.plan(nowMs));
        if (first !== null && launchAhead && !this.#stopping) {
          behind = this.#launch((nowMs) => scheduler.planAhead(nowMs));
        }
      } catch (error) {
        this.#giveUp(toLoramuxError(error, 'ERR_ENGINE_FATAL'));
        return;
      }
      if (first === null) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        continue;
      }
      await this.#settleStep(first);
      if (this.#gaveUp) return;
      first = behind;
    }
  }

  /** Hands the engine what `decide` plans; null when that is nothing. */
  #launch(decide: (nowMs: number) => StepPlan | null): Launched | null {
    const startedMs = this.#deps.now();
    const plan = decide(startedMs);
    if (plan === null) return null;
    this.#leases.stepBegins();
    this.#matchers.stepBegins();
    const done = this.#start(plan);
    // Its failure is seen when its turn comes.
    done.catch(() => undefined);
    return { plan, startedMs, done };
  }

  async #start(plan: StepPlan): Promise<StepDone> {
    const { scheduler, engine, now, onLogits } = this.#deps;
    const batch = scheduler.buildBatch(plan, (id) => onLogits !== undefined || this.#probes.has(id));
    const plannedMs = now();
    return { batch, plannedMs, output: await engine.step(batch) };
  }

  async #settleStep({ plan, startedMs, done }: Launched): Promise<void> {
    const { scheduler, now, onLogits } = this.#deps;
    try {
      const { batch, plannedMs, output } = await done;
      for (const [id, logits] of returnedLogits(plan, batch, output)) {
        this.#probes.take(id, logits);
        onLogits?.(id, logits);
      }
      const events = scheduler.commit(plan, output, now());
      this.#failedSteps = 0;
      for (const requestId of plan.preemptedIds) this.#facts.push({ kind: 'preemption', requestId });
      this.#facts.push({
        kind: 'step',
        prefillRows: plan.prefillRows,
        decodeRows: plan.decodeRows,
        admitted: plan.admitted.length,
        baseRows: plan.baseRows,
        loraRows: plan.loraRows,
        segments: plan.segments.length,
        distinctAdapters: plan.distinctAdapters,
        lookedUpTokens: plan.lookedUpTokens,
        cachedTokens: plan.cachedTokens,
        draftedTokens: plan.draftRows,
        acceptedTokens: plan.draftRows === 0 ? 0 : acceptedDraftsOf(plan, output.tokens),
        planSeconds: (plannedMs - startedMs) / 1000,
        runSeconds: output.runSeconds,
        sampleSeconds: output.sampleSeconds,
        maskSeconds: batch.sampling.some((row) => row.constraint !== NO_CONSTRAINT) ? output.maskSeconds : null,
        stepSeconds: (now() - Math.max(startedMs, this.#settledMs)) / 1000,
      });
      this.#settle(...events);
    } catch (thrown) {
      const error = toLoramuxError(thrown, 'ERR_STEP_FAILED');
      this.#facts.push({ kind: 'step-failed', prefillRows: plan.prefillRows });
      this.#settle(...scheduler.rollback(plan, error));
      this.#failedSteps += 1;
      this.#log('error', 'step.fail', `${error.code}: ${error.message}`);
      // A batch that was refused is its requests' affair; anything else, or refusal after refusal, is the engine's.
      if (error.code !== 'ERR_STEP_FAILED' || this.#failedSteps >= MAX_FAILED_STEPS) this.#giveUp(error);
    } finally {
      this.#settledMs = now();
      this.#leases.stepEnds();
      this.#matchers.stepEnds();
    }
    this.#flush();
  }

  async #answer(callId: number, call: AdminCall): Promise<void> {
    try {
      this.#deps.post({ type: 'admin-reply', callId, reply: await this.#perform(call) });
    } catch (error) {
      this.#deps.post({ type: 'admin-error', callId, error: toLoramuxError(error).toRecord() });
    }
  }

  #perform(call: AdminCall): Promise<AdminReply> | AdminReply {
    const { registry } = this.#deps;
    switch (call.op) {
      case 'list':
        return registry.list();
      case 'get':
        return registry.get(call.name);
      case 'load':
        return registry.load(call);
      case 'check':
        return registry.check(call);
      case 'unload':
        return registry.unload(call.name, call.force ? (handle) => this.#cut(call.name, handle) : undefined);
      case 'pin':
        return registry.pin(call.name, call.pinned);
      case 'aliases':
        return registry.aliases();
      case 'alias':
        return registry.setAlias(call.name, call.target);
      case 'unalias':
        return registry.deleteAlias(call.name);
      case 'state':
        return this.state();
    }
  }

  /** Ends the rows of an adapter that is forced out; returns how many requests that were. */
  #cut(name: string, handle: number): number {
    const error = new LoramuxError('ERR_ADAPTER_UNLOADED', `adapter ${name} was unloaded by force: load it again`);
    const events = this.#deps.scheduler.failByAdapter(handle, error);
    this.#settle(...events);
    const parked = [...this.#parked].filter(([, held]) => held.holds(handle));
    for (const [id] of parked) this.#refuse(id, error);
    return events.length + parked.length;
  }

  async #stop(): Promise<void> {
    this.#stopping = true;
    this.#awake();
    await this.#ended;
    this.#probes.close(stoppedError());
    await this.#deps.registry.close();
    await this.#deps.engine.close();
    this.#deps.post({ type: 'stopped' });
  }

  /** The engine cannot go on: every request gets its terminal event from the main thread, health flips. */
  #giveUp(error: LoramuxError): void {
    this.#stopping = true;
    this.#gaveUp = true;
    this.#probes.close(error);
    this.#flush();
    this.#deps.post({ type: 'fatal', error: error.toRecord() });
  }

  /** Queues events; terminal ones give their leases back. */
  #settle(...events: readonly (SequenceEvent | null)[]): void {
    for (const event of events) {
      if (event === null || this.#probes.receive(event)) continue;
      if (event.kind === 'finish' || event.kind === 'error') this.#letGo(event.id);
      this.#emit(event);
    }
  }

  #emit(event: SequenceEvent): void {
    this.#events.push(event);
    this.#queueFlush();
  }

  /** Between steps, what happens in one turn of the event loop goes out as one message. */
  #queueFlush(): void {
    if (this.#flushQueued) return;
    this.#flushQueued = true;
    queueMicrotask(() => this.#flush());
  }

  #flush(): void {
    this.#flushQueued = false;
    if (this.#events.length === 0 && this.#facts.length === 0) return;
    const [events, facts] = [packEvents(this.#events), this.#facts];
    this.#events = [];
    this.#facts = [];
    this.#deps.post({ type: 'events', events, facts, state: this.state() });
  }

  #log(level: 'info' | 'warn' | 'error', event: string, text: string): void {
    this.#deps.post({ type: 'log', level, event, text });
  }

  #awake(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }
}

function stoppedError(): LoramuxError {
  return new LoramuxError('ERR_ENGINE_CLOSED', 'the engine is stopping: it loads no more adapters');
}
