/** Where the process is in its life; shared by the public app, the admin app and the signal handlers. */
export class Lifecycle {
  #phase: 'starting' | 'ready' | 'draining' = 'starting';
  #started = false;
  readonly #readyListeners: (() => void)[] = [];
  readonly #drainListeners: (() => void)[] = [];

  get ready(): boolean {
    return this.#phase === 'ready';
  }

  get draining(): boolean {
    return this.#phase === 'draining';
  }

  /** True from the first `markReady` on, for good. */
  get started(): boolean {
    return this.#started;
  }

  /** The model is loaded and has generated a token. No effect once draining. */
  markReady(): void {
    this.#started = true;
    if (this.#phase !== 'starting') return;
    this.#phase = 'ready';
    for (const listener of this.#readyListeners) listener();
  }

  /** Calls `listener` once, when the server is ready; at once if it is. */
  onReady(listener: () => void): void {
    if (this.ready) listener();
    else this.#readyListeners.push(listener);
  }

  /** Calls `listener` once, when the drain begins. */
  onDrain(listener: () => void): void {
    this.#drainListeners.push(listener);
  }

  /** New work is refused from now on; idempotent. Returns true for the call that began it. */
  beginDrain(): boolean {
    if (this.#phase === 'draining') return false;
    this.#phase = 'draining';
    for (const listener of this.#drainListeners) listener();
    return true;
  }
}
