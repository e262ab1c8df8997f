/** What a request holds: adapters, or a matcher. */
interface Lease {
  release(): void;
}

/** What one request holds or waits for. */
type Holding = { readonly lease: Lease } | { readonly waiting: AbortController };

/**
 * Leases of one kind by request. One that ends while steps are in flight is given back only after the last of them,
 * because their batches may still name its handle.
 */
export class LeaseBook {
  readonly #holdings = new Map<number, Holding>();
  /** For each step in flight, in the order in which they end, what is given back after it. */
  readonly #deferred: Lease[][] = [];

  get size(): number {
    return this.#holdings.size;
  }

  hold(requestId: number, lease: Lease): void {
    this.#holdings.set(requestId, { lease });
  }

  wait(requestId: number, waiting: AbortController): void {
    this.#holdings.set(requestId, { waiting });
  }

  /** The request ended: returns its lease, or gives up waiting for one. */
  end(requestId: number): void {
    const holding = this.#holdings.get(requestId);
    if (holding === undefined) return;
    this.#holdings.delete(requestId);
    if ('waiting' in holding) holding.waiting.abort();
    else this.#release(holding.lease);
  }

  stepBegins(): void {
    this.#deferred.push([]);
  }

  /** The step that began first is over. */
  stepEnds(): void {
    for (const lease of this.#deferred.shift() ?? []) lease.release();
  }

  #release(lease: Lease): void {
    const last = this.#deferred.at(-1);
    if (last === undefined) lease.release();
    else last.push(lease);
  }
}
