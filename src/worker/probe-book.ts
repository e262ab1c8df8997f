import { type Deferred, deferred } from '../adapters/deferred.js';
import { LoramuxError } from '../core/errors.js';
import { type GenerateRequest, GREEDY_SAMPLING, PLAIN_REQUEST, type SequenceEvent } from '../core/request.js';

/**
 * Requests of the engine's own, which ask for the logits after a prompt. They are scheduled like anybody's; only what
 * they come to is delivered here instead of to the main thread. Their ids are negative, those of clients positive.
 */
export class ProbeBook {
  readonly #waiting = new Map<number, Deferred<Float32Array>>();
  #nextId = -1;

  /** A request for one token after `promptIds`, and the logits [V] that it will be chosen from. */
  begin(promptIds: Uint32Array): { readonly request: GenerateRequest; readonly logits: Promise<Float32Array> } {
    const request: GenerateRequest = {
      id: this.#nextId--,
      adapter: 'probe',
      promptIds,
      maxNewTokens: 1,
      stopIds: [],
      sampling: GREEDY_SAMPLING,
      ...PLAIN_REQUEST,
    };
    const waiting = deferred<Float32Array>();
    this.#waiting.set(request.id, waiting);
    return { request, logits: waiting.promise };
  }

  /** True when the step must hand back the logits of this request. */
  has(requestId: number): boolean {
    return this.#waiting.has(requestId);
  }

  /** Keeps the logits [V] of a request if it is one of its own. Call it before the step is committed. */
  take(id: number, logits: Float32Array): void {
    this.#settle(id)?.resolve(logits.slice());
  }

  /** True when the event belongs to a request of its own; one that ended without logits has then failed. */
  receive(event: SequenceEvent): boolean {
    if (event.id >= 0) return false;
    if (event.kind === 'error') this.#settle(event.id)?.reject(LoramuxError.fromRecord(event.error));
    return true;
  }

  /** Fails whatever still waits. */
  close(error: LoramuxError): void {
    for (const id of [...this.#waiting.keys()]) this.#settle(id)?.reject(error);
  }

  #settle(id: number): Deferred<Float32Array> | undefined {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    return waiting;
  }
}
