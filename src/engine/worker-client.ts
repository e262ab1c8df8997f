import { Worker } from 'node:worker_threads';
import type { AdminCall, AdminReplies, AdminReply, EngineState } from '../core/adapter-admin.js';
import type { EngineClient, EngineLimits, Submission } from '../core/engine-client.js';
import { type ErrorRecord, LoramuxError } from '../core/errors.js';
import type { GenerateRequest, SequenceEvent } from '../core/request.js';
import type { Telemetry } from '../core/telemetry.js';
import { visitEvents } from '../messages/packed-events.js';
import type { FromWorker, ToWorker, WorkerStart } from '../messages/worker-messages.js';

/** How long a worker that was told to stop may take before it is terminated. */
const STOP_TIMEOUT_MS = 10_000;

export interface WorkerClientOptions {
  readonly start: WorkerStart;
  readonly log: (level: 'info' | 'warn' | 'error', event: string, text: string) => void;
}

interface PendingCall {
  readonly resolve: (reply: AdminReply) => void;
  readonly reject: (error: LoramuxError) => void;
}

/** The main thread's end of the engine worker. */
export class WorkerEngineClient implements EngineClient {
  readonly limits: EngineLimits;
  readonly #worker: Worker;
  /** Requests without a terminal event yet. */
  readonly #live = new Map<number, (event: SequenceEvent) => void>();
  readonly #calls = new Map<number, PendingCall>();
  readonly #listeners: ((fact: Telemetry) => void)[] = [];
  #nextCall = 1;
  #state: EngineState;
  #stateAtMs = performance.now();
  #fatal: LoramuxError | null = null;
  #draining = false;
  #idle: (() => void)[] = [];

  /** Starts the worker; resolves once it has generated a token. Errors: whatever kept it from that. */
  static async start(options: WorkerClientOptions): Promise<WorkerEngineClient> {
    const worker = new Worker(new URL('../worker/entry.js', import.meta.url), {
      name: 'loramux-engine',
      workerData: options.start,
    });
    const ready = await new Promise<Extract<FromWorker, { type: 'ready' }>>((resolve, reject) => {
      const onMessage = (message: FromWorker): void => {
        if (message.type === 'ready') settle(() => resolve(message));
        else if (message.type === 'fatal') settle(() => reject(LoramuxError.fromRecord(message.error)));
        else if (message.type === 'log') options.log(message.level, message.event, message.text);
      };
      const onError = (error: Error): void => settle(() => reject(error));
      const onExit = (code: number): void =>
        settle(() =>
          reject(new LoramuxError('ERR_ENGINE_FATAL', `the engine worker ended while starting (code ${code})`)),
        );
      const settle = (finish: () => void): void => {
        worker.off('message', onMessage).off('error', onError).off('exit', onExit);
        finish();
      };
      worker.on('message', onMessage).on('error', onError).on('exit', onExit);
    }).catch(async (error: unknown) => {
      await worker.terminate();
      throw error;
    });
    return new WorkerEngineClient(worker, ready, options.log);
  }

  private constructor(worker: Worker, ready: Extract<FromWorker, { type: 'ready' }>, log: WorkerClientOptions['log']) {
    this.#worker = worker;
    this.limits = ready.limits;
    this.#state = ready.state;
    worker.on('message', (message: FromWorker) => this.#receive(message, log));
    worker.on('error', (error) =>
      this.#fail(new LoramuxError('ERR_ENGINE_FATAL', `the engine worker crashed: ${error.message}`)),
    );
    worker.on('exit', (code) =>
      this.#fail(new LoramuxError('ERR_ENGINE_CLOSED', `the engine worker ended (code ${code})`)),
    );
  }

  submit(request: GenerateRequest, onEvent: (event: SequenceEvent) => void): Submission {
    const refusal = this.#fatal ?? (this.#draining ? drainingError() : null);
    if (refusal !== null) {
      queueMicrotask(() => onEvent({ kind: 'error', id: request.id, error: refusal.toRecord() }));
      return { abort: () => undefined, resubmit: () => undefined };
    }
    this.#live.set(request.id, onEvent);
    this.#post({ type: 'submit', request });
    return {
      abort: () => {
        if (!this.#live.delete(request.id)) return;
        this.#post({ type: 'abort', id: request.id });
        this.#signalIdle();
      },
      resubmit: (again) => {
        if (this.#live.has(request.id)) this.#post({ type: 'submit', request: again });
      },
    };
  }

  admin<Op extends AdminCall['op']>(call: Extract<AdminCall, { op: Op }>): Promise<AdminReplies[Op]> {
    if (this.#fatal !== null) return Promise.reject(this.#fatal);
    const callId = this.#nextCall++;
    return new Promise<AdminReply>((resolve, reject) => {
      this.#calls.set(callId, { resolve, reject });
      this.#post({ type: 'admin', callId, call });
      // The worker answers each op with its own reply type.
    }) as Promise<AdminReplies[Op]>;
  }

  state(): EngineState {
    const { lastStepAgeMs } = this.#state;
    const elapsed = performance.now() - this.#stateAtMs;
    return {
      ...this.#state,
      lastStepAgeMs: lastStepAgeMs === null ? null : lastStepAgeMs + elapsed,
      draining: this.#draining,
    };
  }

  onTelemetry(listener: (fact: Telemetry) => void): void {
    this.#listeners.push(listener);
  }

  fatalError(): Error | null {
    return this.#fatal;
  }

  async drain(timeoutMs: number): Promise<void> {
    this.#draining = true;
    if (this.#live.size === 0) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#idle.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
    const error = new LoramuxError(
      'ERR_DRAINING',
      'the server stopped before this request ended: send it again',
    ).toRecord();
    for (const id of [...this.#live.keys()]) {
      this.#post({ type: 'abort', id });
      this.#deliver({ kind: 'error', id, error });
    }
  }

  async close(): Promise<void> {
    this.#draining = true;
    const ended = new Promise<void>((resolve) => {
      this.#worker.once('exit', () => resolve());
    });
    if (this.#fatal === null) {
      const stopped = new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, STOP_TIMEOUT_MS);
        this.#worker.on('message', (message: FromWorker) => {
          if (message.type !== 'stopped') return;
          clearTimeout(timer);
          resolve();
        });
      });
      this.#post({ type: 'stop' });
      await stopped;
    }
    this.#fatal ??= new LoramuxError('ERR_ENGINE_CLOSED', 'the engine is closed');
    await this.#worker.terminate();
    await ended;
  }

  #receive(message: FromWorker, log: WorkerClientOptions['log']): void {
    switch (message.type) {
      case 'events':
        this.#state = message.state;
        this.#stateAtMs = performance.now();
        visitEvents(message.events, (event) => this.#deliver(event));
        for (const fact of message.facts) for (const listener of this.#listeners) listener(fact);
        break;
      case 'admin-reply':
        this.#takeCall(message.callId)?.resolve(message.reply);
        break;
      case 'admin-error':
        this.#takeCall(message.callId)?.reject(LoramuxError.fromRecord(message.error));
        break;
      case 'log':
        log(message.level, message.event, message.text);
        break;
      case 'fatal':
        this.#fail(LoramuxError.fromRecord(message.error));
        break;
      case 'ready':
      case 'stopped':
        break;
    }
  }

  #deliver(event: SequenceEvent): void {
    const onEvent = this.#live.get(event.id);
    // Aborted while the event was on its way.
    if (onEvent === undefined) return;
    const terminal = event.kind === 'finish' || event.kind === 'error';
    if (terminal) this.#live.delete(event.id);
    onEvent(event);
    if (terminal) this.#signalIdle();
  }

  #takeCall(callId: number): PendingCall | undefined {
    const call = this.#calls.get(callId);
    this.#calls.delete(callId);
    return call;
  }

  /** Ends everything that waits; later calls are refused with the same error. */
  #fail(error: LoramuxError): void {
    if (this.#fatal !== null) return;
    this.#fatal = error;
    const record: ErrorRecord = error.toRecord();
    for (const id of [...this.#live.keys()]) this.#deliver({ kind: 'error', id, error: record });
    for (const callId of [...this.#calls.keys()]) this.#takeCall(callId)?.reject(error);
  }

  #signalIdle(): void {
    if (this.#live.size > 0) return;
    const waiting = this.#idle;
    this.#idle = [];
    for (const resume of waiting) resume();
  }

  #post(message: ToWorker): void {
    this.#worker.postMessage(message);
  }
}

function drainingError(): LoramuxError {
  return new LoramuxError('ERR_DRAINING', 'the server is draining and takes no new work: send the request elsewhere');
}
