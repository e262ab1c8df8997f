import { FairOrder } from './fair-order.js';
import type { Sequence } from './sequence.js';

/**
 * Sequences that do not run: the runnable ones in the order they will be admitted, and apart from them those whose
 * adapter is still loading, so that admission never has to look past one. Order: preempted sequences, the engine's own
 * requests, those whose turn had come before, then the adapters in fair turns.
 */
export class WaitingQueue {
  /** What has no turn to wait for. */
  readonly #first: Sequence[] = [];
  readonly #fair = new FairOrder();
  readonly #loading = new Map<number, Sequence>();

  get size(): number {
    return this.#first.length + this.#fair.size + this.#loading.size;
  }

  get runnableCount(): number {
    return this.#first.length + this.#fair.size;
  }

  get loadingCount(): number {
    return this.#loading.size;
  }

  /** The runnable sequences, next one first; computed as far as it is asked for. Valid until something changes. */
  *runnable(): Generator<Sequence> {
    yield* this.#first;
    yield* this.#fair.order();
  }

  loading(): Iterable<Sequence> {
    return this.#loading.values();
  }

  /** Adds a sequence that never ran. */
  insert(sequence: Sequence): void {
    if (sequence.adapters === null) this.#loading.set(sequence.id, sequence);
    else this.#fair.insert(sequence);
  }

  /** Adds a request of the engine's own: only preempted sequences and its like go before it. */
  insertFirst(sequence: Sequence): void {
    const place = this.#first.findLastIndex(({ everAdmitted, arrival }) => everAdmitted || arrival <= sequence.arrival);
    this.#first.splice(place + 1, 0, sequence);
  }

  /** Takes out a sequence whose adapter has loaded, to be inserted again; null when none of that id is loading. */
  takeLoaded(id: number): Sequence | null {
    const sequence = this.#loading.get(id) ?? null;
    this.#loading.delete(id);
    return sequence;
  }

  /** Puts a preempted sequence before all others. */
  pushFront(sequence: Sequence): void {
    this.#first.unshift(sequence);
  }

  /** The turn of a sequence has come: whatever it waits for yet, it is no other turn. Call it in the order of `runnable`. */
  takeTurn(sequence: Sequence): void {
    if (this.#fair.take(sequence)) this.#first.push(sequence);
  }

  /** Takes out a sequence that starts to run, or ended. */
  remove(sequence: Sequence): void {
    if (this.#loading.delete(sequence.id) || this.#fair.remove(sequence)) return;
    const place = this.#first.indexOf(sequence);
    if (place >= 0) this.#first.splice(place, 1);
  }
}
