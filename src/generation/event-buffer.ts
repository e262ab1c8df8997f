import { LoramuxError } from '../core/errors.js';

/**
 * Single-producer, single-consumer queue between the engine's events and the reader of one generation. Bounded by
 * the summed cost of what waits; the producer never blocks and asks `overflows` instead.
 */
export class EventBuffer<T> implements AsyncIterator<T> {
  readonly #costOf: (item: T) => number;
  readonly #maxCost: number;
  #items: T[] = [];
  #cost = 0;
  #end: { readonly error: LoramuxError | null } | null = null;
  #waiting: { resolve(result: IteratorResult<T>): void; reject(error: Error): void } | null = null;

  constructor(maxCost: number, costOf: (item: T) => number) {
    this.#maxCost = maxCost;
    this.#costOf = costOf;
  }

  /** True when one more item may not be held for a reader that does not read. */
  get overflows(): boolean {
    return this.#cost > this.#maxCost;
  }

  push(item: T): void {
    if (this.#end !== null) return;
    const reader = this.#waiting;
    if (reader !== null) {
      this.#waiting = null;
      reader.resolve({ value: item, done: false });
      return;
    }
    this.#items.push(item);
    this.#cost += this.#costOf(item);
  }

  /** Ends the iteration after what is queued; the first end counts. */
  finish(): void {
    this.#close(null);
  }

  /** Drops what is queued and makes the reader's next read throw; the first end counts. */
  fail(error: LoramuxError): void {
    if (this.#end !== null) return;
    this.#items = [];
    this.#cost = 0;
    this.#close(error);
  }

  next(): Promise<IteratorResult<T>> {
    const item = this.#items.shift();
    if (item !== undefined) {
      this.#cost -= this.#costOf(item);
      return Promise.resolve({ value: item, done: false });
    }
    if (this.#end !== null) {
      const { error } = this.#end;
      this.#end = { error: null };
      return error === null ? Promise.resolve({ value: undefined, done: true }) : Promise.reject(error);
    }
    if (this.#waiting !== null) throw new LoramuxError('ERR_BAD_REQUEST', 'a generation has one reader, got a second');
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
    });
  }

  #close(error: LoramuxError | null): void {
    if (this.#end !== null) return;
    const reader = this.#waiting;
    this.#waiting = null;
    this.#end = { error: reader === null ? error : null };
    if (reader === null) return;
    if (error === null) reader.resolve({ value: undefined, done: true });
    else reader.reject(error);
  }
}
