import type { Sequence } from './sequence.js';

/**
 * Sequences that do not run: the runnable ones in the order they will be admitted, and apart from them those whose
 * adapter is still loading, so that admission never has to look past one. Order: preempted sequences, then by arrival.
 */
export class WaitingQueue {
  readonly #runnable: Sequence[] = [];
  readonly #loading = new Map<number, Sequence>();

  get size(): number {
    return this.#runnable.length + this.#loading.size;
  }

  get runnable(): readonly Sequence[] {
    return this.#runnable;
  }

  get loadingCount(): number {
    return this.#loading.size;
  }

  loading(): Iterable<Sequence> {
    return this.#loading.values();
  }

  /** Adds a sequence that never ran, at the place that its arrival earned. */
  insert(sequence: Sequence): void {
    if (sequence.adapters === null) {
      this.#loading.set(sequence.id, sequence);
      return;
    }
    let place = this.#runnable.length;
    while (place > 0 && comesAfter(this.#runnable[place - 1] as Sequence, sequence)) place -= 1;
    this.#runnable.splice(place, 0, sequence);
  }

  /** Takes out a sequence whose adapter has loaded, to be inserted again; null when none of that id is loading. */
  takeLoaded(id: number): Sequence | null {
    const sequence = this.#loading.get(id) ?? null;
    this.#loading.delete(id);
    return sequence;
  }

  /** Puts a preempted sequence before all others. */
  pushFront(sequence: Sequence): void {
    this.#runnable.unshift(sequence);
  }

  remove(sequence: Sequence): void {
    if (this.#loading.delete(sequence.id)) return;
    const place = this.#runnable.indexOf(sequence);
    if (place >= 0) this.#runnable.splice(place, 1);
  }
}

function comesAfter(queued: Sequence, arrived: Sequence): boolean {
  return !queued.everAdmitted && queued.arrival > arrived.arrival;
}
