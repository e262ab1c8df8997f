import type { ServerResponse } from 'node:http';
import { LoramuxError } from '../core/errors.js';

/** Silence after which a comment keeps proxies from closing the stream. */
const KEEP_ALIVE_MS = 15_000;
/** How long a reader may take nothing at all before its connection is closed. */
const STALL_MS = 30_000;

export interface SseTimers {
  readonly keepAliveMs: number;
  readonly stallMs: number;
}

/**
 * Server-sent events on a raw response: each event is one `data:` line and a blank line in one write, comments keep
 * a silent stream open. Writes wait for a slow reader; one that stalls for too long is disconnected.
 */
export class SseStream {
  readonly #response: ServerResponse;
  readonly #timers: SseTimers;
  #keepAlive: NodeJS.Timeout;

  /** Status 200 and `headers` go out with the first event. Their content type wins over `text/event-stream`. */
  constructor(
    response: ServerResponse,
    headers: Readonly<Record<string, number | string | string[] | undefined>>,
    timers: SseTimers = { keepAliveMs: KEEP_ALIVE_MS, stallMs: STALL_MS },
  ) {
    this.#response = response;
    this.#timers = timers;
    const all = {
      'content-type': 'text/event-stream',
      'cache-control': 'no-cache',
      'x-accel-buffering': 'no',
      ...headers,
    };
    for (const [name, value] of Object.entries(all)) if (value !== undefined) response.setHeader(name, value);
    response.writeHead(200);
    this.#keepAlive = setInterval(() => this.#comment(), timers.keepAliveMs).unref();
  }

  /**
   * Writes one event. Returns null when the reader can take more at once, else a promise for when it can. Throws, or
   * rejects with, ERR_ABORTED when it is gone or stalls.
   */
  send(json: string): Promise<void> | null {
    this.#keepAlive.refresh();
    if (this.#response.destroyed) throw new LoramuxError('ERR_ABORTED', 'the reader closed the stream');
    return this.#response.write(`data: ${json}\n\n`) ? null : this.#drained();
  }

  /** Writes one event without waiting, if there is still a reader; for the event before `end`. */
  sendLast(json: string): void {
    if (!this.#response.destroyed) this.#response.write(`data: ${json}\n\n`);
  }

  /** Ends the stream; nothing may follow. A reader that never takes the rest is disconnected in the end. */
  end(): void {
    clearInterval(this.#keepAlive);
    const stall = setTimeout(() => this.#response.destroy(), this.#timers.stallMs).unref();
    this.#response.once('close', () => clearTimeout(stall));
    this.#response.end();
  }

  #comment(): void {
    if (!this.#response.writableNeedDrain && !this.#response.destroyed) this.#response.write(':\n\n');
  }

  #drained(): Promise<void> {
    const response = this.#response;
    return new Promise((resolve, reject) => {
      const settle = (error: LoramuxError | null): void => {
        clearTimeout(stall);
        response.off('drain', onDrain);
        response.off('close', onClose);
        if (error === null) resolve();
        else reject(error);
      };
      const onDrain = (): void => settle(null);
      const onClose = (): void => settle(new LoramuxError('ERR_ABORTED', 'the reader closed the stream'));
      const stall = setTimeout(() => {
        settle(new LoramuxError('ERR_ABORTED', `the reader took nothing for ${this.#timers.stallMs} ms`));
        response.destroy();
      }, this.#timers.stallMs);
      response.on('drain', onDrain);
      response.on('close', onClose);
    });
  }
}
