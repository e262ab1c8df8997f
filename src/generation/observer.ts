import type { ErrorCode } from '../core/errors.js';
import type { FinishReason, ServedBy } from '../core/request.js';
import type { GenerationTimes } from './spec.js';

/** How a generation ended, for metrics. */
export interface GenerationSummary {
  readonly route: string;
  /** As asked for; may name no adapter at all. */
  readonly adapter: string;
  /** null when it ended before it was admitted. */
  readonly servedBy: ServedBy | null;
  /** null = finished. ERR_ABORTED = the client left, or was too slow. */
  readonly code: ErrorCode | null;
  /** null when it failed or was ended early. */
  readonly reason: FinishReason | null;
  readonly slowConsumer: boolean;
  readonly promptTokens: number;
  /** Those of them whose KV was there already. */
  readonly cachedTokens: number;
  readonly maxNewTokens: number;
  readonly generatedTokens: number;
  /** Those of them that took no step of their own. */
  readonly speculatedTokens: number;
  readonly times: GenerationTimes;
}

/** Told about every generation; must not throw. */
export interface GenerationObserver {
  /** Seconds between two tokens of one sequence. */
  interToken(seconds: number): void;
  /** Refused before it reached the engine. */
  rejected(code: ErrorCode): void;
  /** Exactly once for every generation handed to the engine. */
  ended(summary: GenerationSummary): void;
}
