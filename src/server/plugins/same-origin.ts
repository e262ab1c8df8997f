import type { FastifyInstance } from 'fastify';
import { LoramuxError } from '../../core/errors.js';

/**
 * Refuses requests that a web page of another origin makes through its visitor's browser: a listener on loopback is
 * within reach of every page. Programs send no `Origin` and pass. ERR_FORBIDDEN otherwise.
 */
export function registerSameOrigin(app: FastifyInstance): void {
  app.addHook('onRequest', async ({ headers }) => {
    const { origin, host } = headers;
    if (origin === undefined || origin === `http://${host}` || origin === `https://${host}`) return;
    throw new LoramuxError(
      'ERR_FORBIDDEN',
      `expected no Origin header or this listener's own, got ${origin}: call the admin API from a program`,
    );
  });
}
