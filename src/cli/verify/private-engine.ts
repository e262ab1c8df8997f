import type { AdminCall, AdminReplies, AdminReply } from '../../core/adapter-admin.js';
import { LoramuxError } from '../../core/errors.js';
import type { GenerateRequest, SequenceEvent } from '../../core/request.js';
import type { Telemetry } from '../../core/telemetry.js';
import { visitEvents } from '../../messages/packed-events.js';
import type { FromWorker, WorkerStart } from '../../messages/worker-messages.js';
import type { EngineLoop } from '../../worker/engine-loop.js';
import { type EngineHooks, openEngine } from '../../worker/open-engine.js';

/** Told about one request. */
export interface RequestListener {
  /** Logits [V] of the next token, before its event; valid during the call. */
  onLogits(logits: Float32Array): void;
  onEvent(event: SequenceEvent): void;
}

interface PendingCall {
  readonly resolve: (reply: AdminReply) => void;
  readonly reject: (error: LoramuxError) => void;
}

/**
 * An engine of one's own in this thread: the very loop, scheduler and registry that serve, with the logits behind
 * each token shown.
 */
export class PrivateEngine {
  readonly #listeners = new Map<number, RequestListener>();
  readonly #calls = new Map<number, PendingCall>();
  readonly #onFact: (fact: Telemetry) => void;
  #loop: EngineLoop | null = null;
  #stopped: () => void = () => undefined;
  #nextCall = 1;

  /** Errors: as `openEngine`. */
  static async open(
    start: WorkerStart,
    onFact: (fact: Telemetry) => void,
    wrap?: EngineHooks['wrap'],
  ): Promise<PrivateEngine> {
    const engine = new PrivateEngine(onFact);
    engine.#loop = await openEngine(start, (message) => engine.#receive(message), {
      onLogits: (id, logits) => engine.#listeners.get(id)?.onLogits(logits),
      ...(wrap === undefined ? {} : { wrap }),
    });
    return engine;
  }

  private constructor(onFact: (fact: Telemetry) => void) {
    this.#onFact = onFact;
  }

  submit(request: GenerateRequest, listener: RequestListener): void {
    this.#listeners.set(request.id, listener);
    this.#loop?.handle({ type: 'submit', request });
  }

  abort(id: number): void {
    this.#listeners.delete(id);
    this.#loop?.handle({ type: 'abort', id });
  }

  /** Gives up every request that runs or waits: whatever is submitted next has the engine to itself. */
  abortAll(): void {
    for (const id of [...this.#listeners.keys()]) this.abort(id);
  }

  admin<Op extends AdminCall['op']>(call: Extract<AdminCall, { op: Op }>): Promise<AdminReplies[Op]> {
    const callId = this.#nextCall++;
    return new Promise<AdminReply>((resolve, reject) => {
      this.#calls.set(callId, { resolve, reject });
      this.#loop?.handle({ type: 'admin', callId, call });
      // The loop answers each op with its own reply type.
    }) as Promise<AdminReplies[Op]>;
  }

  async close(): Promise<void> {
    const stopped = new Promise<void>((resolve) => {
      this.#stopped = resolve;
    });
    this.#loop?.handle({ type: 'stop' });
    await stopped;
  }

  #receive(message: FromWorker): void {
    switch (message.type) {
      case 'events':
        for (const fact of message.facts) this.#onFact(fact);
        visitEvents(message.events, (event) => this.#deliver(event));
        break;
      case 'admin-reply':
        this.#take(message.callId)?.resolve(message.reply);
        break;
      case 'admin-error':
        this.#take(message.callId)?.reject(LoramuxError.fromRecord(message.error));
        break;
      case 'fatal':
        this.#fail(LoramuxError.fromRecord(message.error));
        break;
      case 'stopped':
        this.#stopped();
        break;
      case 'ready':
      case 'log':
        break;
    }
  }

  #deliver(event: SequenceEvent): void {
    const listener = this.#listeners.get(event.id);
    if (event.kind === 'finish' || event.kind === 'error') this.#listeners.delete(event.id);
    listener?.onEvent(event);
  }

  /** The engine cannot go on: whatever waits ends with its error. */
  #fail(error: LoramuxError): void {
    for (const id of [...this.#listeners.keys()]) this.#deliver({ kind: 'error', id, error: error.toRecord() });
    for (const callId of [...this.#calls.keys()]) this.#take(callId)?.reject(error);
  }

  #take(callId: number): PendingCall | undefined {
    const call = this.#calls.get(callId);
    this.#calls.delete(callId);
    return call;
  }
}
