import type { FastifyRequest } from 'fastify';
import type { ErrorCode } from '../core/errors.js';
import type { ServedBy } from '../core/request.js';
import type { GenerationResult } from '../generation/spec.js';

/** What one request turned out to be, collected for its log line and metrics. Never text of prompts or answers. */
export interface RequestFacts {
  readonly arrivedMs: number;
  /** A generate call reached its handler. */
  generation: boolean;
  stream: boolean;
  /** The connection became a WebSocket. */
  upgraded: boolean;
  /** Prompts in the call. */
  prompts: number;
  /** Answers asked for to each of them. */
  choices: number;
  /** Adapter names as asked for; joined when there are several. */
  adapter: string | null;
  /** Whom the caller works for, as the caller says; for the log only. */
  user: string | null;
  servedBy: ServedBy | null;
  code: ErrorCode | null;
  results: readonly GenerationResult[];
}

declare module 'fastify' {
  interface FastifyRequest {
    facts: RequestFacts;
  }
}

export function newFacts(): RequestFacts {
  return {
    arrivedMs: performance.now(),
    generation: false,
    stream: false,
    upgraded: false,
    prompts: 0,
    choices: 1,
    adapter: null,
    user: null,
    servedBy: null,
    code: null,
    results: [],
  };
}

/** The route's pattern: never the address itself, which may hold names and queries. */
export function routeOf(request: FastifyRequest): string {
  return request.routeOptions.url ?? 'unknown';
}
