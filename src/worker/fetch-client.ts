import { Worker } from 'node:worker_threads';
import type { FetchJob } from '../adapters/sources/fetcher.js';
import type { FetchBackend } from '../adapters/sources/source-fetcher.js';
import type { FetchedFile, FetchSettings } from '../core/adapter-fetch.js';
import { LoramuxError } from '../core/errors.js';
import type { FromFetchWorker, ToFetchWorker } from '../messages/fetch-messages.js';

interface Pending {
  readonly resolve: (files: readonly FetchedFile[]) => void;
  readonly reject: (error: LoramuxError) => void;
  readonly onProgress: FetchJob['onProgress'];
}

/** The engine worker's end of the fetch worker, which is started by the first fetch. */
export class FetchWorkerClient implements FetchBackend {
  readonly #pending = new Map<number, Pending>();
  #worker: Worker | null = null;
  #nextId = 1;

  constructor(private readonly start: FetchSettings) {}

  /** As `Fetcher.fetch`. */
  async fetch({ source, directory, previous, signal, onProgress }: FetchJob): Promise<readonly FetchedFile[]> {
    const id = this.#nextId++;
    const abort = (): void => this.#post({ type: 'abort', id });
    try {
      return await new Promise((resolve, reject) => {
        this.#pending.set(id, { resolve, reject, onProgress });
        this.#post({ type: 'fetch', id, source, directory, previous });
        signal.addEventListener('abort', abort, { once: true });
        if (signal.aborted) abort();
      });
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }

  async close(): Promise<void> {
    const worker = this.#worker;
    this.#worker = null;
    this.#failAll(new LoramuxError('ERR_ENGINE_CLOSED', 'the engine is closed: it fetches nothing more'));
    await worker?.terminate();
  }

  #post(message: ToFetchWorker): void {
    this.#worker ??= this.#launch();
    this.#worker.postMessage(message);
  }

  #launch(): Worker {
    const worker = new Worker(new URL('./fetch-entry.js', import.meta.url), {
      name: 'loramux-fetch',
      workerData: this.start,
    });
    worker.on('message', (message: FromFetchWorker) => this.#receive(message));
    const gone = (why: string): void => {
      if (this.#worker !== worker) return;
      this.#worker = null;
      this.#failAll(new LoramuxError('ERR_ADAPTER_SOURCE', `the fetch worker ended: ${why}; load the adapter again`));
    };
    worker.on('error', (error) => gone(error.message));
    worker.on('exit', (code) => gone(`code ${code}`));
    return worker;
  }

  #receive(message: FromFetchWorker): void {
    const pending = this.#pending.get(message.id);
    if (pending === undefined) return;
    if (message.type === 'progress') {
      pending.onProgress(message.progress);
      return;
    }
    this.#pending.delete(message.id);
    if (message.type === 'done') pending.resolve(message.files);
    else pending.reject(LoramuxError.fromRecord(message.error));
  }

  #failAll(error: LoramuxError): void {
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
  }
}
