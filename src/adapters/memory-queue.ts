import { LoramuxError } from '../core/errors.js';
import { deferred } from './deferred.js';
import type { Residency } from './residency.js';

interface Waiting {
  readonly key: number;
  readonly bytes: number;
  readonly ticket: number;
  readonly sinceMs: number;
  readonly resolve: () => void;
  readonly reject: (error: LoramuxError) => void;
}

export interface MemoryQueueOptions {
  readonly residency: Residency;
  /** Milliseconds, monotonic. */
  readonly now: () => number;
  /** Frees what was evicted; must not call back into the queue. */
  readonly onEvicted: (keys: readonly number[]) => void;
  /** The head of the queue got its bytes, gave up or failed. */
  readonly onMoved: () => void;
}

/**
 * Hands adapter memory to loads strictly in the order of their tickets: a small load never overtakes a large one that
 * waits for pins to drain, so every load gets its turn.
 */
export class MemoryQueue {
  readonly #options: MemoryQueueOptions;
  #waiting: Waiting[] = [];

  constructor(options: MemoryQueueOptions) {
    this.#options = options;
  }

  /** Resolves when `bytes` are reserved for `key`. ERR_ADAPTER_NO_SPACE when they can never be. */
  reserve(key: number, bytes: number, ticket: number): Promise<void> {
    const { promise, resolve, reject } = deferred<void>();
    const sinceMs = this.#options.now();
    const after = this.#waiting.findIndex((other) => other.ticket > ticket);
    this.#waiting.splice(after < 0 ? this.#waiting.length : after, 0, { key, bytes, ticket, sinceMs, resolve, reject });
    this.pump();
    return promise;
  }

  /** Fits a reservation to the bytes really taken, ahead of all waiting loads. False when it must wait instead. */
  resize(key: number, bytes: number): boolean {
    const evicted = this.#options.residency.resize(key, bytes);
    if (evicted === null) return false;
    this.#options.onEvicted(evicted);
    this.pump();
    return true;
  }

  /** Rejects a waiting load with `error`; false when `key` does not wait. */
  cancel(key: number, error: LoramuxError): boolean {
    const at = this.#waiting.findIndex((waiting) => waiting.key === key);
    const [cancelled] = at < 0 ? [] : this.#waiting.splice(at, 1);
    if (cancelled === undefined) return false;
    cancelled.reject(error);
    this.#options.onMoved();
    this.pump();
    return true;
  }

  /** Serves the head while it fits; call it whenever bytes came free or a pin went. */
  pump(): void {
    for (let head = this.#waiting[0]; head !== undefined; head = this.#waiting[0]) {
      let evicted: number[] | null;
      try {
        evicted = this.#options.residency.reserve(head.key, head.bytes);
      } catch (thrown) {
        if (!(thrown instanceof LoramuxError)) throw thrown;
        this.#waiting.shift();
        head.reject(thrown);
        this.#options.onMoved();
        continue;
      }
      if (evicted === null) return;
      this.#waiting.shift();
      this.#options.onEvicted(evicted);
      head.resolve();
      this.#options.onMoved();
    }
  }

  /** True while a load older than `ticket` heads the queue and has waited for more than `limitMs`. */
  isOverdue(limitMs: number, ticket = Number.POSITIVE_INFINITY): boolean {
    const head = this.#waiting[0];
    return head !== undefined && head.ticket < ticket && this.#options.now() - head.sinceMs > limitMs;
  }

  get length(): number {
    return this.#waiting.length;
  }
}
