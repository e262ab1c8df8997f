/** What a request holds: adapters, or a matcher. */
interface Lease {
  release(): void;
}

/** What one request holds or waits for. */
type Holding = { readonly lease: Lease } | { readonly waiting: AbortController };

/**
 * Leases of one kind by request. One that ends while a step is in flight is given back only after the step, because
 * the step's batch may still name its handle.
 */
export class LeaseBook {
  readonly #holdings = new Map<number, Holding>();
  #stepInFlight = false;
  #deferred: Lease[] = [];

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
    else if (this.#stepInFlight) this.#deferred.push(holding.lease);
    else holding.lease.release();
  }

  stepBegins(): void {
    this.#stepInFlight = true;
  }

  stepEnds(): void {
    this.#stepInFlight = false;
    const leases = this.#deferred;
    this.#deferred = [];
    for (const lease of leases) lease.release();
  }
}
