import type { AdminCall, AdminReplies, EngineState } from './adapter-admin.js';
import type { GenerateRequest, SequenceEvent } from './request.js';
import type { Telemetry } from './telemetry.js';
import type { SpecialTokens } from './tokenizer-config.js';

/** Limits the main thread needs to validate requests before they are sent to the engine. */
export interface EngineLimits {
  readonly modelId: string;
  readonly precision: string;
  /** Why this precision, for people. */
  readonly precisionReason: string;
  readonly device: string;
  readonly vocabSize: number;
  readonly maxModelLen: number;
  readonly maxSequences: number;
  readonly maxBatchTokens: number;
  readonly maxQueue: number;
  readonly eosTokenIds: readonly number[];
  readonly chatTemplate: string | null;
  readonly specialTokens: SpecialTokens;
}

/** Handle of one submitted request. */
export interface Submission {
  /** Ends the request early without an event; idempotent, harmless after the terminal event. */
  abort(): void;
  /** Answers a `text` event: the same request with a prompt made anew. Does nothing after the terminal event. */
  resubmit(request: GenerateRequest): void;
}

/**
 * The main thread's only way to the engine worker. Implemented over messages (engine/worker-client.ts) and, in
 * HTTP tests, by a scripted double.
 */
export interface EngineClient {
  readonly limits: EngineLimits;
  /** Events arrive in order and end with exactly one terminal event, unless `abort` came first. */
  submit(request: GenerateRequest, onEvent: (event: SequenceEvent) => void): Submission;
  admin<Op extends AdminCall['op']>(call: Extract<AdminCall, { op: Op }>): Promise<AdminReplies[Op]>;
  /** Latest state pushed by the worker; never blocks. */
  state(): EngineState;
  /** Calls `listener` for every fact reported from now on. */
  onTelemetry(listener: (fact: Telemetry) => void): void;
  /** Null while healthy; set once when the engine cannot go on. */
  fatalError(): Error | null;
  /** Refuses new work, resolves when nothing runs or `timeoutMs` passed (leftovers then get an error event). */
  drain(timeoutMs: number): Promise<void>;
  close(): Promise<void>;
}
