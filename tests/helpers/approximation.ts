import type { Outcome } from './direct-engine.js';

/** How far an approximate engine strays from an exact one on the same requests. */
export class Approximation {
  /** Largest and summed |difference| of logits, over rows that both computed from the same tokens. */
  largest = 0;
  #sum = 0;
  #logits = 0;
  /** Greedy tokens up to and with the first that differs, and how many of them agree. */
  tokens = 0;
  agreed = 0;

  get mean(): number {
    return this.#sum / this.#logits;
  }

  get agreement(): number {
    return this.agreed / this.tokens;
  }

  /** `usable`: tokens whose choice was no near tie. */
  add(exact: Outcome, found: Outcome, usable: number): void {
    for (let step = 0; step < usable; step += 1) {
      const [wanted, got] = [exact.logits[step], found.logits[step]];
      if (wanted === undefined || got === undefined) return;
      for (let id = 0; id < wanted.length; id += 1) {
        const error = Math.abs((wanted[id] as number) - (got[id] as number));
        if (!Number.isFinite(error)) continue;
        this.largest = Math.max(this.largest, error);
        this.#sum += error;
        this.#logits += 1;
      }
      this.tokens += 1;
      // What follows another token is another text.
      if (exact.tokens[step] !== found.tokens[step]) return;
      this.agreed += 1;
    }
  }

  toString(): string {
    const share = `${this.agreed} of ${this.tokens} greedy tokens agree`;
    return `logits off by ${this.mean.toExponential(2)} in the mean, ${this.largest.toExponential(2)} at most; ${share}`;
  }
}
