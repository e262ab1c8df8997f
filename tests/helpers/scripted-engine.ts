import type { AdminCall, AdminReplies, EngineState } from '../../src/core/adapter-admin.js';
import type { AdapterText } from '../../src/core/adapter-text.js';
import type { EngineClient, EngineLimits, Submission } from '../../src/core/engine-client.js';
import { type ErrorCode, type ErrorDetails, LoramuxError } from '../../src/core/errors.js';
import { BASE_NAME } from '../../src/core/names.js';
import type { GenerateRequest, PromptLogprobs, SequenceEvent, ServedBy, TopLogprobs } from '../../src/core/request.js';
import type { Telemetry } from '../../src/core/telemetry.js';
import { SPECIAL } from './byte-tokenizer.js';

export const LIMITS: EngineLimits = {
  modelId: 'tiny',
  precision: 'f32',
  precisionReason: 'as configured',
  device: 'cpu',
  vocabSize: 512,
  maxModelLen: 64,
  maxSequences: 4,
  maxBatchTokens: 32,
  maxQueue: 8,
  eosTokenIds: [SPECIAL['</s>']],
  chatTemplate: null,
  specialTokens: { bos_token: '<s>', eos_token: '</s>' },
};

export const IDLE: EngineState = {
  waiting: 0,
  waitingForAdapter: 0,
  running: 0,
  kvBlocks: { total: 16, used: 4, cached: 2, adapters: 3, blockSize: 16 },
  tiers: [{ tier: 'host', bytes: 300, capacity: 1000, pinned: 0 }],
  steps: 0,
  lastStepAgeMs: null,
  draining: false,
};

/** One submitted request, to be played by a test. */
export class ScriptedCall implements Submission {
  aborted = false;
  /** What was submitted last. */
  request: GenerateRequest;
  /** Everything that was submitted, in order. */
  readonly submissions: GenerateRequest[];
  readonly #onEvent: (event: SequenceEvent) => void;
  #resubmitted: (() => void)[] = [];

  constructor(request: GenerateRequest, onEvent: (event: SequenceEvent) => void) {
    this.request = request;
    this.submissions = [request];
    this.#onEvent = onEvent;
  }

  abort(): void {
    this.aborted = true;
  }

  resubmit(request: GenerateRequest): void {
    this.request = request;
    this.submissions.push(request);
    for (const resolve of this.#resubmitted) resolve();
    this.#resubmitted = [];
  }

  /** Says how the adapter handles text; resolves once the request was submitted again. */
  async ask(text: AdapterText | null): Promise<this> {
    const again = new Promise<void>((resolve) => this.#resubmitted.push(resolve));
    this.#emit({ kind: 'text', id: this.request.id, text });
    await again;
    return this;
  }

  /** Says how the adapter handles text, and waits for nothing. */
  tell(text: AdapterText | null): this {
    return this.#emit({ kind: 'text', id: this.request.id, text });
  }

  admit(servedBy: Partial<ServedBy> = {}, cachedTokens = 0): this {
    const { id, adapter } = this.request;
    const base = adapter === BASE_NAME;
    const digest = base ? null : 'd'.repeat(64);
    const atMs = performance.timeOrigin + performance.now();
    const served: ServedBy = { adapter, digest, tierAtArrival: base ? null : 'host', ...servedBy };
    return this.#emit({ kind: 'admitted', id, atMs, servedBy: served, cachedTokens });
  }

  /** The prompt's log-probabilities, before the first token. */
  prompt(prompt: PromptLogprobs): this {
    return this.#emit({ kind: 'prompt', id: this.request.id, prompt });
  }

  token(token: number, logprob = -0.5, top: TopLogprobs | null = null, speculated = false): this {
    return this.#emit({ kind: 'token', id: this.request.id, token, logprob, top, speculated });
  }

  /** The prompt's log-probabilities: NaN for the first token, then −1, −2, …; with alternatives as many as asked for. */
  scorePrompt(): this {
    const { promptIds, promptLogprobs } = this.request;
    const logprobs = Float32Array.from(promptIds, (_, at) => (at === 0 ? Number.NaN : -at));
    const top = promptLogprobs?.top ?? 0;
    const alternatives = Array.from(promptIds, (_, at) => topOf(at === 0 ? 0 : top));
    return this.prompt({ logprobs, top: top === 0 ? null : alternatives });
  }

  /** One token for each byte of `text`. */
  tokens(text: string): this {
    for (const byte of new TextEncoder().encode(text)) this.token(byte);
    return this;
  }

  finish(reason: 'length' | 'eos_token'): this {
    return this.#emit({ kind: 'finish', id: this.request.id, reason });
  }

  fail(code: ErrorCode, message: string, details: ErrorDetails = {}): this {
    return this.#emit({ kind: 'error', id: this.request.id, error: { code, message, details } });
  }

  /** The whole life of a request that answers `text` and then the end token. */
  answer(text: string): this {
    return this.admit().tokens(text).token(SPECIAL['</s>']).finish('eos_token');
  }

  #emit(event: SequenceEvent): this {
    if (!this.aborted) this.#onEvent(event);
    return this;
  }
}

/** The ids 97 (`a`), 98, … at −0.25, −0.5, … */
export function topOf(count: number): TopLogprobs {
  const ids = Uint32Array.from({ length: count }, (_, at) => 97 + at);
  return { ids, logprobs: Float32Array.from(ids, (_, at) => -0.25 * (at + 1)) };
}

type AdminHandler = (call: AdminCall) => AdminReplies[AdminCall['op']];

/** An EngineClient without an engine: tests play the events of each request, and read what was asked. */
export class ScriptedEngine implements EngineClient {
  readonly limits: EngineLimits;
  readonly calls: ScriptedCall[] = [];
  readonly adminCalls: AdminCall[] = [];
  current: EngineState = IDLE;
  fatal: Error | null = null;
  drains = 0;
  /** Plays a request in the same turn; null leaves it waiting in `calls`. */
  onSubmit: ((call: ScriptedCall) => void) | null = (call) => {
    call.answer('ok');
  };
  /** Answers questions for an adapter's text; null leaves them to `onSubmit`. */
  textOf: ((request: GenerateRequest) => AdapterText | null) | null = () => null;
  onAdmin: AdminHandler = (call) => {
    throw new LoramuxError('ERR_BAD_REQUEST', `no reply scripted for ${call.op}`);
  };
  readonly #telemetry: ((fact: Telemetry) => void)[] = [];
  #waiting: { count: number; resolve(): void }[] = [];

  constructor(limits: Partial<EngineLimits> = {}) {
    this.limits = { ...LIMITS, ...limits };
  }

  submit(request: GenerateRequest, onEvent: (event: SequenceEvent) => void): Submission {
    const call = new ScriptedCall(request, onEvent);
    this.calls.push(call);
    // A prompt that cannot be made asks for the adapter's text before it is refused.
    if (request.textDigest !== '' || this.textOf === null) this.onSubmit?.(call);
    else void call.ask(this.textOf(request)).then(() => this.onSubmit?.(call));
    for (const { resolve } of this.#waiting.filter(({ count }) => this.calls.length >= count)) resolve();
    this.#waiting = this.#waiting.filter(({ count }) => this.calls.length < count);
    return call;
  }

  /** The call number `index`, as soon as it was submitted. */
  async call(index: number): Promise<ScriptedCall> {
    if (this.calls.length <= index) {
      await new Promise<void>((resolve) => this.#waiting.push({ count: index + 1, resolve }));
    }
    const call = this.calls[index];
    if (call === undefined) throw new RangeError(`no call ${index}`);
    return call;
  }

  async admin<Op extends AdminCall['op']>(call: Extract<AdminCall, { op: Op }>): Promise<AdminReplies[Op]> {
    this.adminCalls.push(call);
    return this.onAdmin(call) as AdminReplies[Op];
  }

  state(): EngineState {
    return this.current;
  }

  onTelemetry(listener: (fact: Telemetry) => void): void {
    this.#telemetry.push(listener);
  }

  report(fact: Telemetry): void {
    for (const listener of this.#telemetry) listener(fact);
  }

  fatalError(): Error | null {
    return this.fatal;
  }

  async drain(): Promise<void> {
    this.drains += 1;
  }

  async close(): Promise<void> {}
}
