import { LoramuxError } from '../core/errors.js';
import type { PageClaim } from '../core/page-pool.js';
import type { AdapterPages } from './adapter-pages.js';
import { deferred } from './deferred.js';
import type { Residency } from './residency.js';

interface Waiting {
  readonly key: number;
  readonly bytes: number;
  readonly runs: readonly number[];
  readonly ticket: number;
  readonly sinceMs: number;
  readonly resolve: (pages: readonly number[]) => void;
  readonly reject: (error: LoramuxError) => void;
  /** Once it has its bytes: the pages that it gathers. */
  claim: PageClaim | null;
}

export interface MemoryQueueOptions {
  readonly residency: Residency;
  /** Null where adapters lie anywhere. */
  readonly pages: AdapterPages | null;
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

  /**
   * Resolves when `bytes` are reserved for `key`, on a device with the pages that they are, in `runs` of neighbours.
   * ERR_ADAPTER_NO_SPACE when they can never be.
   */
  reserve(key: number, bytes: number, ticket: number, runs: readonly number[] = []): Promise<readonly number[]> {
    const { promise, resolve, reject } = deferred<readonly number[]>();
    const sinceMs = this.#options.now();
    const after = this.#waiting.findIndex((other) => other.ticket > ticket);
    const waiting = { key, bytes, runs, ticket, sinceMs, resolve, reject, claim: null };
    // Who has begun to gather pages goes on: one does at a time.
    const first = this.#waiting[0]?.claim == null ? 0 : 1;
    this.#waiting.splice(after < 0 ? this.#waiting.length : Math.max(first, after), 0, waiting);
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
    this.#giveBack(cancelled);
    cancelled.reject(error);
    this.#options.onMoved();
    this.pump();
    return true;
  }

  /** Serves the head while it fits; call it whenever bytes or pages came free or a pin went. */
  pump(): void {
    for (let head = this.#waiting[0]; head !== undefined; head = this.#waiting[0]) {
      let pages: readonly number[] | null;
      try {
        pages = this.#serve(head);
      } catch (thrown) {
        if (!(thrown instanceof LoramuxError)) throw thrown;
        this.#waiting.shift();
        this.#giveBack(head);
        head.reject(thrown);
        this.#options.onMoved();
        continue;
      }
      if (pages === null) return;
      this.#waiting.shift();
      head.resolve(pages);
      this.#options.onMoved();
    }
  }

  /** True while a load older than `ticket` heads the queue and has waited for more than `limitMs`. */
  isOverdue(limitMs: number, ticket = Number.POSITIVE_INFINITY): boolean {
    const head = this.#waiting[0];
    // A load that gathers pages waits for the KV cache, not for other adapters' pins, save where they lie in its way.
    const gathers = head?.claim != null && !head.claim.behindOthers;
    return head !== undefined && !gathers && head.ticket < ticket && this.#options.now() - head.sinceMs > limitMs;
  }

  get length(): number {
    return this.#waiting.length;
  }

  /** Null while the head must wait. */
  #serve(head: Waiting): readonly number[] | null {
    const { residency, pages, onEvicted } = this.#options;
    if (head.claim === null) {
      const evicted = residency.reserve(head.key, head.bytes);
      if (evicted === null) return null;
      onEvicted(evicted);
      if (pages === null) return [];
      head.claim = pages.claim(head.runs);
    }
    const filled = pages?.fill(head.key, head.claim) ?? null;
    if (filled !== null) head.claim = null;
    return filled;
  }

  /** What the head had already when it gave up. */
  #giveBack(waiting: Waiting): void {
    if (waiting.claim === null) return;
    this.#options.pages?.drop(waiting.claim);
    this.#options.residency.release(waiting.key);
  }
}
