import { setMaxListeners } from 'node:events';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { LoramuxError } from '../core/errors.js';

/** Milliseconds from the request's arrival, after which nobody waits for the answer. */
const DEADLINE_HEADER = 'x-loramux-deadline-ms';
const MAX_DEADLINE_MS = 86_400_000;

/**
 * Aborts when the connection closes, or with ERR_DEADLINE when the request's deadline passes; harmless after a complete
 * reply. `listeners`: how many may wait for it. ERR_VALIDATION for a deadline that is none.
 */
export function abortOnClose(request: FastifyRequest, reply: FastifyReply, listeners: number): AbortController {
  const controller = new AbortController();
  // One listener for each generation of a request is no leak.
  setMaxListeners(listeners, controller.signal);
  const deadlineMs = deadlineOf(request);
  const timer =
    deadlineMs === null ? null : setTimeout(expire, deadlineMs - elapsedMs(request), controller, deadlineMs);
  reply.raw.once('close', () => {
    if (timer !== null) clearTimeout(timer);
    controller.abort();
  });
  return controller;
}

function elapsedMs({ facts }: FastifyRequest): number {
  return performance.now() - facts.arrivedMs;
}

function expire(controller: AbortController, deadlineMs: number): void {
  const message = `the request's deadline of ${deadlineMs} ms passed before the end: allow more time, or ask for less`;
  controller.abort(new LoramuxError('ERR_DEADLINE', message));
}

function deadlineOf({ headers }: FastifyRequest): number | null {
  const value = headers[DEADLINE_HEADER];
  if (value === undefined) return null;
  const deadlineMs = typeof value === 'string' && /^\d{1,8}$/.test(value) ? Number(value) : 0;
  if (deadlineMs >= 1 && deadlineMs <= MAX_DEADLINE_MS) return deadlineMs;
  const message = `the header ${DEADLINE_HEADER} must be a whole number from 1 to ${MAX_DEADLINE_MS}`;
  throw new LoramuxError('ERR_VALIDATION', message, { field: DEADLINE_HEADER });
}
