/** Sequence slots 0 … size − 1, lowest first: the native side keeps one `lastSampled` entry for each. */
export class SlotPool {
  readonly #taken: Uint8Array;
  #free: number;

  constructor(size: number) {
    this.#taken = new Uint8Array(size);
    this.#free = size;
  }

  get free(): number {
    return this.#free;
  }

  /** Lowest free slot not below `from`, or −1. Takes nothing. */
  nextFree(from: number): number {
    return this.#taken.indexOf(0, from);
  }

  take(slot: number): void {
    this.#taken[slot] = 1;
    this.#free -= 1;
  }

  release(slot: number): void {
    this.#taken[slot] = 0;
    this.#free += 1;
  }
}
