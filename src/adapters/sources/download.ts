import type { Readable } from 'node:stream';
import type { FetchProgress } from '../../core/adapter-source.js';
import { AttemptFailure } from './fetch-errors.js';
import type { ByteSink, IncomingDirectory } from './incoming-directory.js';
import { withRetries } from './retry.js';

/** Where a reply goes on: the bytes before `offset` are here, and `validator` says of which version. */
export interface ResumePoint {
  readonly offset: number;
  readonly validator: string;
}

/** A reply whose bytes are about to come. */
export interface OpenedFile {
  readonly stream: Readable;
  /** Length of the whole file; null when the source does not say. */
  readonly bytes: number | null;
  /** True when the stream begins at the resume point; false when it begins at zero. */
  readonly resumed: boolean;
  /** Names these bytes exactly; null when the source has nothing of the kind. */
  readonly validator: string | null;
  /** The source can go on from the middle of these bytes. */
  readonly isResumable: boolean;
}

/** The source has no such file, or the copy that is here is still the current one. */
export type NoBytes = 'missing' | 'unchanged';

/** Asks for one file. `signal` ends the request and its stream. */
export type OpenFile = (from: ResumePoint | null, signal: AbortSignal) => Promise<OpenedFile | NoBytes>;

/** What one fetch shares among its files. */
export interface FetchContext {
  readonly incoming: IncomingDirectory;
  /** Fires when nobody wants the files any more, or their time is over; its reason is the error. */
  readonly signal: AbortSignal;
  readonly onProgress: (progress: FetchProgress) => void;
}

/** Fires when nothing was heard for `stallMs`; `touch` begins the wait anew. */
class Watchdog {
  readonly #controller = new AbortController();
  readonly #timer: NodeJS.Timeout;
  readonly signal: AbortSignal;

  constructor(stallMs: number, outer: AbortSignal) {
    const stalled = new AttemptFailure(`nothing came for ${stallMs / 1000} s`, 'timeout', true);
    this.#timer = setTimeout(() => this.#controller.abort(stalled), stallMs);
    this.signal = AbortSignal.any([outer, this.#controller.signal]);
  }

  touch(): void {
    this.#timer.refresh();
  }

  stop(): void {
    clearTimeout(this.#timer);
  }
}

/** `work`, or the reason of `signal` if that comes first; what arrives too late is handed to `drop`. */
async function unless<T>(signal: AbortSignal, work: Promise<T>, drop: (late: T) => void): Promise<T> {
  let onAbort: () => void = () => undefined;
  const aborted = new Promise<never>((_resolve, reject) => {
    onAbort = () => reject(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
  });
  try {
    return await Promise.race([work, aborted]);
  } catch (thrown) {
    work.then(drop, () => undefined);
    throw thrown;
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/** Asks a source something small, with the stall limit and the retries of a fetch. */
export function ask<T>(context: FetchContext, question: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const { retry, stallMs } = context.incoming.limits;
  return withRetries(retry, context.signal, async () => {
    const watchdog = new Watchdog(stallMs, context.signal);
    try {
      return await unless(watchdog.signal, question(watchdog.signal), () => undefined);
    } finally {
      watchdog.stop();
    }
  });
}

/**
 * Brings one file through `makeSink` into the incoming directory, going on where a try broke off if the source can.
 * Errors: AttemptFailure, ERR_ADAPTER_TOO_LARGE, what the sink throws.
 */
export async function download(
  context: FetchContext,
  name: string,
  openFile: OpenFile,
  makeSink: () => Promise<ByteSink>,
): Promise<NoBytes | 'fetched'> {
  const transfer = new Transfer(context, name, makeSink);
  try {
    return await withRetries(context.incoming.limits.retry, context.signal, () => transfer.attempt(openFile));
  } catch (thrown) {
    await transfer.discard();
    throw thrown;
  }
}

function drop(late: OpenedFile | NoBytes): void {
  if (typeof late !== 'string') late.stream.destroy();
}

class Transfer {
  #sink: ByteSink | null = null;
  #received = 0;
  #validator: string | null = null;

  constructor(
    private readonly context: FetchContext,
    private readonly name: string,
    private readonly makeSink: () => Promise<ByteSink>,
  ) {}

  async attempt(openFile: OpenFile): Promise<NoBytes | 'fetched'> {
    const { incoming, signal } = this.context;
    const watchdog = new Watchdog(incoming.limits.stallMs, signal);
    try {
      const validator = this.#received === 0 ? null : this.#validator;
      const from = validator === null ? null : { offset: this.#received, validator };
      const opened = await unless(watchdog.signal, openFile(from, watchdog.signal), drop);
      if (typeof opened === 'string') return opened;
      await this.#take(opened, watchdog);
      return 'fetched';
    } finally {
      watchdog.stop();
    }
  }

  async discard(): Promise<void> {
    const sink = this.#sink;
    this.#sink = null;
    this.#received = 0;
    this.#validator = null;
    await sink?.discard();
  }

  async #take(opened: OpenedFile, watchdog: Watchdog): Promise<void> {
    const { stream, bytes } = opened;
    const destroy = (): void => {
      stream.destroy(watchdog.signal.reason);
    };
    watchdog.signal.addEventListener('abort', destroy, { once: true });
    try {
      if (!opened.resumed) await this.discard();
      if (bytes !== null) this.context.incoming.announce(this.name, bytes - this.#received);
      this.#sink ??= await this.makeSink();
      this.#validator = opened.isResumable ? opened.validator : null;
      await this.#pour(stream, this.#sink, bytes, watchdog);
      if (bytes !== null && this.#received !== bytes) {
        throw new AttemptFailure(`it announced ${bytes} bytes and sent ${this.#received}`, 'failed', true);
      }
      await this.#sink.end(opened.validator);
      this.#sink = null;
    } catch (thrown) {
      watchdog.signal.throwIfAborted();
      throw thrown;
    } finally {
      watchdog.signal.removeEventListener('abort', destroy);
      stream.destroy();
    }
  }

  async #pour(stream: Readable, sink: ByteSink, total: number | null, watchdog: Watchdog): Promise<void> {
    const { incoming, onProgress } = this.context;
    const before = incoming.bytes - this.#received;
    for await (const chunk of stream) {
      const bytes = chunk as Uint8Array;
      watchdog.touch();
      if (total !== null && this.#received + bytes.byteLength > total) {
        this.#validator = null;
        throw new AttemptFailure(`it announced ${total} bytes and sent more`, 'failed', true);
      }
      await sink.write(bytes);
      this.#received += bytes.byteLength;
      onProgress({ bytes: before + this.#received, total: total === null ? null : before + total });
    }
  }
}
