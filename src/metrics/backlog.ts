/**
 * Things to be counted that come one at a time, at every token or step: they wait, and are counted together. What
 * counts them has left the processor's caches between two steps, and would come back for each one.
 */
export class Backlog<T> {
  readonly #count: (item: T) => void;
  readonly #most: number;
  #waiting: T[] = [];

  /** `count` is told of each item, in order: of all that wait once there are `most`, and whenever they are asked for. */
  constructor(most: number, count: (item: T) => void) {
    this.#most = most;
    this.#count = count;
  }

  add(item: T): void {
    if (this.#waiting.push(item) >= this.#most) this.flush();
  }

  flush(): void {
    const items = this.#waiting;
    this.#waiting = [];
    for (const item of items) this.#count(item);
  }
}
