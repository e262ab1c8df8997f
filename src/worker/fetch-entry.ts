import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { Fetcher } from '../adapters/sources/fetcher.js';
import type { FetchSettings } from '../core/adapter-fetch.js';
import { LoramuxError, toLoramuxError } from '../core/errors.js';
import type { FromFetchWorker, ToFetchWorker } from '../messages/fetch-messages.js';

/** Progress is told at most this often for each fetch. */
const PROGRESS_MS = 200;

/** The fetch worker: sockets, TLS and hashing run here, so that neither steps nor requests wait for them. */
function serve(port: MessagePort, start: FetchSettings): void {
  const fetcher = new Fetcher(start);
  const running = new Map<number, AbortController>();
  const post = (message: FromFetchWorker): void => port.postMessage(message);

  const fetch = async ({
    id,
    source,
    directory,
    previous,
  }: Extract<ToFetchWorker, { type: 'fetch' }>): Promise<void> => {
    const controller = new AbortController();
    running.set(id, controller);
    let toldMs = Number.NEGATIVE_INFINITY;
    try {
      const files = await fetcher.fetch({
        source,
        directory,
        previous,
        signal: controller.signal,
        onProgress: (progress) => {
          if (performance.now() - toldMs < PROGRESS_MS) return;
          toldMs = performance.now();
          post({ type: 'progress', id, progress });
        },
      });
      post({ type: 'done', id, files });
    } catch (thrown) {
      post({ type: 'failed', id, error: toLoramuxError(thrown, 'ERR_ADAPTER_SOURCE').toRecord() });
    } finally {
      running.delete(id);
    }
  };

  port.on('message', (message: ToFetchWorker) => {
    if (message.type === 'fetch') void fetch(message);
    else running.get(message.id)?.abort();
  });
}

if (parentPort === null) throw new LoramuxError('ERR_NATIVE', 'expected to be started as a worker thread');
serve(parentPort, workerData as FetchSettings);
