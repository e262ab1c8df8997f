import { Worker } from 'node:worker_threads';
import type { TextReader } from '../adapters/text/text-cache.js';
import type { ReadText, TextFile } from '../core/adapter-text.js';
import { LoramuxError } from '../core/errors.js';
import type { FromTextWorker, TextStart, ToTextWorker } from '../messages/text-messages.js';

interface Pending {
  readonly resolve: (read: ReadText) => void;
  readonly reject: (error: LoramuxError) => void;
}

/** The worker ends after this time without work: it holds the base's vocabulary. */
const IDLE_MS = 10_000;

/** The engine worker's end of the text worker, which is started by the first adapter that ships text files. */
export class TextWorkerClient implements TextReader {
  readonly #start: TextStart;
  readonly #pending = new Map<number, Pending>();
  #worker: Worker | null = null;
  #idle: NodeJS.Timeout | null = null;
  #nextId = 1;

  constructor(start: TextStart) {
    this.#start = start;
  }

  /** As `readText`. Takes the memory of the files over. */
  read(place: string, files: readonly TextFile[]): Promise<ReadText> {
    const id = this.#nextId++;
    if (this.#idle !== null) clearTimeout(this.#idle);
    this.#worker ??= this.#launch();
    const message: ToTextWorker = { id, place, files };
    this.#worker.postMessage(message, [...new Set(files.map(({ content }) => content.buffer))]);
    return new Promise((resolve, reject) => this.#pending.set(id, { resolve, reject }));
  }

  async close(): Promise<void> {
    if (this.#idle !== null) clearTimeout(this.#idle);
    await this.#end(new LoramuxError('ERR_ENGINE_CLOSED', 'the engine is closed: it loads no more adapters'));
  }

  #launch(): Worker {
    const worker = new Worker(new URL('./text-entry.js', import.meta.url), {
      name: 'loramux-text',
      workerData: this.#start,
    });
    worker.on('message', (message: FromTextWorker) => this.#receive(message));
    const gone = (why: string): void => {
      if (this.#worker !== worker) return;
      void this.#end(new LoramuxError('ERR_NATIVE', `the text worker ended: ${why}; load the adapter again`));
    };
    worker.on('error', (error) => gone(error.message));
    worker.on('exit', (code) => gone(`code ${code}`));
    return worker;
  }

  #receive(message: FromTextWorker): void {
    const pending = this.#pending.get(message.id);
    this.#pending.delete(message.id);
    if (message.type === 'done') pending?.resolve(message.read);
    else pending?.reject(LoramuxError.fromRecord(message.error));
    if (this.#pending.size > 0) return;
    this.#idle = setTimeout(() => void this.#end(null), IDLE_MS);
    this.#idle.unref();
  }

  /** `error` is for whatever is pending. */
  async #end(error: LoramuxError | null): Promise<void> {
    const worker = this.#worker;
    this.#worker = null;
    if (error !== null) for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
    await worker?.terminate();
  }
}
