import type { ChatTemplate } from '../chat/chat-template.js';
import type { AdapterText } from '../core/adapter-text.js';
import type { EngineClient, Submission } from '../core/engine-client.js';
import { LoramuxError, toLoramuxError } from '../core/errors.js';
import type { FinishReason, GenerateRequest, SequenceEvent, ServedBy } from '../core/request.js';
import { EventBuffer } from './event-buffer.js';
import type { ModelText } from './model-text.js';
import type { GenerationObserver } from './observer.js';
import type { PreparedRequest } from './prepare.js';
import { promptTokens } from './prompt-tokens.js';
import type { GenerationEvent, GenerationSpec, GenerationTimes } from './spec.js';
import { type AssembledToken, TextAssembler } from './text-assembler.js';

/** Memory that an unread event holds beside its text, roughly. */
const EVENT_BYTES = 256;

function costOf(event: GenerationEvent): number {
  switch (event.kind) {
    case 'admitted':
      return EVENT_BYTES;
    case 'prompt':
      return EVENT_BYTES * event.tokens.reduce((count, { top }) => count + 1 + top.length, 1);
    case 'token':
    case 'finish': {
      const { token, delta } = event;
      return EVENT_BYTES * (1 + (token?.top.length ?? 0)) + 2 * ((token?.text.length ?? 0) + delta.length);
    }
  }
}

export interface GenerationDeps {
  readonly engine: EngineClient;
  readonly observer: GenerationObserver;
  /** Milliseconds since the epoch, monotonic. */
  readonly now: () => number;
  /** Unread output above this ends the generation. */
  readonly maxBufferedBytes: number;
}

/**
 * One request in the engine. Iterate it once: it yields GenerationEvents, then ends, or throws the LoramuxError that
 * ended it. Whatever happens, the engine's side is freed and the observer is told once.
 */
export class Generation implements AsyncIterable<GenerationEvent> {
  readonly #spec: GenerationSpec;
  readonly #deps: GenerationDeps;
  readonly #receivedMs: number;
  readonly #prepareAgain: (text: AdapterText | null) => Promise<PreparedRequest>;
  #prepared: PreparedRequest;
  #preparations = 1;
  #assembler: TextAssembler;
  readonly #buffer: EventBuffer<GenerationEvent>;
  readonly #deltas: string[] = [];
  readonly #submittedMs: number;
  #submission: Submission | null = null;
  #servedBy: ServedBy | null = null;
  #admittedMs: number | null = null;
  #cachedTokens = 0;
  #firstTokenMs: number | null = null;
  #lastTokenMs = 0;
  #generated = 0;
  #speculated = 0;
  /** The token that should be the last, until the engine says so. */
  #held: AssembledToken | null = null;
  #ended = false;

  constructor(
    deps: GenerationDeps,
    spec: GenerationSpec,
    prepared: PreparedRequest,
    receivedMs: number,
    prepareAgain: (text: AdapterText | null) => Promise<PreparedRequest>,
  ) {
    this.#deps = deps;
    this.#spec = spec;
    this.#prepared = prepared;
    this.#receivedMs = receivedMs;
    this.#prepareAgain = prepareAgain;
    this.#submittedMs = deps.now();
    this.#assembler = this.#newAssembler();
    this.#buffer = new EventBuffer(deps.maxBufferedBytes, costOf);
  }

  /** Certain with the first event; before it, as the adapter was guessed to handle text. */
  get request(): GenerateRequest {
    return this.#prepared.request;
  }

  /** Certain with the first event. */
  get text(): ModelText {
    return this.#prepared.text;
  }

  /** That made the prompt of a conversation; null for other prompts. Certain with the first event. */
  get template(): ChatTemplate | null {
    return 'chat' in this.#spec.prompt ? this.text.template : null;
  }

  /** Hands the request to the engine. Throws what `submit` throws. */
  submit(): void {
    const submission = this.#deps.engine.submit(this.request, (event) => this.#onEvent(event));
    this.#submission = submission;
    if (this.#ended) submission.abort();
  }

  /** Leaving the loop early aborts. */
  [Symbol.asyncIterator](): AsyncIterator<GenerationEvent> {
    return {
      next: () => this.#buffer.next(),
      return: () => {
        this.abort();
        return Promise.resolve({ value: undefined, done: true });
      },
    };
  }

  /** Ends the generation, because its reader left or as `reason` says; harmless after the end. */
  abort(reason = new LoramuxError('ERR_ABORTED', 'the client left before the generation ended')): void {
    this.#fail(reason, false);
  }

  #newAssembler(): TextAssembler {
    const { text, request } = this.#prepared;
    return new TextAssembler(text.tokenizer, this.#spec, request.promptIds, request.stopIds);
  }

  /** Submits the request once more, made for the text handling that its adapter turned out to have. */
  async #resubmit(text: AdapterText | null): Promise<void> {
    this.#preparations += 1;
    if (this.#preparations > 2) {
      this.#fail(
        new LoramuxError('ERR_STEP_FAILED', "the adapter's text changed under its request: report this"),
        false,
      );
      return;
    }
    try {
      const prepared = await this.#prepareAgain(text);
      if (this.#ended) return;
      this.#prepared = prepared;
      this.#assembler = this.#newAssembler();
      this.#submission?.resubmit(prepared.request);
    } catch (thrown) {
      this.#fail(toLoramuxError(thrown), false);
    }
  }

  #onEvent(event: SequenceEvent): void {
    if (this.#ended) return;
    switch (event.kind) {
      case 'text':
        void this.#resubmit(event.text);
        return;
      case 'admitted':
        if (this.#servedBy !== null) return;
        this.#servedBy = event.servedBy;
        this.#cachedTokens = event.cachedTokens;
        this.#admittedMs = Math.min(Math.max(event.atMs, this.#submittedMs), this.#deps.now());
        this.#buffer.push({ kind: 'admitted', servedBy: event.servedBy });
        return;
      case 'prompt': {
        const tokens = promptTokens(this.text.tokenizer, this.request.promptIds, event.prompt);
        this.#buffer.push({ kind: 'prompt', tokens });
        return;
      }
      case 'token':
        this.#onToken(event);
        return;
      case 'finish':
        if (this.#held !== null) this.#finish(event.reason, this.#assembler.finish(this.#held));
        else if (this.request.maxNewTokens === 0) this.#finish(event.reason, null);
        else this.#incomplete();
        return;
      case 'error':
        this.#fail(LoramuxError.fromRecord(event.error), false);
        return;
    }
  }

  #onToken({ token: id, logprob, top, speculated }: Extract<SequenceEvent, { kind: 'token' }>): void {
    this.#countToken();
    if (speculated) this.#speculated += 1;
    this.#releaseHeld();
    const assembled = this.#assembler.push(id, logprob, top, speculated);
    const isLast = this.#generated === this.request.maxNewTokens || this.request.stopIds.includes(id);
    this.#held = assembled;
    if (isLast) return;
    if (assembled.stopped) this.#finish('stop_sequence', assembled);
    else this.#releaseHeld();
  }

  #countToken(): void {
    const now = this.#deps.now();
    if (this.#firstTokenMs === null) this.#firstTokenMs = now;
    else this.#deps.observer.interToken((now - this.#lastTokenMs) / 1_000);
    this.#lastTokenMs = now;
    this.#generated += 1;
  }

  #releaseHeld(): void {
    const held = this.#held;
    if (held === null) return;
    this.#held = null;
    this.#deltas.push(held.delta);
    this.#buffer.push({ kind: 'token', token: held.token, delta: held.delta });
    if (this.#buffer.overflows) {
      const message = `the reader left more than ${this.#deps.maxBufferedBytes} bytes of output unread: read faster`;
      this.#fail(new LoramuxError('ERR_ABORTED', message), true);
    }
  }

  /** `last` is null when no token was asked for. */
  #finish(reason: FinishReason, last: AssembledToken | null): void {
    const delta = last?.delta ?? '';
    this.#deltas.push(delta);
    const times = this.#times();
    const result = {
      reason,
      stop: this.#stopOf(reason, last),
      text: this.#deltas.join(''),
      promptTokens: this.request.promptIds.length,
      cachedTokens: this.#cachedTokens,
      generatedTokens: this.#generated,
      speculatedTokens: this.#speculated,
      servedBy: this.#servedBy ?? { adapter: this.#spec.adapter, digest: null, tierAtArrival: null },
      times,
    };
    this.#buffer.push({ kind: 'finish', token: last?.token ?? null, delta, result });
    this.#buffer.finish();
    this.#close(null, reason, false, times);
  }

  /** What ended it, where that is neither the end token nor the length. */
  #stopOf(reason: FinishReason, last: AssembledToken | null): string | number | null {
    if (last === null || reason === 'length') return null;
    if (reason === 'stop_sequence') return last.stop;
    const { id } = last.token;
    const ownEnd = !this.#spec.ignoreEos && this.text.eosTokenIds.includes(id);
    return ownEnd ? null : id;
  }

  #incomplete(): void {
    this.#fail(new LoramuxError('ERR_STEP_FAILED', 'the engine finished without a last token: report this'), false);
  }

  #fail(error: LoramuxError, slowConsumer: boolean): void {
    if (this.#ended) return;
    this.#buffer.fail(error);
    this.#close(error, null, slowConsumer, this.#times());
  }

  #close(error: LoramuxError | null, reason: FinishReason | null, slowConsumer: boolean, times: GenerationTimes): void {
    this.#ended = true;
    this.#submission?.abort();
    this.#deps.observer.ended({
      route: this.#spec.route,
      adapter: this.#spec.adapter,
      servedBy: this.#servedBy,
      code: error?.code ?? null,
      reason,
      slowConsumer,
      promptTokens: this.request.promptIds.length,
      cachedTokens: this.#cachedTokens,
      maxNewTokens: this.request.maxNewTokens,
      generatedTokens: this.#generated,
      speculatedTokens: this.#speculated,
      times,
    });
  }

  #times(): GenerationTimes {
    return {
      receivedMs: this.#receivedMs,
      submittedMs: this.#submittedMs,
      admittedMs: this.#admittedMs,
      firstTokenMs: this.#firstTokenMs,
      endedMs: this.#deps.now(),
    };
  }
}
