import { setMaxListeners } from 'node:events';
import type { FastifyBaseLogger } from 'fastify';
import type { WebSocket } from 'ws';
import type { Caller } from '../../core/caller.js';
import { LoramuxError } from '../../core/errors.js';
import type { ServedBy } from '../../core/request.js';
import type { GenerationResult } from '../../generation/spec.js';
import { detailsOf, fingerprintOf } from '../openai/envelope.js';
import { type Run, startAll } from '../openai/runs.js';
import { usageOf } from '../openai/usage.js';
import { logFields, type RequestEndListener } from '../plugins/request-end.js';
import { newFacts, type RequestFacts } from '../request-facts.js';
import { type ClientMessage, readClientMessage } from './client-message.js';
import { Outbox, type StreamOutlet } from './outbox.js';
import { type DoneChoice, readStreamCall, type StreamCall, type StreamCallDeps } from './stream-calls.js';
import { endError, failureError, protocolError, type StreamEnd, type StreamError } from './stream-error.js';

/** Close codes of the protocol, beside the standard ones. */
export const CLOSE = { drained: 1001, binary: 1003, invalid: 4400, revoked: 4401, idle: 4408 } as const;

export interface SessionLimits {
  readonly maxStreams: number;
  readonly maxMessageBytes: number;
  /** Without an open stream. */
  readonly idleMs: number;
  readonly slowConsumerMs: number;
  readonly pingMs: number;
  readonly highWaterBytes: number;
  readonly maxHeldCharacters: number;
}

export interface SessionDeps extends StreamCallDeps {
  readonly limits: SessionLimits;
  readonly logger: FastifyBaseLogger;
  readonly onEnd: RequestEndListener;
  readonly now: () => number;
  /** Who the socket speaks for, asked before each generation. ERR_UNAUTHORIZED when its key is valid no longer. */
  readonly caller: () => Caller;
  /** Route of metrics and logs. */
  readonly route: string;
}

/** Messages that cannot be read until the socket is closed: this many within a minute. */
const MAX_INVALID = 3;
const INVALID_WINDOW_MS = 60_000;

/** A stream under way. */
interface Open {
  readonly controller: AbortController;
  readonly outlet: StreamOutlet;
  /** Why this side ended it. */
  end: StreamEnd | null;
}

/**
 * One WebSocket of the protocol `loramux.v1`: many generations at once, each `accepted`, its `token`s, then exactly one of
 * `done` and `error`. A socket that closes ends all of them.
 */
export class Session {
  readonly #socket: WebSocket;
  readonly #deps: SessionDeps;
  readonly #outbox: Outbox;
  readonly #open = new Map<string, Open>();
  readonly #invalid: number[] = [];
  #draining = false;
  #alive = true;
  #idle: NodeJS.Timeout | null = null;
  readonly #ping: NodeJS.Timeout;

  constructor(socket: WebSocket, deps: SessionDeps) {
    const { limits, now, version } = deps;
    this.#socket = socket;
    this.#deps = deps;
    const { highWaterBytes, maxHeldCharacters, slowConsumerMs } = limits;
    this.#outbox = new Outbox(socket, { highWaterBytes, maxHeldCharacters, maxHeldMs: slowConsumerMs }, now);
    socket.on('message', (data, isBinary) => this.#onMessage(data as Buffer, isBinary));
    socket.on('pong', () => {
      this.#alive = true;
    });
    // The socket says why to the client and closes by itself; its streams need not wait for that.
    socket.on('error', () => this.#onClose());
    socket.on('close', () => this.#onClose());
    this.#ping = setInterval(() => this.#checkAlive(), limits.pingMs).unref();
    this.#restartIdle();
    this.#outbox.write({
      type: 'hello',
      protocol: 'loramux.v1',
      server: `loramux/${version}`,
      limits: {
        max_streams: limits.maxStreams,
        max_message_bytes: limits.maxMessageBytes,
        idle_timeout_ms: limits.idleMs,
        slow_consumer_ms: limits.slowConsumerMs,
      },
    });
  }

  /** Generations under way. */
  get openStreams(): number {
    return this.#open.size;
  }

  /** Takes no more generations; the socket closes when those that run have ended. */
  drain(): void {
    if (this.#draining) return;
    this.#draining = true;
    this.#outbox.write({ type: 'goaway', reason: 'draining' });
    this.#closeIfDrained();
  }

  #onMessage(data: Buffer, isBinary: boolean): void {
    if (isBinary) {
      this.#socket.close(CLOSE.binary, 'text frames only');
      return;
    }
    let message: ClientMessage;
    try {
      message = readClientMessage(data);
    } catch (thrown) {
      this.#refuseMessage(thrown);
      return;
    }
    switch (message.type) {
      case 'ping':
        this.#outbox.write({ type: 'pong', ...(message.t === undefined ? {} : { t: message.t }) });
        break;
      case 'cancel':
        this.#end(message.id, 'cancelled');
        break;
      case 'generate':
        void this.#generate(message);
        break;
    }
  }

  #refuseMessage(thrown: unknown): void {
    const { now } = this.#deps;
    const message = thrown instanceof Error ? thrown.message : String(thrown);
    const param = thrown instanceof LoramuxError ? (thrown.details?.field ?? null) : null;
    this.#writeError(null, protocolError('invalid_message', 400, message, param));
    const since = now() - INVALID_WINDOW_MS;
    this.#invalid.push(now());
    while ((this.#invalid[0] ?? since) < since) this.#invalid.shift();
    if (this.#invalid.length >= MAX_INVALID) this.#socket.close(CLOSE.invalid, 'too many invalid messages');
  }

  /** Answers one `generate` to its end; never rejects. */
  async #generate(message: Extract<ClientMessage, { type: 'generate' }>): Promise<void> {
    const { limits, route } = this.#deps;
    const { id } = message;
    if (this.#open.has(id)) {
      this.#writeError(
        id,
        protocolError('duplicate_id', 400, `a stream ${id} is open already: choose another id`, 'id'),
      );
      return;
    }
    if (this.#draining) {
      this.#writeError(id, endError('draining'));
      return;
    }
    if (this.#open.size >= limits.maxStreams) {
      const text = `${limits.maxStreams} streams are open on this socket: wait for one to end`;
      this.#writeError(id, protocolError('too_many_streams', 429, text));
      return;
    }
    const facts = newFacts();
    const controller = new AbortController();
    const open: Open = { controller, outlet: this.#outbox.stream(id), end: null };
    this.#open.set(id, open);
    this.#stopIdle();
    const deadline = this.#deadline(message.deadlineMs, id);
    let failure: StreamError | null = null;
    try {
      const caller = this.#deps.caller();
      const call = readStreamCall(message.api, message.body, this.#deps, { caller, route });
      call.note(facts);
      open.outlet.last(await this.#run(id, call, open, facts));
    } catch (thrown) {
      controller.abort();
      facts.code = thrown instanceof LoramuxError ? thrown.code : null;
      failure = open.end === null ? failureError(thrown) : endError(open.end);
      if (!(thrown instanceof LoramuxError)) this.#deps.logger.error({ err: thrown }, 'stream failed');
      open.outlet.last({ type: 'error', id, error: failure });
      if (facts.code === 'ERR_UNAUTHORIZED') this.#socket.close(CLOSE.revoked, 'the API key is valid no longer');
    } finally {
      clearTimeout(deadline);
      this.#open.delete(id);
      if (this.#open.size === 0) this.#restartIdle();
      this.#closeIfDrained();
      this.#report(facts, failure?.status ?? 200);
    }
  }

  /** Runs a call, its tokens going out as they come; resolves with the `done` message. */
  async #run(id: string, call: StreamCall, open: Open, facts: RequestFacts): Promise<object> {
    const { generation, engine, version } = this.#deps;
    setMaxListeners(call.jobs.length, open.controller.signal);
    const runs = await startAll(generation, call.jobs, call.model, facts, open.controller);
    let accepted = false;
    const pump = async (run: Run): Promise<{ run: Run; result: GenerationResult; choices: readonly DoneChoice[] }> => {
      const writer = call.writerOf(run);
      for await (const event of run.events) {
        if (event.kind === 'admitted') {
          if (!accepted) this.#accept(id, call, event.servedBy);
          accepted = true;
          continue;
        }
        for (const piece of writer.pieces(event)) {
          if (open.outlet.token(piece)) continue;
          open.outlet.drop();
          this.#end(id, 'slow_consumer');
        }
        if (event.kind === 'finish') return { run, result: event.result, choices: writer.choices(event.result) };
      }
      throw new LoramuxError('ERR_STEP_FAILED', 'the generation ended without a result: report this');
    };
    const finished = await Promise.all(runs.map(pump));
    facts.results = finished.map(({ result }) => result);
    const counts = finished.map(({ run: { job }, result }) => ({
      promptTokens: result.promptTokens,
      cachedTokens: result.cachedTokens,
      generatedTokens: result.generatedTokens,
      copies: job.indexes.length,
      promptCounted: job.promptCounted,
    }));
    const [first] = finished;
    return {
      type: 'done',
      id,
      choices: finished.flatMap(({ choices }) => choices).sort((a, b) => a.index - b.index),
      usage: usageOf(counts),
      ...(first === undefined
        ? {}
        : {
            timings: detailsOf(first.result),
            system_fingerprint: fingerprintOf(engine.limits, version, first.result.servedBy),
          }),
    };
  }

  #accept(id: string, { model }: StreamCall, { digest, tierAtArrival: tier }: ServedBy): void {
    this.#outbox.write({ type: 'accepted', id, model: model.shown, adapter: model.adapter, digest, tier });
  }

  #deadline(deadlineMs: number | null, id: string): NodeJS.Timeout | undefined {
    return deadlineMs === null ? undefined : setTimeout(() => this.#end(id, 'deadline_exceeded'), deadlineMs);
  }

  /** Ends an open stream from this side; its `error` follows. Unknown ids are none of it. */
  #end(id: string, end: StreamEnd): void {
    const open = this.#open.get(id);
    if (open === undefined || open.end !== null) return;
    open.end = end;
    open.controller.abort();
  }

  #writeError(id: string | null, error: StreamError): void {
    this.#outbox.write({ type: 'error', id, error });
  }

  #report(facts: RequestFacts, status: number): void {
    const { route, engine, logger, onEnd, now } = this.#deps;
    const seconds = (performance.now() - facts.arrivedMs) / 1_000;
    const end = { route, status, seconds, facts };
    void now;
    onEnd(end);
    logger.info(logFields(end, engine.limits.modelId, 'ws'), 'request end');
  }

  #checkAlive(): void {
    if (!this.#alive) {
      this.#socket.terminate();
      return;
    }
    this.#alive = false;
    this.#socket.ping();
  }

  #restartIdle(): void {
    this.#stopIdle();
    const close = (): void => this.#socket.close(CLOSE.idle, 'no stream was open for too long');
    this.#idle = setTimeout(close, this.#deps.limits.idleMs).unref();
  }

  #stopIdle(): void {
    if (this.#idle !== null) clearTimeout(this.#idle);
    this.#idle = null;
  }

  #closeIfDrained(): void {
    if (this.#draining && this.#open.size === 0) this.#socket.close(CLOSE.drained, 'drained');
  }

  #onClose(): void {
    clearInterval(this.#ping);
    this.#stopIdle();
    this.#outbox.close();
    for (const { controller } of this.#open.values()) controller.abort();
  }
}
