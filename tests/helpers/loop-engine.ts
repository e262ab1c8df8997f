import { setTimeout as delay } from 'node:timers/promises';
import type { ErrorRecord } from '../../src/core/errors.js';
import type { GenerateRequest } from '../../src/core/request.js';
import type { Telemetry } from '../../src/core/telemetry.js';
import type { NativeEngine } from '../../src/engine/binding.js';
import { visitEvents } from '../../src/messages/packed-events.js';
import type { FromWorker, WorkerStart } from '../../src/messages/worker-messages.js';
import type { EngineLoop } from '../../src/worker/engine-loop.js';
import { openEngine } from '../../src/worker/open-engine.js';

/** What one request came to. */
export interface LoopOutcome {
  readonly tokens: number[];
  readonly error: ErrorRecord | null;
}

/** The engine's loop in this thread, without the worker around it. */
export class LoopEngine {
  readonly facts: Telemetry[] = [];
  readonly loop: EngineLoop;
  readonly native: NativeEngine;
  /** What ended the engine. */
  fatal: ErrorRecord | null = null;
  readonly #messages: FromWorker[];
  #read = 0;
  readonly #tokens = new Map<number, number[]>();
  readonly #ended = new Map<number, LoopOutcome>();

  static async open(start: WorkerStart, wrap = (engine: NativeEngine): NativeEngine => engine): Promise<LoopEngine> {
    const messages: FromWorker[] = [];
    const kept: NativeEngine[] = [];
    const keep = (engine: NativeEngine): NativeEngine => {
      kept.push(engine);
      return wrap(engine);
    };
    const loop = await openEngine(start, (message) => messages.push(message), { wrap: keep });
    const [native] = kept;
    if (native === undefined) throw new RangeError('no engine was opened');
    return new LoopEngine(loop, native, messages);
  }

  private constructor(loop: EngineLoop, native: NativeEngine, messages: FromWorker[]) {
    this.loop = loop;
    this.native = native;
    this.#messages = messages;
  }

  submit(request: GenerateRequest): void {
    this.loop.handle({ type: 'submit', request });
  }

  abort(id: number): void {
    this.loop.handle({ type: 'abort', id });
  }

  /** Waits for a request's terminal event. */
  async outcome(id: number): Promise<LoopOutcome> {
    await this.until(() => this.#ended.has(id));
    return this.#ended.get(id) as LoopOutcome;
  }

  /** Tokens of a request so far. */
  tokensOf(id: number): readonly number[] {
    this.#receive();
    return this.#tokens.get(id) ?? [];
  }

  async until(holds: () => boolean): Promise<void> {
    for (;;) {
      this.#receive();
      if (holds()) return;
      await delay(1);
    }
  }

  async stop(): Promise<void> {
    this.loop.handle({ type: 'stop' });
    await this.until(() => this.#messages.some(({ type }) => type === 'stopped'));
  }

  #receive(): void {
    for (; this.#read < this.#messages.length; this.#read += 1) {
      const message = this.#messages[this.#read];
      if (message?.type === 'fatal') this.fatal = message.error;
      if (message?.type !== 'events') continue;
      this.facts.push(...message.facts);
      visitEvents(message.events, (event) => {
        const tokens = this.#tokens.get(event.id) ?? [];
        this.#tokens.set(event.id, tokens);
        if (event.kind === 'token') tokens.push(event.token);
        if (event.kind === 'finish') this.#ended.set(event.id, { tokens, error: null });
        if (event.kind === 'error') this.#ended.set(event.id, { tokens, error: event.error });
      });
    }
  }
}
