import { readFileSync } from 'node:fs';
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { type BaseText, readText } from '../adapters/text/read-text.js';
import { TokenizerFile } from '../adapters/text/tokenizer-file.js';
import { LoramuxError, toLoramuxError } from '../core/errors.js';
import { loadBinding } from '../engine/addon.js';
import type { FromTextWorker, TextStart, ToTextWorker } from '../messages/text-messages.js';

/** The text worker: parses tokenizers of some megabytes, which would hold up steps or requests elsewhere. */
function serve(port: MessagePort, { tokenizerPath, ...start }: TextStart): void {
  const base: BaseText = { ...start, tokenizer: new TokenizerFile(readFileSync(tokenizerPath, 'utf8')) };
  const post = (message: FromTextWorker): void => port.postMessage(message);
  port.on('message', async ({ id, place, files }: ToTextWorker) => {
    try {
      post({
        type: 'done',
        id,
        read: await readText(place, files, base, (json) => loadBinding().Tokenizer.fromJson(json)),
      });
    } catch (thrown) {
      post({ type: 'failed', id, error: toLoramuxError(thrown).toRecord() });
    }
  });
}

if (parentPort === null) throw new LoramuxError('ERR_NATIVE', 'expected to be started as a worker thread');
serve(parentPort, workerData as TextStart);
