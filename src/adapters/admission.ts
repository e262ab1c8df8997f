import { abortedError, closedError } from './registry-errors.js';

/** The order in which requests and loads arrive, and whether any are taken at all. */
export class Admission {
  #nextTicket = 1;
  #closed = false;

  /** Next number in the order of requests and loads. */
  nextTicket(): number {
    return this.#nextTicket++;
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** Nothing is admitted from now on. */
  close(): void {
    this.#closed = true;
  }

  /** ERR_ENGINE_CLOSED once closed, ERR_ABORTED by the signal of a request for the adapter `name`. */
  require(name: string, signal?: AbortSignal): void {
    if (this.#closed) throw closedError();
    if (signal?.aborted === true) throw abortedError(name);
  }
}
