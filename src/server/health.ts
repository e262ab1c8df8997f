import type { EngineClient } from '../core/engine-client.js';
import type { Lifecycle } from './lifecycle.js';

/** A step that lasts longer than this means that the engine hangs. */
const ENGINE_STALL_MS = 60_000;
/** A queue that stays full for this long makes the server unready; a spike does not. */
const FULL_QUEUE_MS = 5_000;

export interface HealthDeps {
  readonly engine: EngineClient;
  readonly lifecycle: Lifecycle;
  /** Milliseconds, monotonic. */
  readonly now: () => number;
}

/** Answers of the probes, from cached state only. Keys of `checks` are shown by `?verbose`. */
export class Health {
  readonly #deps: HealthDeps;
  #queueFullSince: number | null = null;

  constructor(deps: HealthDeps) {
    this.#deps = deps;
  }

  /** The process is worth keeping: the engine has not failed and does not hang. */
  alive(): boolean {
    const { engine } = this.#deps;
    const { running, lastStepAgeMs } = engine.state();
    const stalled = running > 0 && lastStepAgeMs !== null && lastStepAgeMs > ENGINE_STALL_MS;
    return engine.fatalError() === null && !stalled;
  }

  /** The model was loaded once. */
  started(): boolean {
    return this.#deps.lifecycle.started;
  }

  /** Each condition of being ready for new requests, by name. */
  checks(): Readonly<Record<string, boolean>> {
    const { lifecycle } = this.#deps;
    return {
      started: lifecycle.started,
      not_draining: !lifecycle.draining,
      engine: this.alive(),
      queue: !this.#queueFull(),
    };
  }

  ready(): boolean {
    return Object.values(this.checks()).every(Boolean);
  }

  #queueFull(): boolean {
    const { engine, now } = this.#deps;
    if (engine.state().waiting < engine.limits.maxQueue) this.#queueFullSince = null;
    else this.#queueFullSince ??= now();
    return this.#queueFullSince !== null && now() - this.#queueFullSince >= FULL_QUEUE_MS;
  }
}
