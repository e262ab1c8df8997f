import { BASE_NAME } from '../core/names.js';

export const OTHER_LABEL = 'other';

export interface AdapterLabelOptions {
  /** Names that have a label of their own beside the base; 0 = none. */
  readonly max: number;
  /** How long a name keeps its label at least. */
  readonly stickyMs: number;
  /** Names whose requests are counted to find the busiest ones. */
  readonly maxTracked: number;
  readonly now: () => number;
  /** A name lost its label: its series must go. */
  readonly onDrop: (label: string) => void;
}

/**
 * Bounds the values of the label `adapter`: the base, the busiest names, and `other` for the rest. A busier name
 * takes the place of the least busy one that has held its label long enough.
 */
export class AdapterLabels {
  readonly #options: AdapterLabelOptions;
  /** Requests by name; least recently used first. */
  readonly #requests = new Map<string, number>();
  /** Labelled names and since when. */
  readonly #labelled = new Map<string, number>();

  constructor(options: AdapterLabelOptions) {
    this.#options = options;
  }

  /** Counts a request of `name` and returns the label for it. */
  count(name: string): string {
    if (name === BASE_NAME) return BASE_NAME;
    this.#track(name);
    if (this.#labelled.has(name)) return name;
    if (this.#labelled.size >= this.#options.max && !this.#makeRoom(name)) return OTHER_LABEL;
    this.#labelled.set(name, this.#options.now());
    return name;
  }

  /** The name has a label of its own. */
  has(name: string): boolean {
    return this.#labelled.has(name);
  }

  #track(name: string): void {
    const requests = (this.#requests.get(name) ?? 0) + 1;
    this.#requests.delete(name);
    this.#requests.set(name, requests);
    const [oldest] = this.#requests.keys();
    if (this.#requests.size > this.#options.maxTracked && oldest !== undefined) this.#requests.delete(oldest);
  }

  #makeRoom(name: string): boolean {
    const { now, stickyMs, onDrop } = this.#options;
    const requestsOf = (candidate: string): number => this.#requests.get(candidate) ?? 0;
    const replaceable = [...this.#labelled.keys()].filter(
      (held) => now() - (this.#labelled.get(held) ?? 0) >= stickyMs,
    );
    const [idlest] = replaceable.sort((a, b) => requestsOf(a) - requestsOf(b));
    if (idlest === undefined || requestsOf(idlest) >= requestsOf(name)) return false;
    this.#labelled.delete(idlest);
    onDrop(idlest);
    return true;
  }
}
