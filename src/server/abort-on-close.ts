import { setMaxListeners } from 'node:events';
import type { FastifyReply } from 'fastify';

/** Aborts when the connection closes; harmless after a complete reply. `listeners`: how many may wait for it. */
export function abortOnClose(reply: FastifyReply, listeners: number): AbortController {
  const controller = new AbortController();
  // One listener for each generation of a request is no leak.
  setMaxListeners(listeners, controller.signal);
  reply.raw.once('close', () => controller.abort());
  return controller;
}
